//! Claim of a leak: of memory, or of open files, threads or sockets, by a process or a cgroup.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    claim::{Assessment, ClaimDetails, Severity, Situation, Wants, program},
    incident_id::IncidentId,
    resource::Resource,
};
use crate::{
    sense::{
        ProcessId,
        identity::{CgroupName, ClaimedWorkload, container_id},
    },
    units::{Frequency, Size, Span, rounded},
};

/// Time to exhaustion above which a leak is shown, and nobody is paged: even if its rate nearly
/// doubles, a day is left.
const FAR_SECS: f64 = 172_800.0;

/// Owner of the limit that a leak reaches first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bound {
    /// The process or its cgroup: nothing else is hurt.
    Own,
    /// The whole host.
    #[default]
    Host,
}

/// Memory of a cgroup that grows while none of its processes does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum CgroupMemory {
    /// Files in memory, as in `/dev/shm`, and shared memory that no process has mapped.
    Shared,
    /// Memory of the kernel that cannot be reclaimed.
    Kernel,
    /// Anonymous memory that is in no process, such as that in flight between two.
    Anonymous,
    /// Memory of processes that are started and do not end.
    Processes,
}

impl CgroupMemory {
    /// Every kind, in order.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Kernel, Self::Anonymous, Self::Processes];

    /// Name as printed.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Name for a person.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Shared => "shared memory",
            Self::Kernel => "kernel memory",
            Self::Anonymous => "memory outside of processes",
            Self::Processes => "memory of processes left behind",
        }
    }

    /// Name with that of the cgroup, for a person.
    pub(super) fn of(self, cgroup: &str) -> String {
        let preposition = if self == Self::Processes { "in" } else { "of" };
        format!("{} {preposition} {cgroup}", self.noun())
    }

    /// Place to look for it, for a person.
    pub(super) fn whereabouts(self) -> &'static str {
        match self {
            Self::Shared => {
                "in files of a tmpfs such as /dev/shm, in memfds, or in shared memory that no \
                 process has mapped"
            }
            Self::Kernel => {
                "in page tables, socket buffers or other objects that the kernel keeps for its \
                 processes"
            }
            Self::Anonymous => "anonymous and in no process, such as pages in pipes or sockets",
            Self::Processes => "in ever more processes, which were started and have not ended",
        }
    }
}

/// Maximum length of a [`LeakClaim::shared_name`].
pub const SHARED_NAME_BYTES_MAX: usize = 128;

/// A process, or a cgroup, that grows without end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeakClaim {
    /// Leaking resource.
    #[serde(skip_serializing_if = "Resource::is_memory")]
    pub resource: Resource,
    /// Memory of the cgroup that leaks; `None` if a process leaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_memory: Option<CgroupMemory>,
    /// Process that leaks; of a cgroup that leaks its oldest process, which need not be the cause.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Name of its program.
    pub comm: Arc<str>,
    /// Cgroup of the process.
    pub cgroup: Arc<str>,
    /// Growth of memory; `None` if another resource leaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_sec: Option<f64>,
    /// Growth in the number of files, threads or sockets; `None` if memory leaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_handles_per_sec: Option<f64>,
    /// 95 % interval of the growth of memory; `None` once the claim is cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_interval_bytes_per_sec: Option<[f64; 2]>,
    /// Owner of the limit that it reaches first.
    #[serde(skip)]
    pub bound: Bound,
}

impl LeakClaim {
    /// Names the subject and its pace.
    fn evidence(&self, host: &str) -> String {
        let subject = match self.cgroup_memory {
            Some(memory) => format!("{} on {host} leaks {}", self.unit(), memory.noun()),
            None => {
                let (pid, resource) = (self.id.pid, self.resource.noun());
                let program = program(&self.comm, "A process");
                format!("{program} (pid {pid}) on {host} leaks {resource}")
            }
        };
        let beside = match self.cgroup_memory {
            Some(CgroupMemory::Processes) => ", in ever more processes",
            Some(_) => ", in none of its processes",
            None => "",
        };
        let rate = match (self.growth_bytes_per_sec, self.growth_handles_per_sec) {
            (Some(bytes), _) => format!(", {} a second", Size(bytes)),
            (None, Some(handles)) => format!(", {}", Frequency(handles)),
            (None, None) => String::new(),
        };
        format!("{subject}{rate}{beside}")
    }

    /// Claims that a process leaks memory, so many bytes a second.
    pub(super) fn of_memory(
        id: ProcessId,
        comm: &Arc<str>,
        cgroup: &Arc<str>,
        bytes_per_sec: f64,
    ) -> Self {
        Self {
            resource: Resource::Memory,
            cgroup_memory: None,
            id,
            comm: comm.clone(),
            cgroup: cgroup.clone(),
            growth_bytes_per_sec: Some(rounded(bytes_per_sec, 1)),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
            bound: Bound::default(),
        }
    }

    /// Claims that a process leaks files, threads or sockets, so many a second.
    pub(super) fn of_handles(
        resource: Resource,
        id: ProcessId,
        comm: &Arc<str>,
        cgroup: &Arc<str>,
        per_sec: f64,
    ) -> Self {
        Self {
            resource,
            growth_bytes_per_sec: None,
            // One a day is a hundred-thousandth a second.
            growth_handles_per_sec: Some(rounded(per_sec, 6)),
            bound: Bound::Own,
            ..Self::of_memory(id, comm, cgroup, 0.0)
        }
    }

    /// Name of what leaks, the same on every host that runs it: the program and its unit.
    /// Containers have other names on each host, and are left out. At most
    /// [`SHARED_NAME_BYTES_MAX`] long.
    pub fn shared_name(&self) -> String {
        let unit = self.cgroup.rsplit('/').next().unwrap_or_default();
        let unit = if self.is_in_container() { "a container" } else { unit };
        let mut name = match (&*self.comm, unit) {
            (comm, "") => comm.to_owned(),
            ("", unit) => unit.to_owned(),
            (comm, unit) => format!("{comm} in {unit}"),
        };
        if !self.resource.is_memory() {
            name = format!("{} of {name}", self.resource.noun());
        }
        name.retain(|c| !c.is_control());
        name.truncate(name.floor_char_boundary(SHARED_NAME_BYTES_MAX));
        name
    }

    /// Returns whether the name of the cgroup has the id of a container: 64 hexadecimal digits.
    pub fn is_in_container(&self) -> bool {
        container_id(self.cgroup.rsplit('/').next().unwrap_or_default()).is_some()
    }
}

impl ClaimDetails for LeakClaim {
    fn id(&self) -> IncidentId {
        match self.cgroup_memory {
            Some(_) => IncidentId::CgroupLeak(self.cgroup.clone()),
            None => IncidentId::Leak(self.id, self.resource),
        }
    }

    fn resource(&self) -> &'static str {
        self.resource.name()
    }

    fn cgroup(&self) -> &Arc<str> {
        &self.cgroup
    }

    fn pid(&self) -> Option<u32> {
        Some(self.id.pid).filter(|pid| *pid > 0 && self.cgroup_memory.is_none())
    }

    fn workload(&self) -> ClaimedWorkload {
        let start_ticks = self.pid().map(|_| self.id.start_ticks);
        ClaimedWorkload { pid: self.pid(), start_ticks, cgroup: self.cgroup.clone() }
    }

    fn endangers_host(&self) -> bool {
        self.bound == Bound::Host
    }

    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        let Assessment { exhaustion_secs, importance, config, .. } = assessment;
        let is_near = exhaustion_secs.is_some_and(|secs| secs <= config.drain_within.as_secs_f64());
        let is_far = exhaustion_secs.is_some_and(|secs| secs > FAR_SECS);
        let severity = match (is_near, is_far) {
            (true, _) => Severity::Critical,
            (false, true) => Severity::Info,
            (false, false) => Severity::Warning,
        };
        let when = exhaustion_secs
            .map_or_else(|| "at an unknown time".to_owned(), |secs| format!("in {}", Span(secs)));
        let (noun, reason) = (self.resource.noun(), &importance.reason);
        match self.bound {
            Bound::Host => (severity, format!("the whole host runs out of {noun} {when}")),
            Bound::Own if importance.is_service => {
                (severity, format!("it runs out of {noun} {when}; {reason}"))
            }
            Bound::Own => (
                importance.severity_if_alone().min(severity),
                format!("no other workload is affected, and {reason}"),
            ),
        }
    }

    /// Memory is limited, and then drained away from, once its end comes near enough. Files,
    /// threads and sockets are not limited: throttling memory closes none of them.
    fn wants(&self, situation: &Situation<'_>) -> Wants {
        let Situation { left_secs, is_nodes, is_set_back, is_turn, config, .. } = *situation;
        let is_near = left_secs <= config.drain_within.as_secs_f64();
        Wants {
            limit: self.resource == Resource::Memory
                && left_secs <= config.limit_within.as_secs_f64(),
            drain: is_nodes && (is_set_back || is_near || is_turn && left_secs.is_finite()),
            ..Wants::default()
        }
    }

    fn label(&self) -> String {
        if let Some(memory) = self.cgroup_memory {
            return memory.of(&self.cgroup);
        }
        format!("{} of {} (pid {})", self.resource.name(), self.comm, self.id.pid)
    }

    fn component(&self) -> String {
        if self.cgroup_memory.is_some() {
            return self.unit().to_owned();
        }
        program(&self.comm, "a process").to_owned()
    }

    fn class(&self) -> String {
        let noun = self.cgroup_memory.map_or(self.resource.noun(), CgroupMemory::noun);
        format!("leak of {noun}")
    }

    fn headline(&self, host: &str, exhaustion_secs: Option<f64>) -> String {
        let consequence = match exhaustion_secs {
            Some(secs) => {
                let subject = if self.bound == Bound::Host { "the whole host" } else { "it" };
                format!("if nothing is done, {subject} runs out in {}", Span(secs))
            }
            None => "it is not known yet when it runs out".to_owned(),
        };
        format!("{}; {consequence}", self.evidence(host))
    }

    fn held_headline(&self, host: &str, limit_bytes: u64) -> String {
        let limit = Size(limit_bytes as f64);
        format!("{}; Spillway holds it at {limit}", self.evidence(host))
    }

    fn advice(&self, exhaustion_secs: Option<f64>) -> String {
        let before = if exhaustion_secs.is_some() { " before then" } else { "" };
        let program = program(&self.comm, "the process");
        let subject = match CgroupName::of(&self.cgroup).unit {
            Some(unit) if unit.ends_with(".service") => format!("{program} in {unit}"),
            _ => program.to_owned(),
        };
        match self.cgroup_memory {
            // A restart deletes no file.
            Some(CgroupMemory::Shared) => format!(
                "delete the files that {} no longer needs from /dev/shm and other tmpfs{before}, \
                 or restart it if there are none, and find out what leaves them",
                self.unit()
            ),
            Some(CgroupMemory::Processes) => format!(
                "end the processes that {} no longer needs{before}, or restart it, and find out \
                 what leaves them",
                self.unit()
            ),
            Some(_) => format!("restart {}{before}, and find the leak", self.unit()),
            None => format!("restart {subject}{before}, and find the leak"),
        }
    }
}

impl LeakClaim {
    /// Last name in the path of its cgroup, by which an operator knows it.
    fn unit(&self) -> &str {
        self.cgroup.rsplit('/').find(|name| !name.is_empty()).unwrap_or("a cgroup")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared_name(comm: &str, cgroup: &str, change: impl FnOnce(&mut LeakClaim)) -> String {
        let id = ProcessId { pid: 7, start_ticks: 9 };
        let mut claim = LeakClaim::of_memory(id, &Arc::from(comm), &Arc::from(cgroup), 1.0);
        change(&mut claim);
        claim.shared_name()
    }

    #[test]
    fn headline_of_a_held_leak_has_no_end() {
        let id = ProcessId { pid: 7, start_ticks: 9 };
        let claim = LeakClaim::of_memory(id, &Arc::from("api"), &Arc::from("/a"), 1_048_576.0);
        assert_eq!(
            claim.held_headline("web-3", 80 << 20),
            "api (pid 7) on web-3 leaks memory, 1.0 MiB a second; Spillway holds it at 80.0 MiB"
        );
    }

    #[test]
    fn name_of_a_leak_is_the_same_on_every_host() {
        let api = shared_name("api", "/system.slice/api.service", |_| {});
        assert_eq!(api, "api in api.service");
        assert_eq!(shared_name("api", "/", |_| {}), "api");
        let id = "3f".repeat(32);
        let pod = format!("/kubepods.slice/pod1.slice/cri-containerd-{id}.scope");
        for cgroup in [pod, format!("/docker/{id}")] {
            assert_eq!(shared_name("api", &cgroup, |_| {}), "api in a container");
        }
        let files = shared_name("api", "/api.service", |claim| claim.resource = Resource::Files);
        assert_eq!(files, "open files of api in api.service");
        let long = shared_name(&"ä".repeat(99), "/x", |_| {});
        assert_eq!((long.len(), long.chars().next_back()), (SHARED_NAME_BYTES_MAX, Some('ä')));
    }
}
