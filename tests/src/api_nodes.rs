//! Kubernetes API server over TLS that can only read and patch nodes. Like the real one, it refuses
//! clients without the token or the right, patches of a node that has changed since it was read,
//! and fields that nodes do not have.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Map, Value, json};

use crate::{
    api_server::{HOST, failure, say, service_account},
    http_server::Request,
    tls::{Answering, Authority, TlsServer},
};

const PATH: &str = "/api/v1/nodes";

/// Server that ends when it is dropped.
pub struct NodeServer {
    /// HTTPS side: its address and the requests it received.
    pub server: TlsServer,
    authority: Authority,
    cluster: Arc<Mutex<Cluster>>,
}

struct Cluster {
    nodes: BTreeMap<String, Value>,
    version: u64,
    token: String,
    /// Service account that the token belongs to.
    user: String,
    rules: Value,
    /// Reads after which another client changes the node.
    busy: u32,
}

impl NodeServer {
    /// Starts a server with nodes of these names. Its only client is the service account `user`,
    /// which has this token and the rights that the rules of a ClusterRole grant.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen.
    pub fn start(names: &[&str], token: &str, user: &str, rules: Value) -> Self {
        let authority = Authority::make();
        let nodes = names.iter().map(|name| ((*name).to_owned(), node(name))).collect();
        let (token, user) = (token.to_owned(), user.to_owned());
        let cluster =
            Arc::new(Mutex::new(Cluster { nodes, version: 4_711, token, user, rules, busy: 0 }));
        let answers = cluster.clone();
        let server = TlsServer::start(&authority, &[HOST], None, move |request, stream| {
            act(&answers, request, stream)
        });
        Self { server, authority, cluster }
    }

    /// Writes the directory of a service account, as a pod finds it.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn service_account(&self, directory: &Path, token: &str) {
        service_account(&self.authority, directory, token);
    }

    /// Current state of a node.
    ///
    /// # Panics
    ///
    /// Panics if there is no node of that name.
    pub fn node(&self, name: &str) -> Value {
        lock(&self.cluster).nodes[name].clone()
    }

    /// Changes a node, as a client with every right does.
    ///
    /// # Panics
    ///
    /// Panics if there is no node of that name.
    pub fn change(&self, name: &str, patch: &Value) {
        lock(&self.cluster).patch(name, patch).expect("the node allows the change");
    }

    /// Makes another client change a node right after it is read, `times` times.
    pub fn busy(&self, times: u32) {
        lock(&self.cluster).busy = times;
    }

    /// Replaces the rules.
    pub fn rules(&self, rules: Value) {
        lock(&self.cluster).rules = rules;
    }
}

type Refusal = (u16, &'static str, String);

impl Cluster {
    fn answer(&mut self, request: &Request) -> Result<Value, Refusal> {
        if request.header("authorization") != Some(&format!("Bearer {}", self.token)) {
            return Err((401, "Unauthorized", "Unauthorized".to_owned()));
        }
        let (method, path) = request.method_and_target();
        let unknown =
            || (404, "NotFound", "the server could not find the requested resource".to_owned());
        let name = path.strip_prefix(PATH).ok_or_else(unknown)?.trim_start_matches('/');
        let verb = match (method, name) {
            ("GET", "") => "list",
            ("GET", _) => "get",
            ("PATCH", _) => "patch",
            ("PUT", _) => "update",
            ("DELETE", _) => "delete",
            _ => {
                return Err((
                    405,
                    "MethodNotAllowed",
                    "the server does not allow this method".to_owned(),
                ));
            }
        };
        if !self.lets(verb, name) {
            let user = &self.user;
            let message = format!(
                "nodes \"{name}\" is forbidden: User \"{user}\" cannot {verb} resource \"nodes\" \
                in API group \"\" at the cluster scope"
            );
            return Err((403, "Forbidden", message));
        }
        let node = self
            .nodes
            .get(name)
            .ok_or_else(|| (404, "NotFound", format!("nodes \"{name}\" not found")))?
            .clone();
        match verb {
            "get" => {
                if self.busy > 0 {
                    self.busy -= 1;
                    self.patch(name, &json!({ "metadata": { "annotations": { "busy": self.busy.to_string() } } }))?;
                }
                Ok(node)
            }
            "patch" if request.header("content-type") != Some("application/merge-patch+json") => {
                Err((
                    415,
                    "UnsupportedMediaType",
                    "the body of the request was in an unknown format".to_owned(),
                ))
            }
            "patch" => {
                let patch = serde_json::from_slice(&request.body);
                self.patch(name, &patch.map_err(|error| (400, "BadRequest", error.to_string()))?)
            }
            _ => Err((501, "NotImplemented", format!("this server cannot {verb} nodes"))),
        }
    }

    fn lets(&self, verb: &str, name: &str) -> bool {
        let has = |list: &Value, wanted: &str| {
            list.as_array().is_some_and(|list| list.iter().any(|one| one == wanted))
        };
        self.rules.as_array().is_some_and(|rules| {
            rules.iter().any(|rule| {
                has(&rule["apiGroups"], "")
                    && has(&rule["resources"], "nodes")
                    && has(&rule["verbs"], verb)
                    && (rule["resourceNames"].is_null() || has(&rule["resourceNames"], name))
            })
        })
    }

    fn patch(&mut self, name: &str, patch: &Value) -> Result<Value, Refusal> {
        let before = self.nodes[name].clone();
        let read = &patch["metadata"]["resourceVersion"];
        if !read.is_null() && *read != before["metadata"]["resourceVersion"] {
            let message = format!(
                "Operation cannot be fulfilled on nodes \"{name}\": the object has been modified; \
                please apply your changes to the latest \
                 version and try again"
            );
            return Err((409, "Conflict", message));
        }
        let mut node = before.clone();
        merge(&mut node, patch);
        check(&before, &node).map_err(|message| {
            (422, "Invalid", format!("Node \"{name}\" is invalid: {message}"))
        })?;
        // The real server omits it if it is false.
        if let Some(spec) = node["spec"]
            .as_object_mut()
            .filter(|spec| spec.get("unschedulable") == Some(&json!(false)))
        {
            spec.remove("unschedulable");
        }
        // A patch without changes does not create a new version.
        if node != before {
            self.version += 1;
            node["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.nodes.insert(name.to_owned(), node.clone());
        }
        Ok(node)
    }
}

fn act(cluster: &Mutex<Cluster>, request: &Request, stream: &mut Answering) -> io::Result<()> {
    match lock(cluster).answer(request) {
        Ok(node) => say(stream, "200 OK", &node.to_string()),
        Err((code, reason, message)) => {
            say(stream, &format!("{code} {reason}"), &failure(code, reason, &message).to_string())
        }
    }
}

fn node(name: &str) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": "2f1c8a52-6d0e-4a57-9f0b-1b7f9b1f0c11", "resourceVersion": "4242",
            "creationTimestamp": "2026-11-01T08:00:00Z", "labels": { "kubernetes.io/hostname": name },
            "annotations": { "node.alpha.kubernetes.io/ttl": "0" },
        },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"], "providerID": format!("kind://{name}") },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }], "nodeInfo": { "kubeletVersion": "v1.34.1" } },
    })
}

/// Merges a patch according to RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|object| object.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// Returns an error if a node does not allow this change.
fn check(before: &Value, after: &Value) -> Result<(), String> {
    let known = |part: &str, keys: &[&str]| {
        let mut found = after[part].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let wrong = found.find(|key| !keys.contains(key));
        wrong.map_or(Ok(()), |key| Err(format!("{part}.{key}: unknown field")))
    };
    for fixed in ["name", "uid", "creationTimestamp"] {
        if before["metadata"][fixed] != after["metadata"][fixed] {
            return Err(format!("metadata.{fixed}: field is immutable"));
        }
    }
    known(
        "metadata",
        &["name", "uid", "resourceVersion", "creationTimestamp", "labels", "annotations"],
    )?;
    known("spec", &["podCIDR", "podCIDRs", "providerID", "unschedulable", "taints"])?;
    if !matches!(after["spec"]["unschedulable"], Value::Null | Value::Bool(_)) {
        return Err("spec.unschedulable: must be a boolean".to_owned());
    }
    for (key, value) in after["metadata"]["annotations"].as_object().into_iter().flatten() {
        let name = key.rsplit('/').next().unwrap_or_default();
        let is_name = !name.is_empty()
            && name.len() <= 63
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name || key.matches('/').count() > 1 || !value.is_string() {
            return Err(format!("metadata.annotations: {key}: {value}"));
        }
    }
    if before["status"] != after["status"] {
        Err("status is changed elsewhere".to_owned())
    } else {
        Ok(())
    }
}

fn lock(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}
