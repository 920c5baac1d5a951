//! The manifests of `configs/kubernetes/` as kubectl reads them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::Servers;

/// Manifests as shipped.
pub struct Manifests {
    /// Every object.
    pub objects: Vec<Value>,
}

/// Path of a shipped file.
pub fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/kubernetes").join(file)
}

/// Reads a shipped file.
///
/// # Panics
///
/// Panics if it does not exist.
pub fn read_shipped(file: &str) -> String {
    fs::read_to_string(shipped(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns all manifests of a directory as kubectl applies them.
///
/// # Panics
///
/// Panics if kubectl rejects them.
pub fn kustomized(servers: &Servers, directory: &str) -> String {
    servers.kubectl(&["kustomize", &shipped(directory).display().to_string()], "")
}

/// Strings of a JSON list.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

impl Manifests {
    /// Has kubectl read the manifests of a directory.
    ///
    /// # Panics
    ///
    /// Panics if kubectl rejects them.
    pub fn read(servers: &Servers, directory: &str) -> Self {
        let built = kustomized(servers, directory);
        // The label's value does not matter: kubectl prints every object as JSON.
        let output = servers.kubectl(
            &["label", "--local", "--filename=-", "--output=json", "read-by=kubectl"],
            &built,
        );
        let objects = serde_json::Deserializer::from_str(&output)
            .into_iter()
            .map(|object| object.expect("kubectl should print JSON"));
        Self { objects: objects.collect() }
    }

    /// The only object of a kind.
    ///
    /// # Panics
    ///
    /// Panics if there is not exactly one.
    pub fn one(&self, kind: &str) -> &Value {
        let mut found = self.objects.iter().filter(|object| object["kind"] == kind);
        let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(found.next().is_none(), "more than one {kind}");
        one
    }

    /// Pod specification of the DaemonSet.
    pub fn pod(&self) -> &Value {
        &self.one("DaemonSet")["spec"]["template"]["spec"]
    }

    /// Container of the pod.
    ///
    /// # Panics
    ///
    /// Panics if there is not exactly one.
    pub fn container(&self) -> &Value {
        let containers =
            self.pod()["containers"].as_array().expect("the pod should have containers");
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// Environment variable of the container.
    ///
    /// # Panics
    ///
    /// Panics if it is not set.
    pub fn env(&self, name: &str) -> &Value {
        let variables =
            self.container()["env"].as_array().expect("the container should have variables");
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap_or_else(|| panic!("{name} is not set"))
    }

    /// Rules of the ClusterRole.
    pub fn rules(&self) -> Value {
        self.one("ClusterRole")["rules"].clone()
    }

    /// User name of the pod's service account, as the API spells it.
    ///
    /// # Panics
    ///
    /// Panics if the service account has no name.
    pub fn user(&self) -> String {
        let account = &self.one("ServiceAccount")["metadata"];
        let part = |key: &str| account[key].as_str().expect("the service account should be named");
        format!("system:serviceaccount:{}:{}", part("namespace"), part("name"))
    }

    /// Mount path and definition of the volume of a kind.
    ///
    /// # Panics
    ///
    /// Panics if there is no such volume.
    pub fn mounted(&self, kind: &str) -> (&str, &Value) {
        let volumes = self.pod()["volumes"].as_array().expect("the pod should have volumes");
        let volume = volumes
            .iter()
            .find(|volume| volume.get(kind).is_some())
            .expect("a volume of this kind should exist");
        let mounts =
            self.container()["volumeMounts"].as_array().expect("the container should have mounts");
        let mount = mounts
            .iter()
            .find(|mount| mount["name"] == volume["name"])
            .expect("the volume should be mounted");
        (mount["mountPath"].as_str().expect("the mount should have a path"), &volume[kind])
    }
}
