//! The manifests of `configs/kubernetes/`, as kubectl applies them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::Servers;

/// What is shipped.
pub struct Manifests {
    /// Every object.
    pub objects: Vec<Value>,
}

/// Where a file is.
pub fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/kubernetes").join(file)
}

/// What a file says.
///
/// # Panics
///
/// Where it is not there.
pub fn read_shipped(file: &str) -> String {
    fs::read_to_string(shipped(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The strings of a list.
pub fn strings(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

impl Manifests {
    /// Has kubectl read them.
    ///
    /// # Panics
    ///
    /// Where it objects.
    pub fn read(servers: &Servers) -> Self {
        let directory = shipped("");
        let built = servers.kubectl(&["kustomize", &directory.display().to_string()], "");
        // What the label is does not matter: kubectl says all of it as JSON.
        let told = servers.kubectl(
            &["label", "--local", "--filename=-", "--output=json", "read-by=kubectl"],
            &built,
        );
        let objects = serde_json::Deserializer::from_str(&told)
            .into_iter()
            .map(|object| object.expect("it is JSON"));
        Self { objects: objects.collect() }
    }

    /// The object of a kind.
    ///
    /// # Panics
    ///
    /// Where there is not exactly one.
    pub fn one(&self, kind: &str) -> &Value {
        let mut found = self.objects.iter().filter(|object| object["kind"] == kind);
        let one = found.next().unwrap_or_else(|| panic!("there is a {kind}"));
        assert!(found.next().is_none(), "there is one {kind}");
        one
    }

    /// What a pod is.
    pub fn pod(&self) -> &Value {
        &self.one("DaemonSet")["spec"]["template"]["spec"]
    }

    /// What runs in it.
    ///
    /// # Panics
    ///
    /// Where that is not one.
    pub fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().expect("there are some");
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// A variable that it has.
    ///
    /// # Panics
    ///
    /// Where it has none of that name.
    pub fn env(&self, name: &str) -> &Value {
        let variables = self.container()["env"].as_array().expect("there are some");
        variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap_or_else(|| panic!("{name} is set"))
    }

    /// What it may do.
    pub fn rules(&self) -> Value {
        self.one("ClusterRole")["rules"].clone()
    }

    /// As the API calls who runs there.
    ///
    /// # Panics
    ///
    /// Where nobody is named.
    pub fn user(&self) -> String {
        let account = &self.one("ServiceAccount")["metadata"];
        let part = |key: &str| account[key].as_str().expect("it is named");
        format!("system:serviceaccount:{}:{}", part("namespace"), part("name"))
    }

    /// Where the volume of a kind is mounted, and the volume.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn mounted(&self, kind: &str) -> (&str, &Value) {
        let volumes = self.pod()["volumes"].as_array().expect("there are some");
        let volume =
            volumes.iter().find(|volume| volume.get(kind).is_some()).expect("there is one");
        let mounts = self.container()["volumeMounts"].as_array().expect("there are some");
        let mount =
            mounts.iter().find(|mount| mount["name"] == volume["name"]).expect("it is mounted");
        (mount["mountPath"].as_str().expect("it is somewhere"), &volume[kind])
    }
}
