//! Requests to the API server, for the leases of one namespace.
//!
//! Each is sent once, and each operation takes six seconds at most. The token is read for each
//! request, because the kubelet replaces it. Failure: every error names the address and its cause,
//! with a hint, and never contains the token.

use std::{
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use hyper::{
    Method, Request,
    body::Bytes,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, USER_AGENT},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    NAME,
    wire::{Lease, LeasePage, LeaseVersion},
};
use crate::{
    clock::Clock,
    fleet::coordinator::CoordinatorError,
    net::{
        http_client::{HttpClient, HttpError, RequestLimits, Response, TlsOptions},
        kubernetes::{bearer, service_account_token},
        redact::Redactor,
        secret::SecretSource,
    },
};

/// Time after which an operation makes no further request: it takes six seconds at most.
const LAST_ATTEMPT_SECS: f64 = 4.0;

/// Time for one request.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);

/// Maximum size of a reply about one lease: annotations have 256 KiB together.
const LEASE_BYTES_MAX: usize = 1 << 20;

/// API of leases.
const LEASES: &str = "leases.coordination.k8s.io";

/// Source of the token with which an agent authenticates itself.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// None: the client certificate is enough.
    None,
    /// Secret that the configuration names.
    Secret(SecretSource),
    /// Directory of a pod's service account.
    ServiceAccount(PathBuf),
}

/// Client of the API server.
pub struct LeaseApi {
    /// URL of the API server, without a path.
    base: String,
    /// URL as it may be shown.
    address: String,
    namespace: String,
    tls: TlsOptions,
    token: TokenSource,
    /// Started with the operation.
    clock: Clock,
    /// Never started again.
    life: Clock,
    /// Time of the API server in its last reply, in seconds since 1970, and when that came.
    told: Option<(f64, f64)>,
}

/// Result of a request that depends on a version.
#[derive(Debug)]
pub enum LeaseOutcome<T> {
    /// It was carried out.
    Done(T),
    /// There is another version, or none.
    Changed,
}

/// Reason for which the API server did not do what was requested.
#[derive(Debug, PartialEq, Eq)]
enum LeaseRefusal {
    /// There is no such lease.
    Missing,
    /// There is another version.
    Conflict,
    /// The page is of a time that is no longer kept.
    Expired,
    /// It may later.
    Unavailable(String),
    /// It would not.
    Refused(String),
}

/// Failure of one request.
enum LeaseFailure {
    Refused(LeaseRefusal),
    Other(CoordinatorError),
}

/// Error of the API server.
#[derive(Deserialize)]
struct StatusObject {
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Option<StatusDetails>,
}

#[derive(Deserialize)]
struct StatusDetails {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
}

/// Request, as it is sent and as its refusal is explained.
struct LeaseRequest<'a> {
    method: Method,
    /// Verb of the right that it needs.
    verb: &'static str,
    /// Name of the lease; empty for all of them.
    name: &'a str,
    /// Query, with its question mark.
    query: String,
    body: Option<&'a Value>,
    bytes_max: usize,
}

impl LeaseApi {
    /// Creates a client of the API server at a URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the namespace is none.
    pub fn new(
        url: &str,
        namespace: &str,
        tls: TlsOptions,
        token: TokenSource,
    ) -> Result<Self, CoordinatorError> {
        // The name becomes part of a URL.
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=63).contains(&namespace.len()) || !namespace.chars().all(is_allowed) {
            let shown: String = namespace.chars().take(64).collect();
            let why = format!(
                "fleet.namespace is {shown:?}\n  \
                 hint: a namespace has 1 to 63 lowercase letters, digits and dashes"
            );
            return Err(CoordinatorError::Unusable { coordinator: NAME, why });
        }
        let base = url.trim_end_matches('/').to_owned();
        let address = Redactor::default().url(&base).line(&base);
        let (namespace, clock) = (namespace.to_owned(), Clock::start());
        Ok(Self { base, address, namespace, tls, token, clock, life: clock, told: None })
    }

    /// Begins an operation, whose requests have one deadline.
    pub fn begin(&mut self) {
        self.clock = Clock::start();
    }

    /// Address as it may be shown.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Earliest time that the API server's clock can show now, in seconds since 1970; `None` before
    /// its first reply.
    pub fn earliest_secs(&self) -> Option<f64> {
        let (told_secs, at) = self.told?;
        Some(told_secs + self.life.now() - at)
    }

    /// Time of the API server's last reply by its own clock, in seconds since 1970.
    pub fn told_secs(&self) -> f64 {
        self.told.map_or(f64::INFINITY, |(told_secs, _)| told_secs)
    }

    /// Reads a lease; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if that is unknown.
    pub fn get(&mut self, name: &str) -> Result<Option<Lease>, CoordinatorError> {
        let ask = LeaseRequest::of(Method::GET, "get", name);
        match self.send(&ask) {
            Ok(reply) => self.read(&reply.body).map(Some),
            Err(LeaseFailure::Refused(LeaseRefusal::Missing)) => Ok(None),
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// Writes a lease: a new one, or the next after the version `last`.
    ///
    /// # Errors
    ///
    /// Returns an error if it is unknown whether it was written.
    pub fn write(
        &mut self,
        name: &str,
        lease: &Value,
        last: Option<&LeaseVersion>,
    ) -> Result<LeaseOutcome<Lease>, CoordinatorError> {
        let ask = match last {
            Some(_) => {
                LeaseRequest { body: Some(lease), ..LeaseRequest::of(Method::PUT, "update", name) }
            }
            None => {
                LeaseRequest { body: Some(lease), ..LeaseRequest::of(Method::POST, "create", "") }
            }
        };
        self.changed(&ask).and_then(|outcome| match outcome {
            LeaseOutcome::Done(reply) => self.read(&reply.body).map(LeaseOutcome::Done),
            LeaseOutcome::Changed => Ok(LeaseOutcome::Changed),
        })
    }

    /// Deletes a version of a lease.
    ///
    /// # Errors
    ///
    /// Returns an error if it may still be there.
    pub fn delete(&mut self, version: &LeaseVersion) -> Result<LeaseOutcome<()>, CoordinatorError> {
        let options = version.delete_options();
        let ask = LeaseRequest {
            body: Some(&options),
            ..LeaseRequest::of(Method::DELETE, "delete", &version.name)
        };
        Ok(match self.changed(&ask)? {
            LeaseOutcome::Done(_) => LeaseOutcome::Done(()),
            LeaseOutcome::Changed => LeaseOutcome::Changed,
        })
    }

    /// Reads a page of all leases that a selector names: the first, or the one of a token. Returns
    /// it with its size. It is changed if the token has expired.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such page.
    pub fn page(
        &mut self,
        selector: &str,
        limit: usize,
        token: Option<&str>,
        bytes_max: usize,
    ) -> Result<LeaseOutcome<(LeasePage, usize)>, CoordinatorError> {
        let mut query = format!("?labelSelector={selector}&limit={limit}");
        if let Some(token) = token {
            query += &format!("&continue={}", percent_encoded(token));
        }
        let ask = LeaseRequest { query, bytes_max, ..LeaseRequest::of(Method::GET, "list", "") };
        Ok(match self.changed(&ask)? {
            LeaseOutcome::Done(reply) => {
                LeaseOutcome::Done((self.read(&reply.body)?, reply.body.len()))
            }
            LeaseOutcome::Changed => LeaseOutcome::Changed,
        })
    }

    /// Returns an error about a reply that was understood, and cannot be used.
    pub fn invalid(&self, why: &str) -> CoordinatorError {
        CoordinatorError::Invalid {
            coordinator: NAME,
            address: self.address.clone(),
            why: why.to_owned(),
        }
    }

    fn changed(
        &mut self,
        ask: &LeaseRequest<'_>,
    ) -> Result<LeaseOutcome<Response>, CoordinatorError> {
        match self.send(ask) {
            Ok(reply) => Ok(LeaseOutcome::Done(reply)),
            Err(LeaseFailure::Refused(
                LeaseRefusal::Missing | LeaseRefusal::Conflict | LeaseRefusal::Expired,
            )) => Ok(LeaseOutcome::Changed),
            Err(failure) => Err(self.error(failure)),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, CoordinatorError> {
        serde_json::from_slice(body).map_err(|error| {
            self.invalid(&format!(
                "{}\n  hint: the URL has to be that of a Kubernetes API server",
                Redactor::default().line(&error.to_string())
            ))
        })
    }

    fn send(&mut self, ask: &LeaseRequest<'_>) -> Result<Response, LeaseFailure> {
        let unusable =
            |why| LeaseFailure::Other(CoordinatorError::Unusable { coordinator: NAME, why });
        let address = self.address.clone();
        let unreachable = |why: &str| {
            let why = format!("{why}\n  hint: {}", self.hint_of_address());
            let address = address.clone();
            LeaseFailure::Other(CoordinatorError::Unreachable { coordinator: NAME, address, why })
        };
        if self.clock.now() >= LAST_ATTEMPT_SECS {
            return Err(unreachable("there was no time left"));
        }
        let (token, hidden) = self.token.read().map_err(unusable)?;
        let request = self.request(ask, token);
        let request = request.map_err(|error| unusable(error.to_string()))?;
        let limits = RequestLimits { timeout: REQUEST_WITHIN, body_bytes_max: ask.bytes_max };
        let reply = HttpClient::new(&self.tls).and_then(|client| client.send(request, limits));
        let reply = match reply {
            Ok(reply) => reply,
            Err(error @ (HttpError::File { .. } | HttpError::InvalidUrl)) => {
                return Err(unusable(error.to_string()));
            }
            Err(error @ HttpError::TooLarge(_)) => {
                let why = format!(
                    "{error}\n  hint: `kubectl -n {} get leases -l spillway.io/group` lists the \
                     leases; remove those of others",
                    self.namespace
                );
                return Err(LeaseFailure::Other(self.invalid(&why)));
            }
            Err(error) => return Err(unreachable(&hidden.mask_text(&error.to_string()))),
        };
        let refusal = refusal(&reply, ask, &self.namespace, &hidden);
        if let Some(refusal @ (LeaseRefusal::Unavailable(_) | LeaseRefusal::Refused(_))) = refusal {
            return Err(LeaseFailure::Refused(refusal));
        }
        let Some(date_secs) = date_secs(&reply) else {
            let why = "it has no valid Date header\n  \
                       hint: nodes compare their times by it; a proxy on the way has to keep it";
            return Err(LeaseFailure::Other(self.invalid(why)));
        };
        self.told = Some((date_secs, self.life.now()));
        refusal.map_or(Ok(reply), |refusal| Err(LeaseFailure::Refused(refusal)))
    }

    fn request(
        &self,
        ask: &LeaseRequest<'_>,
        token: Option<HeaderValue>,
    ) -> Result<Request<Bytes>, HttpError> {
        let (base, namespace) = (&self.base, &self.namespace);
        let slash = if ask.name.is_empty() { "" } else { "/" };
        let url = format!(
            "{base}/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases{slash}{}{}",
            ask.name, ask.query
        );
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(url)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("spillway/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let body = match ask.body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        request.body(body).map_err(|_| HttpError::InvalidUrl)
    }

    fn error(&self, failure: LeaseFailure) -> CoordinatorError {
        let (coordinator, address) = (NAME, self.address.clone());
        match failure {
            LeaseFailure::Other(error) => error,
            LeaseFailure::Refused(LeaseRefusal::Unavailable(why)) => {
                CoordinatorError::Unreachable { coordinator, address, why }
            }
            LeaseFailure::Refused(LeaseRefusal::Refused(why)) => {
                CoordinatorError::Refused { coordinator, address, why }
            }
            LeaseFailure::Refused(
                refusal @ (LeaseRefusal::Missing | LeaseRefusal::Conflict | LeaseRefusal::Expired),
            ) => {
                let why = format!("{refusal:?} is no reply to this request");
                CoordinatorError::Invalid { coordinator, address, why }
            }
        }
    }

    fn hint_of_address(&self) -> &'static str {
        match self.token {
            TokenSource::ServiceAccount(_) => {
                "the API server has to be reachable from this pod, and ca.crt in \
                 kubernetes.service_account_dir has to be its authority"
            }
            _ => {
                "fleet.urls has to name the API server, and fleet.ca_file its authority, such as \
                 ca.crt of a service account"
            }
        }
    }
}

impl<'a> LeaseRequest<'a> {
    fn of(method: Method, verb: &'static str, name: &'a str) -> Self {
        Self { method, verb, name, query: String::new(), body: None, bytes_max: LEASE_BYTES_MAX }
    }
}

impl TokenSource {
    /// Reads the token, as a header, with what masks it.
    fn read(&self) -> Result<(Option<HeaderValue>, Redactor), String> {
        match self {
            Self::None => Ok((None, Redactor::default())),
            Self::Secret(secret) => {
                let token = secret.read()?;
                let header = bearer(&token).map_err(|why| format!("{secret}: {why}"))?;
                Ok((Some(header), Redactor::default().secret(&token)))
            }
            Self::ServiceAccount(dir) => {
                let token = service_account_token(dir).map_err(|error| error.to_string());
                token.map(|(header, hidden)| (Some(header), hidden))
            }
        }
    }
}

/// Time in the `Date` header of a reply, in seconds since 1970.
fn date_secs(reply: &Response) -> Option<f64> {
    let date = httpdate::parse_http_date(reply.headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Returns why a reply is not what was requested; `None` if it is.
fn refusal(
    reply: &Response,
    ask: &LeaseRequest<'_>,
    namespace: &str,
    hidden: &Redactor,
) -> Option<LeaseRefusal> {
    let status = reply.status.as_u16();
    if matches!(status, 200..=202) {
        return None;
    }
    let said = serde_json::from_slice::<StatusObject>(&reply.body).ok();
    let said = said.filter(|said| said.kind == "Status");
    // What is not the API server's own says nothing about a lease.
    let (reason, is_lease) = said.as_ref().map_or(("", false), |said| {
        let is_kind =
            |details: &StatusDetails| details.kind == "leases" && !details.name.is_empty();
        (said.reason.as_str(), said.details.as_ref().is_some_and(is_kind))
    });
    let text = match &said {
        Some(said) if !said.message.is_empty() => hidden.line(&said.message),
        _ => hidden.line(&String::from_utf8_lossy(&reply.body)),
    };
    let why = match text.is_empty() {
        true => format!("HTTP {status}"),
        false => format!("HTTP {status}: {text}"),
    };
    let refused = |hint: &str| LeaseRefusal::Refused(format!("{why}\n  hint: {hint}"));
    Some(match status {
        404 if reason == "NotFound" && is_lease && !ask.name.is_empty() => LeaseRefusal::Missing,
        409 if matches!(reason, "Conflict" | "AlreadyExists") => LeaseRefusal::Conflict,
        410 if ask.verb == "list" && !reason.is_empty() => LeaseRefusal::Expired,
        401 => refused(
            "the token has to belong to this cluster and not be expired; it is in \
             fleet.password_file, or in kubernetes.service_account_dir",
        ),
        403 if text.contains("system:anonymous") => refused(
            "set fleet.password_file to a file with a token, or fleet.client_cert_file; the API \
             server knows no user by these",
        ),
        403 => refused(&format!(
            "bind the Role of configs/kubernetes/fleet.yaml to this agent in namespace \
             {namespace}: it needs the verb {:?} on {LEASES}",
            ask.verb
        )),
        404 => refused(&format!(
            "fleet.urls has to name a Kubernetes API server of version 1.14 or newer, with a \
             namespace {namespace}"
        )),
        429 | 500.. => LeaseRefusal::Unavailable(format!(
            "{why}\n  hint: see the log of the API server, and whether its etcd is up"
        )),
        _ => refused("see the log of the API server"),
    })
}

/// Writes a value of a query in the form of URLs.
fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let each = text.bytes().map(|byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, StatusCode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(status: u16, body: &[u8], ask: &LeaseRequest<'_>) -> Option<LeaseRefusal> {
        let (status, body) = (StatusCode::from_u16(status).unwrap(), Bytes::copy_from_slice(body));
        let reply = Response { status, headers: HeaderMap::new(), body };
        refusal(&reply, ask, "spillway", &Redactor::default())
    }

    fn status(code: u16, reason: &str, message: &str, name: &str) -> Vec<u8> {
        let details = json!({ "name": name, "group": "coordination.k8s.io", "kind": "leases" });
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "LeaseFailure", "reason": reason,
            "message": message, "details": details, "code": code,
        });
        status.to_string().into_bytes()
    }

    #[test]
    fn only_the_api_servers_own_word_says_that_a_lease_is_missing() {
        let get = LeaseRequest::of(Method::GET, "get", "a");
        let list = LeaseRequest::of(Method::GET, "list", "");
        assert_eq!(of(200, b"{}", &get), None);
        assert_eq!(of(404, &status(404, "NotFound", "x", "a"), &get), Some(LeaseRefusal::Missing));
        for body in [&b"404 page not found"[..], b"", b"{}", &status(404, "NotFound", "x", "")] {
            let refused = of(404, body, &get);
            assert!(matches!(refused, Some(LeaseRefusal::Refused(_))), "{refused:?}");
        }
        assert!(matches!(
            of(404, &status(404, "NotFound", "x", "a"), &list),
            Some(LeaseRefusal::Refused(_))
        ));
        for reason in ["Conflict", "AlreadyExists"] {
            assert_eq!(of(409, &status(409, reason, "x", "a"), &get), Some(LeaseRefusal::Conflict));
        }
        assert!(matches!(of(409, b"<html>", &get), Some(LeaseRefusal::Refused(_))));
        assert_eq!(of(410, &status(410, "Expired", "x", ""), &list), Some(LeaseRefusal::Expired));
        assert!(matches!(of(302, b"", &get), Some(LeaseRefusal::Refused(_))));
        for code in [429, 500, 503] {
            assert!(matches!(of(code, b"", &get), Some(LeaseRefusal::Unavailable(_))), "{code}");
        }
    }

    #[test]
    fn missing_right_is_named_with_the_role_that_has_it() {
        let message = "leases.coordination.k8s.io is forbidden: User \"system:serviceaccount:a:b\" \
                       cannot list resource \"leases\"";
        let list = LeaseRequest::of(Method::GET, "list", "");
        let Some(LeaseRefusal::Refused(why)) =
            of(403, &status(403, "Forbidden", message, ""), &list)
        else {
            panic!("it is forbidden")
        };
        assert!(why.starts_with(&format!("HTTP 403: {message}\n  hint: bind the Role")), "{why}");
        assert!(why.contains("in namespace spillway: it needs the verb \"list\""), "{why}");
        let anonymous = message.replace("system:serviceaccount:a:b", "system:anonymous");
        let Some(LeaseRefusal::Refused(why)) =
            of(403, &status(403, "Forbidden", &anonymous, ""), &list)
        else {
            panic!("it is forbidden")
        };
        assert!(why.contains("hint: set fleet.password_file"), "{why}");
    }

    #[test]
    fn tokens_of_pages_are_encoded() {
        assert_eq!(percent_encoded("aZ0-_.~+/=&\n"), "aZ0-_.~%2B%2F%3D%26%0A");
    }

    #[test]
    fn text_that_is_no_namespace_is_refused() {
        let tls = || TlsOptions { ca_file: None, client: None };
        let new = |text: &str| LeaseApi::new("https://api", text, tls(), TokenSource::None);
        assert!(new("team-1").is_ok());
        for text in ["", "A", "a/b", "a%2F", "a?b", &"a".repeat(64)] {
            let error = new(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("kubernetes cannot be used: fleet.namespace is "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_client_panic(
            status in 100..600_u16,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let refused = of(status, &body, &LeaseRequest::of(Method::PUT, "update", "a"));
            prop_assert!(refused.is_some() || (200..=202).contains(&status));
            prop_assert!(!matches!(refused, Some(LeaseRefusal::Missing | LeaseRefusal::Conflict)));
        }
    }
}
