//! Requests to etcd's JSON gateway, at the first of several endpoints that replies.
//!
//! An endpoint that does not reply, or has no leader, is passed over; the one that replied last is
//! tried first. Requests may arrive twice, so callers make only those whose repeats are harmless.
//! Failure: every error names the endpoint and its cause, with a hint, and never contains the
//! password or the token.

use std::time::Duration;

use hyper::{Request, body::Bytes};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{NAME, wire::TokenReply};
use crate::{
    clock::Clock,
    fleet::coordinator::CoordinatorError,
    net::{
        http_client::{HttpClient, HttpError, RequestLimits, Response, TlsOptions},
        redact::Redactor,
        secret::SecretSource,
    },
};

/// Time after which an operation makes no further request: it takes six seconds at most.
const LAST_ATTEMPT_SECS: f64 = 4.5;

/// Time for one request at one endpoint, so that a silent one leaves time for another. etcd itself
/// waits longer for a majority. Always the same, and below that for a connect, so that errors are
/// the same as well.
const ATTEMPT_WITHIN: Duration = Duration::from_millis(1_500);

/// Maximum size of a reply without a list of keys.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Maximum size of a reply whose status is 200 and that may be an error: one of a stream.
const FAULT_BYTES_MAX: usize = 4 << 10;

/// Oldest version whose gateway has the paths that are used.
const OLDEST: (u32, u32) = (3, 4);

/// Codes of gRPC that are told apart.
mod code {
    pub const DEADLINE_EXCEEDED: i64 = 4;
    pub const PERMISSION_DENIED: i64 = 7;
    pub const RESOURCE_EXHAUSTED: i64 = 8;
    pub const UNAVAILABLE: i64 = 14;
    pub const UNAUTHENTICATED: i64 = 16;
}

/// Client of the gateway.
pub struct Gateway {
    endpoints: Vec<String>,
    tls: TlsOptions,
    credentials: Option<(String, SecretSource)>,
    token: Option<String>,
    /// Index of the endpoint that is tried first.
    first: usize,
    /// Started with the operation.
    clock: Clock,
}

/// Failure of one request.
enum SendError {
    /// The token is no longer valid.
    Token(CoordinatorError),
    /// Another failure.
    Other(CoordinatorError),
}

/// Reason for which an endpoint did not do what was requested.
#[derive(Debug, PartialEq, Eq)]
enum Rejection {
    /// Another endpoint may.
    Unavailable(String),
    /// The token is no longer valid.
    Token(String),
    /// There is no such path.
    NoGateway,
    /// No endpoint would.
    Refused(String),
}

/// Error of the gateway: flat, or nested for a stream.
#[derive(Deserialize)]
struct GatewayFault {
    error: FaultText,
    #[serde(default)]
    code: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FaultText {
    Flat(String),
    Nested {
        #[serde(default)]
        grpc_code: i64,
        message: String,
    },
}

#[derive(Deserialize)]
struct EtcdVersion {
    etcdserver: String,
}

impl Gateway {
    /// Creates a client of these endpoints, which are not empty.
    pub fn new(
        endpoints: &[String],
        tls: TlsOptions,
        credentials: Option<(String, SecretSource)>,
    ) -> Self {
        let endpoints =
            endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect();
        Self { endpoints, tls, credentials, token: None, first: 0, clock: Clock::start() }
    }

    /// Begins an operation, whose requests have one deadline.
    pub fn begin(&mut self) {
        self.clock = Clock::start();
    }

    /// Sends a request, and reads a short reply.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such reply.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        path: &str,
        request: &Value,
    ) -> Result<T, CoordinatorError> {
        let body = self.fetch(path, request, REPLY_BYTES_MAX)?;
        self.read(&body)
    }

    /// Sends a request, and returns the reply.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or it is an error of etcd.
    pub fn fetch(
        &mut self,
        path: &str,
        request: &Value,
        bytes_max: usize,
    ) -> Result<Bytes, CoordinatorError> {
        let needs_token = self.credentials.is_some();
        if needs_token && self.token.is_none() {
            self.authenticate()?;
        }
        let hidden = self.hidden();
        let result = match self.send(path, request, bytes_max, &hidden) {
            Err(SendError::Token(_)) if needs_token => {
                self.authenticate()?;
                let hidden = self.hidden();
                self.send(path, request, bytes_max, &hidden)
            }
            result => result,
        };
        result.map_err(SendError::into_error)
    }

    /// Reads a reply.
    ///
    /// # Errors
    ///
    /// Returns an error if it is another one.
    pub fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, CoordinatorError> {
        serde_json::from_slice(body).map_err(|error| CoordinatorError::Invalid {
            coordinator: NAME,
            address: self.address(),
            why: format!(
                "{}\n  hint: the endpoint has to be a client URL of etcd, such as \
                 https://etcd-1:2379",
                self.hidden().line(&error.to_string())
            ),
        })
    }

    /// Endpoint that replied last, as it may be shown.
    pub fn address(&self) -> String {
        shown(&self.endpoints[self.first])
    }

    fn authenticate(&mut self) -> Result<(), CoordinatorError> {
        let Some((user, password)) = &self.credentials else { return Ok(()) };
        let unusable = |why| CoordinatorError::Unusable { coordinator: NAME, why };
        let password = password.read().map_err(unusable)?;
        let hidden = Redactor::default().secret(&password);
        let request = json!({ "name": user, "password": password });
        self.token = None;
        let reply = self.send("auth/authenticate", &request, REPLY_BYTES_MAX, &hidden);
        let reply = reply.map_err(SendError::into_error)?;
        let TokenReply { token } = self.read(&reply)?;
        self.token = Some(token);
        Ok(())
    }

    /// Masks the token.
    fn hidden(&self) -> Redactor {
        self.token.iter().fold(Redactor::default(), |hidden, token| hidden.secret(token))
    }

    /// Sends a request to one endpoint after the other, until one replies.
    fn send(
        &mut self,
        path: &str,
        request: &Value,
        bytes_max: usize,
        hidden: &Redactor,
    ) -> Result<Bytes, SendError> {
        let coordinator = NAME;
        let mut headers = vec![("content-type", "application/json".to_owned())];
        headers.extend(self.token.clone().map(|token| ("authorization", token)));
        let request = Bytes::from(request.to_string());
        let mut failed = Vec::new();
        for at in (0..self.endpoints.len()).map(|nth| (self.first + nth) % self.endpoints.len()) {
            let (endpoint, address) = (&self.endpoints[at], shown(&self.endpoints[at]));
            if self.clock.now() >= LAST_ATTEMPT_SECS {
                break;
            }
            let limits = RequestLimits { timeout: ATTEMPT_WITHIN, body_bytes_max: bytes_max };
            let url = format!("{endpoint}/v3/{path}");
            let reply = HttpClient::new(&self.tls)
                .and_then(|client| client.post(&url, &headers, request.clone(), limits));
            let reply = match reply {
                Ok(reply) => reply,
                Err(error @ (HttpError::File { .. } | HttpError::InvalidUrl)) => {
                    let why = error.to_string();
                    return Err(CoordinatorError::Unusable { coordinator, why }.into());
                }
                Err(error @ HttpError::TooLarge(_)) => {
                    let why = format!(
                        "{error}\n  hint: `etcdctl get --prefix --keys-only /spillway/v1/` lists \
                         the keys; remove those of others"
                    );
                    return Err(CoordinatorError::Invalid { coordinator, address, why }.into());
                }
                Err(error) => {
                    failed.push((at, hidden.mask_text(&error.to_string())));
                    continue;
                }
            };
            let refused = |why| CoordinatorError::Refused { coordinator, address, why };
            let result = match rejection(&reply, hidden) {
                Some(Rejection::Unavailable(why)) => {
                    failed.push((at, why));
                    continue;
                }
                None => Ok(reply.body),
                Some(Rejection::Token(why)) => Err(SendError::Token(refused(why))),
                Some(Rejection::Refused(why)) => Err(refused(why).into()),
                Some(Rejection::NoGateway) => {
                    Err(refused(self.why_missing(endpoint, hidden)).into())
                }
            };
            self.first = at;
            return result;
        }
        // Those that there was no time for are next.
        self.first = (self.first + failed.len()) % self.endpoints.len();
        failed.sort();
        Err(self.unreachable(&failed).into())
    }

    /// Returns the error if no endpoint did what was requested: why each of these did not.
    fn unreachable(&self, failed: &[(usize, String)]) -> CoordinatorError {
        let addresses: Vec<_> = self.endpoints.iter().map(|endpoint| shown(endpoint)).collect();
        let reasons = match failed {
            [] => "there was no time left".to_owned(),
            [(_, why), others @ ..] if others.iter().all(|(_, other)| other == why) => why.clone(),
            _ => {
                let reasons = failed.iter().map(|(at, why)| format!("{}: {why}", addresses[*at]));
                reasons.collect::<Vec<_>>().join("; ")
            }
        };
        CoordinatorError::Unreachable {
            coordinator: NAME,
            address: addresses.join(", "),
            why: format!(
                "{reasons}\n  hint: more than half of etcd's members have to be up, and one of the \
                 endpoints has to be reachable from here"
            ),
        }
    }

    /// Returns why an endpoint lacks a path, judged by the version that it states.
    fn why_missing(&self, endpoint: &str, hidden: &Redactor) -> String {
        let request = Request::get(format!("{endpoint}/version")).body(Bytes::new());
        let Ok(request) = request else { return without_gateway(None) };
        let limits = RequestLimits { timeout: ATTEMPT_WITHIN, body_bytes_max: REPLY_BYTES_MAX };
        let reply = HttpClient::new(&self.tls).and_then(|client| client.send(request, limits));
        let version = reply
            .ok()
            .and_then(|reply| serde_json::from_slice::<EtcdVersion>(&reply.body).ok())
            .map(|version| hidden.line(&version.etcdserver));
        without_gateway(version.as_deref())
    }
}

impl SendError {
    fn into_error(self) -> CoordinatorError {
        match self {
            Self::Token(error) | Self::Other(error) => error,
        }
    }
}

impl From<CoordinatorError> for SendError {
    fn from(error: CoordinatorError) -> Self {
        Self::Other(error)
    }
}

/// Returns an endpoint as it may be shown.
fn shown(endpoint: &str) -> String {
    Redactor::default().url(endpoint).line(endpoint)
}

/// Returns why a reply is not what was requested; `None` if it is.
fn rejection(reply: &Response, hidden: &Redactor) -> Option<Rejection> {
    let (status, body) = (reply.status.as_u16(), &reply.body);
    if status == 200 && body.len() > FAULT_BYTES_MAX {
        return None;
    }
    let fault = serde_json::from_slice::<GatewayFault>(body).ok();
    let Some(GatewayFault { error, code }) = fault else {
        let text = String::from_utf8_lossy(body);
        let said = || format!("HTTP {status}: {}", hidden.line(&text));
        return match status {
            200 => None,
            404 => Some(Rejection::NoGateway),
            500.. => Some(Rejection::Unavailable(said())),
            _ => Some(Rejection::Refused(said())),
        };
    };
    let (code, message) = match error {
        FaultText::Flat(message) => (code, message),
        FaultText::Nested { grpc_code, message } => (grpc_code, message),
    };
    let why = hidden.line(&message);
    Some(match code {
        code::UNAVAILABLE | code::DEADLINE_EXCEEDED => Rejection::Unavailable(why),
        code::UNAUTHENTICATED => Rejection::Token(hinted(code, why)),
        // The rights of users were changed after the token was made.
        _ if message.contains("auth store is old") => Rejection::Token(why),
        // A newer gateway without the path.
        _ if message == "Not Found" => Rejection::NoGateway,
        _ => Rejection::Refused(hinted(code, why)),
    })
}

/// Adds a hint to an error of etcd.
fn hinted(code: i64, why: String) -> String {
    let hint = match code {
        code::PERMISSION_DENIED => {
            "the user needs a role with `etcdctl role grant-permission ROLE readwrite \
             --prefix=true /spillway/v1/`"
        }
        code::RESOURCE_EXHAUSTED => "see `etcdctl alarm list`, compact and defragment",
        code::UNAUTHENTICATED => "the user and the password file have to be those of etcd",
        _ if why.contains("user name is empty") => {
            "this etcd wants a user: set one, and a file with the password"
        }
        _ if why.contains("authentication is not enabled") => {
            "this etcd has no users: remove the user and the password file, or run `etcdctl auth \
             enable`"
        }
        _ if why.contains("authentication failed") => {
            "the user and the password file have to be those of etcd"
        }
        _ => "see the log of etcd",
    };
    format!("{why}\n  hint: {hint}")
}

/// Returns why there is no gateway at an endpoint that states this version of etcd.
fn without_gateway(version: Option<&str>) -> String {
    let Some(version) = version else {
        return "HTTP 404\n  hint: the endpoint has to be a client URL of etcd, such as \
                https://etcd-1:2379"
            .to_owned();
    };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match numbers.next().zip(numbers.next()) {
        Some(found) if found < OLDEST => format!(
            "etcd {version} is not supported: it has an older API\n  hint: use etcd {}.{} or newer",
            OLDEST.0, OLDEST.1
        ),
        _ => format!(
            "the JSON gateway of etcd {version} is disabled\n  hint: start etcd with \
             --enable-grpc-gateway=true, which is the default"
        ),
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn of(status: u16, body: &[u8]) -> Option<Rejection> {
        let (status, body) = (StatusCode::from_u16(status).unwrap(), Bytes::copy_from_slice(body));
        rejection(&Response { status, headers: HeaderMap::new(), body }, &Redactor::default())
    }

    #[test]
    fn errors_of_the_gateway_are_told_apart() {
        let kind = |status, body: &str| match of(status, body.as_bytes()) {
            None => "none",
            Some(Rejection::Unavailable(_)) => "unavailable",
            Some(Rejection::Token(_)) => "token",
            Some(Rejection::NoGateway) => "no gateway",
            Some(Rejection::Refused(_)) => "refused",
        };
        let no_leader = r#"{"error":"etcdserver: no leader","message":"","code":14}"#;
        let of_stream = r#"{"error":{"grpc_code":14,"http_code":503,"message":"no leader"}}"#;
        let lease = r#"{"error":"etcdserver: requested lease not found","code":5}"#;
        let old = r#"{"error":"etcdserver: revision of auth store is old","code":3}"#;
        for (status, body, expected) in [
            (200, "{}", "none"),
            (503, no_leader, "unavailable"),
            (200, of_stream, "unavailable"),
            (502, "<html>", "unavailable"),
            (401, r#"{"error":"etcdserver: invalid auth token","code":16}"#, "token"),
            (400, old, "token"),
            (404, "404 page not found", "no gateway"),
            (404, lease, "refused"),
            (403, r#"{"error":"etcdserver: permission denied","code":7}"#, "refused"),
            (400, "", "refused"),
        ] {
            assert_eq!(kind(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn missing_gateway_is_told_from_an_old_etcd_and_from_none() {
        let disabled = without_gateway(Some("3.4.23"));
        assert!(
            disabled.starts_with("the JSON gateway of etcd 3.4.23 is disabled\n"),
            "{disabled}"
        );
        assert!(disabled.contains("--enable-grpc-gateway"), "{disabled}");
        let old = without_gateway(Some("3.3.25"));
        assert_eq!(
            old,
            "etcd 3.3.25 is not supported: it has an older API\n  hint: use etcd 3.4 or newer"
        );
        assert!(without_gateway(None).starts_with("HTTP 404\n  hint: "));
        assert!(without_gateway(Some("garbage")).contains("is disabled"));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_gateway_panic(
            status in 100..600_u16,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(status == 200 || of(status, &body).is_some());
            let _ = without_gateway(Some(&String::from_utf8_lossy(&body)));
        }
    }
}
