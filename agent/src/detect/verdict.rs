//! What a detector claims, with its evidence and forecast.
//!
//! The serialised form is what `spillway replay` and `spillway run --json` print, one object a
//! line.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::sense::ProcessId;

/// A detector's claim, made or withdrawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// When, on the observations' clock, in seconds.
    pub t: f64,
    /// What is claimed, about whom.
    #[serde(flatten)]
    pub claim: Claim,
    /// Seconds until what leaks runs out or the accept queue overflows; `None` where nothing is
    /// forecast.
    pub exhaustion_secs: Option<f64>,
    /// 95 % of it, soonest first; `None` where growth is too uncertain to say, and where nothing is
    /// forecast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhaustion_interval_secs: Option<[f64; 2]>,
    /// How sure the detector is, 0 to 1.
    pub confidence: f64,
    /// Set if the claim is made, changed or withdrawn.
    pub state: ClaimState,
    /// Harm that it does, and to whom; `None` until the policy has weighed it.
    #[serde(flatten)]
    pub harm: Option<Harm>,
    /// The evidence in a sentence, for a person.
    pub why: String,
}

/// Harm that a claim does, weighed by the policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Harm {
    /// Urgency.
    pub severity: Severity,
    /// Reason for it, for a person.
    #[serde(rename = "severity_why")]
    pub reason: String,
    /// Set if a service or the whole host is at stake: only then the node may be drained, or get
    /// less work, for it.
    #[serde(skip)]
    pub is_nodes: bool,
}

/// Urgency of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Recorded and printed; nobody is paged.
    Info,
    /// For a human in working hours.
    Warning,
    /// For a human now.
    Critical,
}

impl Severity {
    /// Name as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Progress of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// The condition holds.
    Raised,
    /// It still holds, and its severity or its diagnosis has changed.
    Updated,
    /// The condition is over.
    Cleared,
}

/// What is claimed, about whom.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Claim {
    /// A process grows without end.
    Leak(LeakClaim),
    /// A listener's accept queue stands.
    Overload(OverloadClaim),
    /// Something fails that makes others fail.
    CascadeRisk(CascadeRiskClaim),
    /// Something other than memory runs out, or has run out.
    Exhaustion(ExhaustionClaim),
}

impl ClaimState {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Cleared => "cleared",
        }
    }
}

impl Claim {
    /// What kind of claim, as it is printed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Leak(_) => "leak",
            Self::Overload(_) => "overload",
            Self::CascadeRisk(_) => "cascade_risk",
            Self::Exhaustion(_) => "exhaustion",
        }
    }

    /// What runs out.
    pub fn resource(&self) -> &'static str {
        match self {
            Self::Leak(claim) => claim.resource.name(),
            Self::Overload(_) => "accept_queue",
            Self::CascadeRisk(_) => "dependency",
            Self::Exhaustion(_) => ExhaustionClaim::LOCAL_PORTS,
        }
    }

    /// The cgroup concerned; empty where unknown.
    pub fn cgroup(&self) -> &Arc<str> {
        match self {
            Self::Leak(claim) => &claim.cgroup,
            Self::Overload(claim) => &claim.cgroup,
            Self::CascadeRisk(claim) => &claim.cgroup,
            Self::Exhaustion(claim) => &claim.cgroup,
        }
    }

    /// Process concerned, if known.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Leak(claim) => Some(claim.id.pid),
            Self::Overload(claim) => claim.pid,
            Self::CascadeRisk(claim) => Some(claim.pid),
            Self::Exhaustion(claim) => Some(claim.pid),
        }
        .filter(|pid| *pid > 0)
    }
}

/// What leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Anonymous, swapped and shared memory.
    Memory,
    /// Open files, but for sockets in CLOSE_WAIT.
    Files,
    /// Threads.
    Threads,
    /// TCP sockets that the peer has closed and the process has not.
    CloseWait,
}

impl Resource {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Threads => "threads",
            Self::CloseWait => "close_wait",
        }
    }

    /// Printed claims of memory do not name it, as they did before there was anything else to leak.
    fn is_memory(&self) -> bool {
        *self == Self::Memory
    }
}

/// Owner of the limit that a leak runs into first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bound {
    /// The process's own, or its cgroup's: nobody else is hurt.
    Own,
    /// The whole host.
    #[default]
    Host,
}

/// A process that grows without end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeakClaim {
    /// What of it grows.
    #[serde(skip_serializing_if = "Resource::is_memory")]
    pub resource: Resource,
    /// Which process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Its name.
    pub comm: Arc<str>,
    /// Its cgroup.
    pub cgroup: Arc<str>,
    /// How fast its memory grows; `None` where something else leaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_sec: Option<f64>,
    /// How fast its files, threads or sockets grow in number; `None` where memory leaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_handles_per_sec: Option<f64>,
    /// 95 % of the growth of memory; `None` once the claim is withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_interval_bytes_per_sec: Option<[f64; 2]>,
    /// Owner of the limit that it runs into first.
    #[serde(skip)]
    pub bound: Bound,
}

/// A listener whose accept queue stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OverloadClaim {
    /// Address and port.
    pub addr: Arc<str>,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// A process that holds the socket, where known.
    pub pid: Option<u32>,
    /// Its name; empty where unknown.
    #[serde(skip_serializing_if = "is_empty")]
    pub comm: Arc<str>,
    /// Its cgroup; empty where unknown.
    pub cgroup: Arc<str>,
    /// What its service runs short of; `None` where nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scarce: Option<Bottleneck>,
    /// The sign of a cascade that comes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,
    /// Connections waiting.
    pub backlog: u32,
    /// The listener's limit.
    pub backlog_max: u32,
    /// How fast the queue grows, in connections a second.
    pub backlog_growth_per_sec: f64,
    /// Connections that come to the address a second; `None` where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_per_sec: Option<f64>,
    /// Connections that are accepted a second; `None` where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepts_per_sec: Option<f64>,
    /// How long the oldest connection has waited; `None` where it cannot be seen.
    pub oldest_wait_us: Option<u64>,
    /// Set if fewer are accepted than before though no more come.
    #[serde(skip)]
    pub is_slower: bool,
}

/// What an overloaded service runs short of. The fix differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// CPU: more of it, or less work.
    Cpu,
    /// Memory: it stalls on reclaim.
    Memory,
    /// The accept loop does not turn.
    AcceptLoop,
    /// The listener's limit: bursts that it could serve find no room.
    Backlog,
    /// Workers: all wait for something else, or are too few.
    Workers,
}

/// A sign of a cascade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// More connections come than before while the service accepts as it did: load of peers that
    /// failed.
    LoadSurge,
    /// More come while fewer are accepted: clients try again.
    RetryStorm,
    /// Connects to an address that used to answer fail.
    DependencyDown,
}

/// Something fails that makes others fail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CascadeRiskClaim {
    /// Which sign.
    pub sign: Sign,
    /// The address that is connected to.
    pub addr: Arc<str>,
    /// Inode number of the network namespace from which.
    pub netns: u32,
    /// A process that connects.
    pub pid: u32,
    /// Its name; empty where unknown.
    #[serde(skip_serializing_if = "is_empty")]
    pub comm: Arc<str>,
    /// Its cgroup; empty where unknown.
    pub cgroup: Arc<str>,
    /// Connects that failed since the first of those that failed in a row.
    pub failed: u64,
    /// Reason to think that no user misses the dependency; `None` without one.
    #[serde(skip)]
    pub spared: Option<Spared>,
}

/// Reason to think that no user misses a dependency that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    /// Far fewer connect than before, as if only health checks were left.
    OnlyChecks,
    /// Another address with the same port answers the same workload.
    OthersAnswer,
}

/// Something other than memory that runs out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExhaustionClaim {
    /// Name of the resource: [`ExhaustionClaim::LOCAL_PORTS`].
    pub resource: &'static str,
    /// Address that the ports lead to.
    pub addr: Arc<str>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// A process that connects.
    pub pid: u32,
    /// Name; empty if unknown.
    #[serde(skip_serializing_if = "is_empty")]
    pub comm: Arc<str>,
    /// Cgroup; empty if unknown.
    pub cgroup: Arc<str>,
    /// Connects that failed for want of a port, since the first of them in a row.
    pub failed: u64,
}

impl ExhaustionClaim {
    /// Local ports to one destination.
    pub const LOCAL_PORTS: &'static str = "local_ports";
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}
