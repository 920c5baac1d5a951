//! Namespace and name of a pod from the kubelet's directories, and its labels from the Kubernetes
//! API.
//!
//! The directories need no network and exist with every container runtime. Labels are asked for
//! only if a pattern names one. An answer or a failure is kept for [`CACHE_SECS`], so that the API
//! is not asked more often; not longer, because limits are rare and labels change. Cold start:
//! nothing is known. Failure: an unknown pod counts as protected, and the refusal has the reason
//! and a hint.

use std::{collections::BTreeMap, io, path::PathBuf};

use super::LimitRefusal;
use crate::{
    config::{Config, Pattern},
    net::kubernetes::{Api, Pod},
    sense::identity::{PodName, pods_in},
};

/// Lifetime of the API's answer, and pause after a failure.
const CACHE_SECS: f64 = 5.0;

/// Pods of this node.
pub struct PodLookup {
    logs_dir: PathBuf,
    api: Result<Api, String>,
    /// Last request to the API: its time and result.
    cached: Option<(f64, Result<Vec<Pod>, String>)>,
}

impl PodLookup {
    /// Uses the cluster that the environment of this process names, if any pattern of the policy is
    /// for labels.
    pub fn from_env(config: &Config) -> Self {
        Self::of_patterns(config, config.decide.protected.iter().chain(&config.decide.allow))
    }

    /// Does the same as [`PodLookup::from_env`], for other patterns.
    pub fn of_patterns<'a>(
        config: &Config,
        patterns: impl IntoIterator<Item = &'a Pattern>,
    ) -> Self {
        if !patterns.into_iter().any(Pattern::is_label) {
            return Self::new(
                config.kubernetes.pod_logs_dir.clone(),
                Err("no pattern of the configuration names a label".to_owned()),
            );
        }
        let api = Api::from_env(config.kubernetes.service_account_dir.clone())
            .map_err(|error| error.to_string());
        if let Err(error) = &api {
            tracing::warn!(
                "pods are not limited if a pattern for labels might protect them: {error}"
            );
        }
        Self::new(config.kubernetes.pod_logs_dir.clone(), api)
    }

    /// Reads the kubelet's directories in `logs_dir`, and asks this API.
    pub fn new(logs_dir: PathBuf, api: Result<Api, String>) -> Self {
        Self { logs_dir, api, cached: None }
    }

    /// Returns the namespace and name of a pod.
    ///
    /// # Errors
    ///
    /// Returns an error if the pod's directory is not found.
    pub fn name(&self, uid: &str) -> Result<PodName, LimitRefusal> {
        let found = self.all().map_err(|error| unknown(uid, &error.to_string()))?.remove(uid);
        found.ok_or_else(|| {
            unknown(uid, &format!("{} has no directory for it", self.logs_dir.display()))
        })
    }

    /// Returns all pods of this node, by uid.
    ///
    /// # Errors
    ///
    /// Returns an error if the kubelet's directory cannot be read.
    pub fn all(&self) -> Result<BTreeMap<String, PodName>, PodLookupError> {
        pods_in(&self.logs_dir)
            .map_err(|error| PodLookupError { logs_dir: self.logs_dir.clone(), error })
    }

    /// Returns the labels of a pod at `t`.
    ///
    /// # Errors
    ///
    /// Returns an error if they are unknown.
    pub fn labels(
        &mut self,
        t: f64,
        uid: &str,
        name: &PodName,
    ) -> Result<&BTreeMap<String, String>, LimitRefusal> {
        let unknown = |why: String| {
            LimitRefusal::PodUnknown(format!("cannot look up the labels of pod {name}: {why}"))
        };
        let api = self.api.as_ref().map_err(|error| unknown(error.clone()))?;
        let cached = match self.cached.take() {
            Some((at, cached)) if (0.0..CACHE_SECS).contains(&(t - at)) => (at, cached),
            _ => (t, api.pods().map_err(|error| error.to_string())),
        };
        let pods = self.cached.insert(cached).1.as_ref().map_err(|error| unknown(error.clone()))?;
        let mut found = pods.iter().filter(|pod| pod.has_uid(uid));
        match (found.next(), found.next()) {
            (Some(pod), None) => Ok(&pod.labels),
            (None, _) => Err(unknown(format!(
                "the Kubernetes API has {} pods on node {}, and not this one\n  \
                 hint: set NODE_NAME to the node's name as `kubectl get nodes` prints it",
                pods.len(),
                api.node()
            ))),
            // A user who may create pods may annotate one with the uid of another.
            (Some(_), Some(_)) => Err(unknown(format!("several pods claim the uid {uid}"))),
        }
    }
}

/// Reason for which the kubelet's directory of pods cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read {}: {error}\n  hint: set kubernetes.pod_logs_dir to the kubelet's /var/log/pods; \
    in a container, mount it read-only",
    logs_dir.display()
)]
pub struct PodLookupError {
    logs_dir: PathBuf,
    error: io::Error,
}

fn unknown(uid: &str, why: &str) -> LimitRefusal {
    let (why, _) = why.split_once("\n  hint:").unwrap_or((why, ""));
    LimitRefusal::PodUnknown(format!(
        "cannot look up the namespace of pod {uid}: {why}\n  \
         hint: set kubernetes.pod_logs_dir to the kubelet's /var/log/pods; in a \
         container, mount it read-only"
    ))
}
