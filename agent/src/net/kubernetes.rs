//! The Kubernetes API, as a pod of the cluster sees it: where it is, who asks, and what it is
//! asked.
//!
//! Only what no file of the node tells is asked, which is the labels of its pods, and only of this
//! node, without what else there is about them, and from the API server's memory rather than its
//! database: lists of a whole cluster are how agents have brought API servers down. The token and
//! the certificates are read at each question, because they are replaced while a pod runs. Failure:
//! every cause is told with what to do about it, and never with the token.

use std::{collections::BTreeMap, env, path::PathBuf, time::Duration};

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

/// What the kubelet tells every pod, and what a pod has to be told.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
const NODE: &str = "NODE_NAME";

/// An API server answers such a list within milliseconds. What is late is told after five seconds,
/// and a limit is to be set by then.
const WITHIN: Duration = Duration::from_secs(3);

/// A pod's metadata has some kilobytes and a node 110 pods, or some hundreds. An API server that
/// does not know how to leave out the rest gives some ten kilobytes each.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Largest token; one has about a kilobyte.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Metadata alone, which every API server since 1.15 gives; else all there is.
const ACCEPTED: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json";

/// The hash by which the kubelet knows a pod that it has from a file; the API knows it by another
/// uid.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The API of the cluster that this node belongs to.
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
    /// The one by which the kubelet knows it, where that is another: of a pod from a file the API
    /// has but the likeness.
    pub mirrored: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why the API does not tell.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Where it is, or which node this is, nobody has said.
    #[error("{variable} is {what}\n  hint: {hint}")]
    Environment {
        /// The variable that should say it.
        variable: &'static str,
        /// Problem.
        what: String,
        /// Hint.
        hint: &'static str,
    },
    /// There is no token that could be sent.
    #[error("{}: {why}\n  hint: a pod has it from its service account, unless \
    automountServiceAccountToken is false", path.display())]
    Token {
        /// Path of the file.
        path: PathBuf,
        /// Problem.
        why: String,
    },
    /// There is no answer.
    #[error(
        "the Kubernetes API at {authority}: {error}\n  \
         hint: {HOST} and {PORT} have to lead to it from here, and ca.crt in \
         kubernetes.service_account_dir to have signed its certificate"
    )]
    Https {
        /// Address of the API.
        authority: String,
        /// Cause.
        error: http_client::HttpError,
    },
    /// It does not take the token, or does not let its owner list pods, or is not well.
    #[error("the Kubernetes API at {authority} answered {status}{message}\n  hint: \
    {}", hint_of(*status))]
    Status {
        /// Address of the API.
        authority: String,
        /// Status code.
        status: StatusCode,
        /// Message of the API, after a colon.
        message: String,
    },
    /// It answered something else.
    #[error(
        "the Kubernetes API at {authority} answered no list of pods: {why}\n  \
         hint: something else may answer at {HOST} and {PORT}"
    )]
    Garbage {
        /// Address of the API.
        authority: String,
        /// Problem.
        why: String,
    },
}

/// Parts of a list that are read.
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

/// Error reply of the API.
#[derive(Deserialize)]
struct ApiStatus {
    message: String,
}

impl Api {
    /// The one that this process's environment names.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable that is missing or invalid.
    pub fn from_env(service_account_dir: PathBuf) -> Result<Self, KubernetesError> {
        const IN_A_POD: &str =
            "every pod has it; elsewhere set it, and kubernetes.service_account_dir";
        let host = variable(HOST, IN_A_POD)?;
        let port = variable(PORT, IN_A_POD)?;
        let port = port
            .parse()
            .map_err(|_| wrong(PORT, format!("{port:?}, which is no port"), IN_A_POD))?;
        let downward = "in a pod's manifest take it from spec.nodeName by a fieldRef";
        Self::new(&host, port, variable(NODE, downward)?, service_account_dir)
    }

    /// One at this address, seen from a node.
    ///
    /// # Errors
    ///
    /// Returns an error if no node can have such a name.
    pub fn new(
        host: &str,
        port: u16,
        node: String,
        service_account_dir: PathBuf,
    ) -> Result<Self, KubernetesError> {
        // It becomes part of an address.
        let is_name =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if node.is_empty() || !node.chars().all(is_name) {
            let hint = "a node's name has lowercase letters, digits, dashes and dots";
            return Err(wrong(NODE, format!("{node:?}, which no node is called"), hint));
        }
        Ok(Self { authority: authority(host, port), node, service_account_dir })
    }

    /// The node that this is.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The pods of this node. Blocks for at most three seconds: not for the daemon's loop.
    ///
    /// # Errors
    ///
    /// Returns an error if they are not known.
    pub fn pods(&self) -> Result<Vec<Pod>, KubernetesError> {
        let path =
            format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}&resourceVersion=0", self.node);
        let (answer, hidden) = self.get(&path)?;
        let harmless = |text: &str| harmless(&hidden.mask_text(text));
        if answer.status != StatusCode::OK {
            let said = serde_json::from_slice::<ApiStatus>(&answer.body)
                .map(|status| format!(": {}", harmless(&status.message)));
            let message = said.unwrap_or_default();
            return Err(KubernetesError::Status {
                authority: self.authority.clone(),
                status: answer.status,
                message,
            });
        }
        let garbage = |why: String| KubernetesError::Garbage {
            authority: self.authority.clone(),
            why: harmless(&why),
        };
        parse_pods(&answer.body).map_err(garbage)
    }

    /// An answer, and what must not be told of it.
    fn get(&self, path: &str) -> Result<(Response, Redactor), KubernetesError> {
        let failed = |error| KubernetesError::Https { authority: self.authority.clone(), error };
        let ca_file = self.service_account_dir.join("ca.crt");
        let client = HttpClient::new(&TlsOptions { ca_file: Some(ca_file), client: None })
            .map_err(failed)?;
        let (token, hidden) = self.token()?;
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("https://{}{path}", self.authority))
            .header(AUTHORIZATION, token)
            .header(ACCEPT, ACCEPTED)
            .header(USER_AGENT, concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .body(Bytes::new())
            .map_err(|_| failed(http_client::HttpError::Address))?;
        let answer =
            client.send(request, RequestLimits { within: WITHIN, body_bytes_max: BODY_BYTES_MAX });
        Ok((answer.map_err(failed)?, hidden))
    }

    fn token(&self) -> Result<(HeaderValue, Redactor), KubernetesError> {
        let path = self.service_account_dir.join("token");
        let unusable = |why: String| KubernetesError::Token { path: path.clone(), why };
        let rules = FileRules::public(TOKEN_BYTES_MAX);
        let token = trusted::read(&path, PathRules::NAMED, rules);
        let token = token.map_err(|error| unusable(trusted::reason(&error, &path)))?;
        let token = String::from_utf8(token).map_err(|_| unusable("is not text".to_owned()))?;
        if token.trim().is_empty() {
            return Err(unusable("is empty".to_owned()));
        }
        let mut header =
            HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
                unusable("is no token: it has characters that no header may have".to_owned())
            })?;
        header.set_sensitive(true);
        Ok((header, Redactor::default().secret(&token)))
    }
}

/// Pods in what the API answers.
pub(crate) fn parse_pods(body: &[u8]) -> Result<Vec<Pod>, String> {
    let list: List = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !matches!(list.kind.as_str(), "PodList" | "PartialObjectMetadataList") {
        return Err(format!("its kind is {:?}", list.kind));
    }
    Ok(list.items.into_iter().map(|item| item.metadata.into()).collect())
}

impl Pod {
    /// Whether the kubelet knows it by this uid.
    pub fn is(&self, uid: &str) -> bool {
        self.uid == uid || self.mirrored.as_deref() == Some(uid)
    }
}

impl From<Metadata> for Pod {
    fn from(metadata: Metadata) -> Self {
        let mirrored = metadata.annotations.and_then(|mut annotations| annotations.remove(MIRROR));
        Self { uid: metadata.uid, mirrored, labels: metadata.labels.unwrap_or_default() }
    }
}

fn variable(name: &'static str, hint: &'static str) -> Result<String, KubernetesError> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| wrong(name, "not set".to_owned(), hint))
}

fn wrong(variable: &'static str, what: String, hint: &'static str) -> KubernetesError {
    KubernetesError::Environment { variable, what, hint }
}

fn hint_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "the token in kubernetes.service_account_dir has to be one of this cluster, and not \
             expired"
        }
        StatusCode::FORBIDDEN => "a ClusterRole has to let the agent's service account list pods",
        _ => "the API server may say more in its log",
    }
}

/// What others say, on one line that is not endless.
fn harmless(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_node_can_be_called_goes_into_an_address() {
        let of = |node: &str| Api::new("10.0.0.1", 443, node.to_owned(), PathBuf::new());
        assert_eq!(of("node-1.internal").unwrap().node(), "node-1.internal");
        for node in ["", "a&watch=true", "a b", "Node", "a/b", "a%2Cb"] {
            let error = of(node).unwrap_err().to_string();
            assert!(error.starts_with("NODE_NAME is ") && error.contains("\n  hint: "), "{error}");
        }
    }

    #[test]
    fn what_others_say_is_one_bounded_line() {
        assert_eq!(harmless("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(harmless(&"é".repeat(1_000)).chars().count(), 300);
    }
}
