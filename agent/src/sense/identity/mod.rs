//! Identity of a workload, as a person knows it: unit, container or pod, command line, user, start
//! and release.
//!
//! It is looked up when a claim is raised, not for every process: names and command lines take
//! memory, and nearly nobody asks. [`Identities`] looks up what the path of the cgroup does not
//! say, on a thread, because files of other processes can block for long. Cold start: none.
//! Failure: a part that cannot be read is absent, and the claim holds without it.

mod build_id;
mod cgroup_name;
mod command_line;
mod containers;
mod host_files;
mod kubelet_logs;
mod packages;
mod process;
mod worker;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::units::{Span, to_minute};

pub use cgroup_name::{CgroupName, container_id};
pub use kubelet_logs::{NodePods, PodName, pods_in};
pub use worker::Identities;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzzed::from_bytes;

/// Digits of the id of a container or a build that are shown, as `docker ps` does.
const SHORT_ID_DIGITS: usize = 12;

/// Subject of a claim, as far as the claim knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedWorkload {
    /// Process concerned, if it is one.
    pub pid: Option<u32>,
    /// Start of that process in clock ticks since boot, if known: another may have its pid by now.
    pub start_ticks: Option<u64>,
    /// Cgroup concerned; empty if unknown.
    pub cgroup: Arc<str>,
}

/// Finds out whom a claim is about.
pub trait Identify: Send {
    /// Returns what is known by now.
    fn identify(&mut self, workload: &ClaimedWorkload) -> Identity;

    /// Returns what became known since of workloads that were asked for.
    fn late(&mut self) -> Vec<(ClaimedWorkload, Identity)>;
}

/// Identity of a workload. What is unknown is absent. Texts are printable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Unit of systemd, such as `api.service`; absent in a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the pod, or its uid if its name is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name of the container, or the beginning of its id if its name is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Image of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Command line, cut, with secrets masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Name of the user whose rights the process has, or `uid N`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time at which the process started: RFC 3339 in UTC, by the host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Age of the process when it was looked up, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_secs: Option<f64>,
    /// Path of its executable, as the process sees it; `(deleted)` behind it if it was replaced or
    /// removed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Build id of the executable: that of the GNU linker in hexadecimal, or that of Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// Debian package of the executable, with its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

impl Identity {
    /// Returns what the path of a cgroup says.
    pub fn of_cgroup(cgroup: &str) -> Self {
        let CgroupName { unit, container, pod_uid } = CgroupName::of(cgroup);
        let container = container.map(|id| short(&id).to_owned());
        Self { unit, container, pod: pod_uid, ..Self::default() }
    }

    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Names the unit, or the container and its pod.
    pub fn place(&self) -> Option<String> {
        let pod = self.pod.as_ref().map(|pod| match &self.namespace {
            Some(namespace) => format!("pod {namespace}/{pod}"),
            None => format!("pod {pod}"),
        });
        match (&self.container, pod) {
            (Some(container), Some(pod)) => Some(format!("container {container} of {pod}")),
            (Some(container), None) => Some(format!("container {container}")),
            (None, Some(pod)) => Some(pod),
            (None, None) => self.unit.clone(),
        }
    }

    /// Describes the workload in a clause, at most a line or three long; empty if nothing is known.
    pub fn sentence(&self) -> String {
        let image = self.image.as_ref().map(|image| format!("image {image}"));
        let package = self.package.as_ref().map(|package| format!("package {package}"));
        let build_id = self.build_id.as_ref().filter(|_| image.is_none() && package.is_none());
        let build_id = build_id.map(|id| format!("build {}", short(id)));
        let started = self.started.as_ref().map(|started| {
            let age = self.age_secs.map(|secs| format!(", {} before the claim", Span(secs)));
            format!("started {}{}", to_minute(started), age.unwrap_or_default())
        });
        let user = self.user.as_ref().map(|user| format!("run by {user}"));
        let command = self.command.as_ref().map(|command| format!("`{command}`"));
        let parts = [self.place(), image, package, build_id, user, started, command];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT_ID_DIGITS).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Identity {
        Identity {
            user: Some("www-data".to_owned()),
            started: Some("2026-11-26T14:02:31Z".to_owned()),
            age_secs: Some(7_200.0),
            command: Some("/usr/bin/api --port 80".to_owned()),
            build_id: Some("0a1b".to_owned()),
            ..Identity::default()
        }
    }

    #[test]
    fn sentence_names_the_place_the_release_and_the_start() {
        let unit = Identity {
            package: Some("api 2.4.1-1".to_owned()),
            ..Identity { unit: Some("api.service".to_owned()), ..known() }
        };
        assert_eq!(
            unit.sentence(),
            "api.service, package api 2.4.1-1, run by www-data, started 2026-11-26 14:02 UTC, \
             2.0 h before the claim, `/usr/bin/api --port 80`"
        );
        let pod = Identity {
            namespace: Some("shop".to_owned()),
            pod: Some("api-7d".to_owned()),
            container: Some("api".to_owned()),
            image: Some("shop/api:2.4.1".to_owned()),
            ..Identity::default()
        };
        assert_eq!(pod.sentence(), "container api of pod shop/api-7d, image shop/api:2.4.1");
        assert_eq!(
            known().sentence(),
            "build 0a1b, run by www-data, started 2026-11-26 14:02 UTC, 2.0 h before the claim, \
             `/usr/bin/api --port 80`"
        );
        assert_eq!(Identity::default().sentence(), "");
    }

    #[test]
    fn unknown_parts_are_not_printed_and_are_read_as_absent() {
        let unit = Identity { unit: Some("api.service".to_owned()), ..Identity::default() };
        let text = serde_json::to_string(&unit).unwrap();
        assert_eq!(text, r#"{"unit":"api.service"}"#);
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), unit);
    }
}

/// Parsers of what others wrote, for the fuzz targets.
#[cfg(any(test, fuzzing))]
mod fuzzed {
    use super::{Identity, build_id, command_line, containers, packages};
    use crate::sense::printable::printable;

    /// Returns the texts that any bytes give.
    pub fn from_bytes(bytes: &[u8]) -> Vec<String> {
        let identity = Identity {
            command: command_line::shown(bytes),
            build_id: build_id::in_image(bytes),
            // Paths are made printable where they are read.
            ..Identity::of_cgroup(&printable(bytes))
        };
        let named = containers::of_docker(bytes)
            .into_iter()
            .chain(containers::of_podman(bytes, "0a1b"))
            .flat_map(|found| [Some(found.name), found.image].into_iter().flatten());
        let texts = [packages::user_in(bytes, 0), packages::version_in(bytes, "a")];
        texts.into_iter().flatten().chain(named).chain([identity.sentence()]).collect()
    }
}
