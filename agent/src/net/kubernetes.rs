//! Client of the Kubernetes API, from a pod of the cluster.
//!
//! It reads only the labels of this node's pods, which no file of the node has. The request is
//! limited to the node and to metadata, and answered from the API server's cache instead of etcd:
//! lists of a whole cluster are how agents have brought API servers down. Both the token and the
//! certificates are replaced while a pod runs: the token is read for each request, and the
//! certificates are checked for changes. Failure: every error names its cause and a hint, and never
//! contains the token.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, USER_AGENT},
};
use serde::Deserialize;

use crate::{
    net::{
        http_client::{self, HttpClient, RequestLimits, Response, TlsOptions, authority},
        redact::Redactor,
    },
    os::trusted::{self, FileRules, PathRules},
};

/// Variables of the API's address, which the kubelet sets, and of the node's name, which the
/// pod's manifest sets.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
const NODE: &str = "NODE_NAME";

/// Timeout of a request. An API server sends such a list within milliseconds. An order to limit is
/// reported as slow after five seconds, so the labels have to be there before.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum size of a list. A node has 110 pods, or some hundreds, with some KiB of metadata each;
/// an API server that cannot send metadata alone sends some ten KiB each.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a token. Most have about 1 KiB.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Accepted formats: metadata alone, from Kubernetes 1.15; complete pods before.
const ACCEPTED: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json";

/// Annotation of a static pod's mirror with the uid that the kubelet uses for the pod. The mirror
/// itself has another uid.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Kubernetes API of this node's cluster.
#[derive(Debug, Clone)]
pub struct Api {
    /// `host:port`.
    authority: String,
    node: String,
    service_account_dir: PathBuf,
}

/// Pod, as the API reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Uid.
    pub uid: String,
    /// Uid that the kubelet uses, if it differs, as for a static pod: the API has only its mirror.
    pub kubelet_uid: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Error of a request to the API.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// A variable with the API's address or the node's name is missing or invalid.
    #[error("{variable} is {what}\n  hint: {hint}")]
    Environment {
        /// Name of the variable.
        variable: &'static str,
        /// Problem.
        what: String,
        /// Hint.
        hint: &'static str,
    },
    /// The token cannot be used.
    #[error(
        "{}: {why}\n  \
         hint: Kubernetes mounts the token of the pod's service account there, unless \
         automountServiceAccountToken is false",
        path.display()
    )]
    Token {
        /// Path of the file.
        path: PathBuf,
        /// Problem.
        why: String,
    },
    /// The request failed without a complete response.
    #[error(
        "the Kubernetes API at {authority}: {error}\n  \
         hint: {HOST} and {PORT} have to be reachable from here, and ca.crt in \
         kubernetes.service_account_dir has to be its authority"
    )]
    Https {
        /// Address of the API.
        authority: String,
        /// Cause.
        error: http_client::HttpError,
    },
    /// The API refused the token, does not allow the agent to list pods, or is unavailable.
    #[error(
        "the Kubernetes API at {authority} returned {status}{message}\n  hint: {}",
        hint_of(*status)
    )]
    Status {
        /// Address of the API.
        authority: String,
        /// Status code.
        status: StatusCode,
        /// Message of the API, after a colon.
        message: String,
    },
    /// The response is not a list of pods.
    #[error(
        "the Kubernetes API at {authority} returned no list of pods: {why}\n  \
         hint: check that {HOST} and {PORT} name the API server"
    )]
    Invalid {
        /// Address of the API.
        authority: String,
        /// Problem.
        why: String,
    },
}

/// Fields of a list that are read.
#[derive(Deserialize)]
struct List {
    kind: String,
    items: Vec<PodItem>,
}

#[derive(Deserialize)]
struct PodItem {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    uid: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// `Status` object, which the API returns on errors.
#[derive(Deserialize)]
struct ApiStatus {
    message: String,
}

impl Api {
    /// Creates a client for the API that the environment names.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable that is missing or invalid.
    pub fn from_env(service_account_dir: PathBuf) -> Result<Self, KubernetesError> {
        let (host, port) =
            address("every pod has it; elsewhere set it, and kubernetes.service_account_dir")?;
        let downward = "in a pod's manifest take it from spec.nodeName by a fieldRef";
        Self::new(&host, port, variable(NODE, downward)?, service_account_dir)
    }

    /// Creates a client for the API at this address and the pods of `node`.
    ///
    /// # Errors
    ///
    /// Returns an error if `node` is not a valid name.
    pub fn new(
        host: &str,
        port: u16,
        node: String,
        service_account_dir: PathBuf,
    ) -> Result<Self, KubernetesError> {
        // The name becomes part of a URL.
        let is_name =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if node.is_empty() || !node.chars().all(is_name) {
            let hint = "a node's name has lowercase letters, digits, dashes and dots";
            return Err(invalid(NODE, format!("{node:?}, not a node's name"), hint));
        }
        Ok(Self { authority: authority(host, port), node, service_account_dir })
    }

    /// Returns the name of this node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Lists the pods of this node. Blocks for at most three seconds.
    ///
    /// # Errors
    ///
    /// Returns an error if the API cannot be reached or returns no list of pods.
    pub fn pods(&self) -> Result<Vec<Pod>, KubernetesError> {
        let path =
            format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&resourceVersion=0", self.node);
        let (response, redactor) = self.get(&path)?;
        if response.status != StatusCode::OK {
            let message = serde_json::from_slice::<ApiStatus>(&response.body)
                .map(|status| format!(": {}", redactor.line(&status.message)));
            let message = message.unwrap_or_default();
            return Err(KubernetesError::Status {
                authority: self.authority.clone(),
                status: response.status,
                message,
            });
        }
        let invalid = |why: String| KubernetesError::Invalid {
            authority: self.authority.clone(),
            why: redactor.line(&why),
        };
        parse_pods(&response.body).map_err(invalid)
    }

    /// Sends a GET request. The redactor masks the token in texts of the response.
    fn get(&self, path: &str) -> Result<(Response, Redactor), KubernetesError> {
        let failed = |error| KubernetesError::Https { authority: self.authority.clone(), error };
        let ca_file = self.service_account_dir.join("ca.crt");
        let client = HttpClient::new(&TlsOptions { ca_file: Some(ca_file), client: None })
            .map_err(failed)?;
        let (token, redactor) = service_account_token(&self.service_account_dir)?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("https://{}{path}", self.authority))
            .header(AUTHORIZATION, token)
            .header(ACCEPT, ACCEPTED)
            .header(USER_AGENT, concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .map_err(|_| failed(http_client::HttpError::InvalidUrl))?;
        let response = client
            .send(request, RequestLimits { timeout: TIMEOUT, body_bytes_max: BODY_BYTES_MAX });
        Ok((response.map_err(failed)?, redactor))
    }
}

/// Returns the host and the port of the API that the environment of a pod names.
///
/// # Errors
///
/// Returns an error that names the variable that is missing or invalid, with this hint.
pub(crate) fn address(hint: &'static str) -> Result<(String, u16), KubernetesError> {
    let host = variable(HOST, hint)?;
    let port = variable(PORT, hint)?;
    let port = port.parse().map_err(|_| invalid(PORT, format!("{port:?}, not a port"), hint))?;
    Ok((host, port))
}

/// Reads the token in the directory of a service account, as a header, with what masks it.
///
/// # Errors
///
/// Returns an error that names the file if it has no token.
pub(crate) fn service_account_token(
    dir: &Path,
) -> Result<(HeaderValue, Redactor), KubernetesError> {
    let path = dir.join("token");
    let token = service_account_file(&path)
        .and_then(|token| Ok((bearer(&token)?, Redactor::default().secret(&token))));
    token.map_err(|why| KubernetesError::Token { path, why })
}

/// Reads a file in the directory of a service account.
///
/// # Errors
///
/// Returns an error, without the file's name, if it is missing, not protected, empty or not UTF-8.
pub(crate) fn service_account_file(path: &Path) -> Result<String, String> {
    let text = trusted::read(path, PathRules::NAMED, FileRules::public(TOKEN_BYTES_MAX));
    let text = text.map_err(|error| trusted::reason(&error, path))?;
    let text = String::from_utf8(text).map_err(|_| "not UTF-8 text".to_owned())?;
    match text.trim() {
        "" => Err("the file is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Returns the header with a token.
///
/// # Errors
///
/// Returns an error if a header cannot contain it.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "it has characters that are invalid in an HTTP header".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

/// Parses a list of pods.
pub(crate) fn parse_pods(body: &[u8]) -> Result<Vec<Pod>, String> {
    let list: List = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !matches!(list.kind.as_str(), "PodList" | "PartialObjectMetadataList") {
        return Err(format!("kind is {:?}, not PodList", list.kind));
    }
    Ok(list.items.into_iter().map(|item| item.metadata.into()).collect())
}

impl Pod {
    /// Returns whether the API or the kubelet knows the pod by this uid.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.uid == uid || self.kubelet_uid.as_deref() == Some(uid)
    }
}

impl From<Metadata> for Pod {
    fn from(metadata: Metadata) -> Self {
        let kubelet_uid =
            metadata.annotations.and_then(|mut annotations| annotations.remove(MIRROR));
        Self { uid: metadata.uid, kubelet_uid, labels: metadata.labels.unwrap_or_default() }
    }
}

fn variable(name: &'static str, hint: &'static str) -> Result<String, KubernetesError> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| invalid(name, "not set".to_owned(), hint))
}

fn invalid(variable: &'static str, what: String, hint: &'static str) -> KubernetesError {
    KubernetesError::Environment { variable, what, hint }
}

fn hint_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "the token in kubernetes.service_account_dir has to belong to this cluster and not be \
             expired"
        }
        StatusCode::FORBIDDEN => {
            "bind a ClusterRole that lists pods to the agent's service account"
        }
        _ => "see the log of the API server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_name_that_is_invalid_in_a_url_is_refused() {
        let of = |node: &str| Api::new("10.0.0.1", 443, node.to_owned(), PathBuf::new());
        assert_eq!(of("node-1.internal").unwrap().node(), "node-1.internal");
        for node in ["", "a&watch=true", "a b", "Node", "a/b", "a%2Cb"] {
            let error = of(node).unwrap_err().to_string();
            assert!(error.starts_with("NODE_NAME is ") && error.contains("\n  hint: "), "{error}");
        }
    }
}
