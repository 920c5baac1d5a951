//! Who a pod is: its namespace and its name from the kubelet's directories, its labels from the
//! Kubernetes API.
//!
//! The directories need no network and are there under every runtime. Labels are asked for where a
//! pattern names one, and believed for [`BELIEVED_SECS`], so that the API is asked no more often
//! than that, whether it answers or not: a limit is rare, and its answer may have been changed
//! since the last. Cold start: nothing is known. Failure: what cannot be told is a reason, with a
//! hint, and the pod is taken for a protected one.

use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf};

use super::LimitRefusal;
use crate::{
    config::{Config, Pattern},
    net::kubernetes::{Api, Pod},
    sense::printable::printable,
};

/// Lifetime of the API's answer, and pause after a failure.
const CACHE_SECS: f64 = 5.0;

/// Pods of this node.
pub struct PodLookup {
    logs_dir: PathBuf,
    api: Result<Api, String>,
    /// When it was asked last, and what it told.
    cached: Option<(f64, Result<Vec<Pod>, String>)>,
}

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

impl PodLookup {
    /// Those of the cluster that this process's environment names, if any pattern has to do with
    /// labels.
    pub fn from_env(config: &Config) -> Self {
        Self::of_patterns(config, config.decide.protected.iter().chain(&config.decide.allow))
    }

    /// As [`Pods::from_env`], for other patterns.
    pub fn of_patterns<'a>(
        config: &Config,
        patterns: impl IntoIterator<Item = &'a Pattern>,
    ) -> Self {
        if !patterns.into_iter().any(Pattern::is_label) {
            return Self::new(
                config.kubernetes.pod_logs_dir.clone(),
                Err("no pattern names one".to_owned()),
            );
        }
        let api = Api::from_env(config.kubernetes.service_account_dir.clone())
            .map_err(|error| error.to_string());
        if let Err(error) = &api {
            tracing::warn!(
                "no pod will be limited whose labels matter: they cannot be told: {error}"
            );
        }
        Self::new(config.kubernetes.pod_logs_dir.clone(), api)
    }

    /// Those that the kubelet keeps a directory for in `logs_dir`, and that this API knows.
    pub fn new(logs_dir: PathBuf, api: Result<Api, String>) -> Self {
        Self { logs_dir, api, cached: None }
    }

    /// A pod's namespace and name.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be told.
    pub fn name(&self, uid: &str) -> Result<PodName, LimitRefusal> {
        let found = self.all().map_err(|error| unknown(uid, &error.to_string()))?.remove(uid);
        found.ok_or_else(|| {
            unknown(uid, &format!("{} has no directory of it", self.logs_dir.display()))
        })
    }

    /// Every pod of this node, by its uid.
    ///
    /// # Errors
    ///
    /// Returns an error if the kubelet's directory cannot be read.
    pub fn all(&self) -> Result<BTreeMap<String, PodName>, PodLookupError> {
        let failed = |error: io::Error| PodLookupError { logs_dir: self.logs_dir.clone(), error };
        let mut pods = BTreeMap::new();
        for entry in fs::read_dir(&self.logs_dir).map_err(failed)? {
            pods.extend(
                entry.map_err(failed)?.file_name().to_str().and_then(PodName::of_directory),
            );
        }
        Ok(pods)
    }

    /// A pod's labels, at `t`.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be told.
    pub fn labels(
        &mut self,
        t: f64,
        uid: &str,
        name: &PodName,
    ) -> Result<&BTreeMap<String, String>, LimitRefusal> {
        let unknown = |why: String| {
            LimitRefusal::PodUnknown(format!("the labels of pod {name} cannot be told: {why}"))
        };
        let api = self.api.as_ref().map_err(|error| unknown(error.clone()))?;
        let cached = match self.cached.take() {
            Some((at, cached)) if (0.0..CACHE_SECS).contains(&(t - at)) => (at, cached),
            _ => (t, api.pods().map_err(|error| error.to_string())),
        };
        let pods = self.cached.insert(cached).1.as_ref().map_err(|error| unknown(error.clone()))?;
        let mut found = pods.iter().filter(|pod| pod.is(uid));
        match (found.next(), found.next()) {
            (Some(pod), None) => Ok(&pod.labels),
            (None, _) => Err(unknown(format!(
                "it is none of the {} that the Kubernetes API has on node {}\n  \
                 hint: NODE_NAME has to be the node's name as `kubectl get nodes` has it",
                pods.len(),
                api.node()
            ))),
            // Whoever may make pods may give one the other's uid as an annotation.
            (Some(_), Some(_)) => Err(unknown("more than one says that it is it".to_owned())),
        }
    }
}

/// Reason for which the kubelet's directory of pods cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {error}\n  hint: kubernetes.pod_logs_dir has to be the kubelet's /var/log/pods; in a \
    container, mount it read-only",
    logs_dir.display()
)]
pub struct PodLookupError {
    logs_dir: PathBuf,
    error: io::Error,
}

fn unknown(uid: &str, why: &str) -> LimitRefusal {
    let (why, _) = why.split_once("\n  hint:").unwrap_or((why, ""));
    LimitRefusal::PodUnknown(format!(
        "the namespace of pod {uid} cannot be cached: {why}\n  \
         hint: kubernetes.pod_logs_dir has to be where the kubelet has its /var/log/pods; in a \
         container, mount it read-only"
    ))
}

impl PodName {
    /// Reads a pod's uid and name from its directory's: `NAMESPACE_NAME_UID`.
    fn of_directory(text: &str) -> Option<(String, Self)> {
        let (namespace, rest) = text.split_once('_')?;
        let (name, uid) = rest.split_once('_')?;
        let is_one = !uid.is_empty() && !namespace.is_empty() && !name.is_empty();
        is_one.then(|| {
            (uid.to_owned(), Self { namespace: namespace.to_owned(), name: name.to_owned() })
        })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kubelet takes neither from anybody unchecked; the directories are on disk all the
        // same.
        write!(f, "{}/{}", printable(&self.namespace), printable(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e";

    #[test]
    fn a_directory_names_one_pod_whole() {
        let of = |text: &str| {
            PodName::of_directory(text)
                .filter(|(uid, _)| uid == UID)
                .map(|(_, name)| name.to_string())
        };
        assert_eq!(of(&format!("shop_db-0_{UID}")).as_deref(), Some("shop/db-0"));
        for text in [
            String::new(),
            UID.to_owned(),
            format!("shop_{UID}"),
            format!("shop__{UID}"),
            format!("_db-0_{UID}"),
            format!("shop_db-0_{UID}f"),
            format!("shop_db-0_f{UID}"),
            format!("shop_db-0_x_{UID}"),
            format!("shop_db-0_{UID}_"),
        ] {
            assert_eq!(of(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_the_kubelet_names_a_directory_is_read_back(
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            name in "[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?",
            uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}",
        ) {
            let found = PodName::of_directory(&format!("{namespace}_{name}_{uid}"));
            prop_assert_eq!(found, Some((uid, PodName { namespace, name })));
        }
    }
}
