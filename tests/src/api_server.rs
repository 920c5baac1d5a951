//! Kubernetes API server over TLS that can only list the pods of a node. It refuses unknown
//! requests and clients without the right with the messages of the real one.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    http_server::{Request, reset, respond},
    tls::{Answering, Authority, TlsServer},
};

/// Node whose pods the server lists.
pub const NODE: &str = "node-1.internal";
/// Address that the server listens on, which is also the name in its certificate.
pub const HOST: &str = "127.0.0.1";

const PATH: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1.internal&resourceVersion=0";

/// Pod of the node.
#[derive(Debug, Clone)]
pub struct PodOf {
    /// Namespace, name and uid.
    pub name: [&'static str; 3],
    /// Labels, as an object.
    pub labels: Value,
    /// The kubelet's uid of a pod that comes from a file.
    pub mirrored: Option<&'static str>,
}

/// Behaviour of the server.
#[derive(Debug, Clone)]
pub enum Conduct {
    /// Lists pods for clients that have this token.
    Lists {
        /// Bearer token.
        token: String,
        /// Sends the metadata alone if requested, as newer servers do.
        is_partial: bool,
    },
    /// Answers that the client may not list pods.
    Forbids,
    /// Answers with this body and a status of 200.
    Says(String),
    /// Never answers.
    Hangs,
    /// Resets the connection in the middle of its answer.
    Resets,
    /// Sends an endless answer.
    Floods,
}

/// Server that ends when it is dropped.
pub struct ApiServer {
    /// HTTPS side: its address and the requests it received.
    pub server: TlsServer,
    authority: Authority,
    conduct: Arc<Mutex<Conduct>>,
}

impl PodOf {
    /// Creates a pod with these labels.
    pub fn with(name: [&'static str; 3], labels: Value) -> Self {
        Self { name, labels, mirrored: None }
    }
}

impl ApiServer {
    /// Starts a server.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen.
    pub fn start(pods: Vec<PodOf>, conduct: Conduct) -> Self {
        let authority = Authority::make();
        let conduct = Arc::new(Mutex::new(conduct));
        let now = conduct.clone();
        let server = TlsServer::start(&authority, &[HOST], None, move |request, stream| {
            let conduct = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
            act(&pods, &conduct, request, stream)
        });
        Self { server, authority, conduct }
    }

    /// Changes the server's behaviour from now on.
    pub fn conduct(&self, conduct: Conduct) {
        *self.conduct.lock().unwrap_or_else(PoisonError::into_inner) = conduct;
    }

    /// Makes the server list pods for clients that have this token.
    pub fn takes(&self, token: &str) {
        self.conduct(Conduct::Lists { token: token.to_owned(), is_partial: true });
    }

    /// Writes the directory of a service account, as a pod finds it.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn service_account(&self, directory: &Path, token: &str) {
        service_account(&self.authority, directory, token);
    }
}

/// Writes the directory of a service account, as a pod finds it.
pub(crate) fn service_account(authority: &Authority, directory: &Path, token: &str) {
    fs::create_dir_all(directory).expect("the directory can be created");
    fs::write(directory.join("ca.crt"), authority.pem()).expect("the file can be written");
    fs::write(directory.join("token"), token).expect("the file can be written");
}

fn act(
    pods: &[PodOf],
    conduct: &Conduct,
    request: &Request,
    stream: &mut Answering,
) -> io::Result<()> {
    match conduct {
        Conduct::Lists { token, is_partial } => {
            let (status, body) = list(pods, token, *is_partial, request);
            say(stream, status, &body.to_string())
        }
        Conduct::Forbids => say(
            stream,
            "403 Forbidden",
            &failure(
                403,
                "Forbidden",
                "pods is forbidden: User \"system:serviceaccount:spillway:spillway\" cannot list \
                resource \"pods\" in API \
                 group \"\" at the cluster scope",
            )
            .to_string(),
        ),
        Conduct::Says(body) => say(stream, "200 OK", body),
        Conduct::Hangs => {
            sleep(Duration::from_secs(600));
            Ok(())
        }
        Conduct::Resets => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{{")?;
            stream.flush()?;
            reset(&stream.sock)?;
            Err(io::ErrorKind::Other.into())
        }
        Conduct::Floods => {
            write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            let spaces = " ".repeat(1 << 20);
            loop {
                write!(stream, "{:x}\r\n{spaces}\r\n", spaces.len())?;
            }
        }
    }
}

pub(crate) fn say(stream: &mut Answering, status: &str, body: &str) -> io::Result<()> {
    respond(stream, status, "content-type: application/json\r\n", body.as_bytes())
}

fn list(pods: &[PodOf], token: &str, is_partial: bool, request: &Request) -> (&'static str, Value) {
    if request.header("authorization") != Some(&format!("Bearer {token}")) {
        return ("401 Unauthorized", failure(401, "Unauthorized", "Unauthorized"));
    }
    if request.line != format!("GET {PATH} HTTP/1.1") {
        return (
            "404 Not Found",
            failure(404, "NotFound", "the server could not find the requested resource"),
        );
    }
    let accepted = request.header("accept").unwrap_or_default();
    if !accepted.split(", ").any(|one| one == "application/json") {
        return (
            "406 Not Acceptable",
            failure(406, "NotAcceptable", "only application/json is served"),
        );
    }
    let is_partial = is_partial
        && accepted.starts_with("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (kind, version) = if is_partial {
        ("PartialObjectMetadataList", "meta.k8s.io/v1")
    } else {
        ("PodList", "v1")
    };
    let items: Vec<_> = pods.iter().map(|pod| item(pod, is_partial)).collect();
    (
        "200 OK",
        json!({ "kind": kind, "apiVersion": version, "metadata": { "resourceVersion": "4711" }, "items": items }),
    )
}

fn item(pod: &PodOf, is_partial: bool) -> Value {
    let [namespace, name, uid] = pod.name;
    let mut metadata = json!({
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "resourceVersion": "4242",
        "creationTimestamp": "2026-11-01T08:00:00Z",
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api-6d4b", "uid": "0c0ffee0-0000-4000-8000-000000000000",
            "controller": true, "blockOwnerDeletion": true,
        }],
        "managedFields": [{
            "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-01T08:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:labels": { ".": {}, "f:app": {} } } },
        }],
    });
    // The real server omits empty labels.
    if pod.labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        metadata["labels"] = pod.labels.clone();
    }
    if let Some(hash) = pod.mirrored {
        metadata["annotations"] = json!({ "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash, "kubernetes.io/config.source": "file" });
    }
    if is_partial {
        return json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
    }
    json!({
        "metadata": metadata,
        "spec": {
            "nodeName": NODE, "restartPolicy": "Always", "serviceAccountName": "default",
            "containers": [{ "name": "api", "image": "api:1", "resources": { "limits": { "memory": "512Mi" } } }],
        },
        "status": { "phase": "Running", "qosClass": "Burstable", "podIP": "10.244.0.7" },
    })
}

pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    })
}
