//! Pods that `decide.services` names by a label or a namespace: which uids those are on this node.
//!
//! A cgroup names a pod by its uid alone, so the rest is read from the kubelet's directories and,
//! for labels, from the Kubernetes API. Both may be slow, so a thread asks every [`REFRESH`]. Cold
//! start: no pod is named until the first answer. Failure: the last answer stays, and the reason is
//! logged once.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use crate::{
    act::limit::PodLookup,
    config::{Config, Pattern},
};

/// Time between two looks. A pod is proven a service by its traffic as well, so that a late answer
/// costs little.
const REFRESH: Duration = Duration::from_secs(30);

/// Uids of named pods, each with the pattern that names it.
pub type NamedPods = BTreeMap<String, String>;

/// A thread that keeps them.
pub struct ServicePods {
    answers: Receiver<NamedPods>,
}

impl ServicePods {
    /// Starts the thread; `None` if no pattern names pods.
    ///
    /// # Errors
    ///
    /// Returns an error if there can be no thread.
    pub fn start(config: &Config) -> io::Result<Option<Self>> {
        let patterns: Vec<Pattern> =
            config.decide.services.iter().filter_map(|one| one.pods().cloned()).collect();
        if patterns.is_empty() {
            return Ok(None);
        }
        let pods = PodLookup::of_patterns(config, &patterns);
        let (sender, answers) = channel();
        thread::Builder::new()
            .name("service-pods".to_owned())
            .spawn(move || keep(pods, &patterns, &sender))?;
        Ok(Some(Self { answers }))
    }

    /// Latest answer, if there is one since the last call.
    pub fn latest(&self) -> Option<NamedPods> {
        self.answers.try_iter().last()
    }
}

/// Asks until nobody listens any more.
fn keep(mut pods: PodLookup, patterns: &[Pattern], answers: &Sender<NamedPods>) {
    let mut last_error = None;
    for round in 0_u32.. {
        match named(&mut pods, patterns, f64::from(round) * REFRESH.as_secs_f64()) {
            Ok(named) => {
                last_error = None;
                if answers.send(named).is_err() {
                    return;
                }
            }
            Err(error) => {
                if last_error.as_ref() != Some(&error) {
                    tracing::warn!("cannot tell which pods decide.services names: {error}");
                }
                last_error = Some(error);
            }
        }
        thread::sleep(REFRESH);
    }
}

fn named(pods: &mut PodLookup, patterns: &[Pattern], t: f64) -> Result<NamedPods, String> {
    let mut named = NamedPods::new();
    for (uid, name) in pods.all().map_err(|error| error.to_string())? {
        let by_namespace = patterns.iter().find(|pattern| pattern.is_namespace(&name.namespace));
        let by_label = match by_namespace {
            None if patterns.iter().any(Pattern::is_label) => {
                let labels = pods.labels(t, &uid, &name).map_err(|error| error.to_string())?;
                patterns.iter().find(|pattern| pattern.is_among(labels))
            }
            _ => None,
        };
        if let Some(pattern) = by_namespace.or(by_label) {
            named.insert(uid, pattern.to_string());
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_namespace_names_its_pods_by_the_kubelets_directories() {
        let dir =
            std::env::temp_dir().join(format!("spillway-service-pods-{}", std::process::id()));
        for name in ["shop_web-1_11-22", "kube-system_dns_33-44", "no-pod", "a_b"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut pods = PodLookup::new(dir.clone(), Err("nobody asks".to_owned()));
        let of_shop = named(&mut pods, &[Pattern::new("namespace:shop").unwrap()], 0.0).unwrap();
        assert_eq!(of_shop, NamedPods::from([("11-22".to_owned(), "namespace:shop".to_owned())]));
        let error = named(&mut pods, &[Pattern::new("pod:app=web").unwrap()], 0.0).unwrap_err();
        assert!(error.contains("nobody asks"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
        assert!(named(&mut pods, &[], 0.0).unwrap_err().contains("kubernetes.pod_logs_dir"));
    }
}
