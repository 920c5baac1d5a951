//! What policy chose, as a value that can be printed, recorded and carried out.
//!
//! An action is an enum variant, so that the compiler asks for its dry run, its guard, its record
//! and its undo wherever actions are handled. Unless it is performed, a decision is what *would* be
//! done.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use super::GuardRefusal;
use crate::{
    config::Mode,
    detect::{Claim, Resource, Severity, Verdict},
    sense::ProcessId,
};

/// What policy chose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// When, on the observations' clock, in seconds.
    pub t: f64,
    /// The effect asked for.
    #[serde(flatten)]
    pub action: Action,
    /// Whether decisions are carried out at all.
    #[serde(serialize_with = "mode_name")]
    pub mode: Mode,
    /// The incident that it belongs to; the same from raised to cleared.
    pub id: IncidentId,
    /// The cgroup concerned; empty where unknown.
    pub cgroup: Arc<str>,
    /// Whether it is carried out; what came of it is told apart.
    pub performed: bool,
    /// What stands against it; `None` where it is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<GuardRefusal>,
    /// The reason in a sentence, for a person.
    pub why: String,
}

/// The effect asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum Action {
    /// Tell a human.
    Page {
        /// How urgently.
        severity: Severity,
    },
    /// Throttle the cgroup with memory.high.
    Limit,
    /// Give the cgroup back what it had.
    Unlimit,
    /// Send this node less new work, down to a floor; it stays in rotation.
    Weigh,
    /// Send it as much as before.
    Unweigh,
    /// Stop new work on this node.
    Drain,
    /// Take new work again.
    Undrain,
    /// Tell the human that it is over.
    Resolve,
}

/// Names an incident by its subject, so that every restart and every replay names it alike. Prints
/// as `leak-PID-START_TICKS`, `leak-RESOURCE-PID-START_TICKS` where it is not memory that leaks,
/// `overload-NETNS-ADDR`, `cascade-risk-NETNS-ADDR-CGROUP`, or
/// `exhaustion-local_ports-NETNS-ADDR-CGROUP`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IncidentId {
    /// A leaking process, and what leaks.
    Leak(ProcessId, Resource),
    /// An overloaded listener.
    Overload {
        /// Inode number of its network namespace.
        netns: u32,
        /// Its address and port.
        addr: Arc<str>,
    },
    /// A workload's dependency that does not answer.
    CascadeRisk {
        /// The workload's cgroup.
        cgroup: Arc<str>,
        /// Inode number of its network namespace.
        netns: u32,
        /// The address that it connects to.
        addr: Arc<str>,
    },
    /// A workload that has no local port left to an address.
    Exhaustion {
        /// The workload's cgroup.
        cgroup: Arc<str>,
        /// Inode number of its network namespace.
        netns: u32,
        /// The address that it connects to.
        addr: Arc<str>,
    },
}

impl Action {
    /// Whether it changes nothing but what a human knows.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Page { .. } | Self::Resolve)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Page { severity: Severity::Info } => "page (info)",
            Self::Page { severity: Severity::Warning } => "page (warning)",
            Self::Page { severity: Severity::Critical } => "page (critical)",
            Self::Limit => "limit",
            Self::Unlimit => "unlimit",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Weigh => "weigh",
            Self::Unweigh => "unweigh",
            Self::Resolve => "resolve",
        })
    }
}

impl From<&Verdict> for IncidentId {
    fn from(verdict: &Verdict) -> Self {
        match &verdict.claim {
            Claim::Leak(claim) => Self::Leak(claim.id, claim.resource),
            Claim::Overload(claim) => {
                Self::Overload { netns: claim.netns, addr: claim.addr.clone() }
            }
            Claim::CascadeRisk(claim) => Self::CascadeRisk {
                cgroup: claim.cgroup.clone(),
                netns: claim.netns,
                addr: claim.addr.clone(),
            },
            Claim::Exhaustion(claim) => Self::Exhaustion {
                cgroup: claim.cgroup.clone(),
                netns: claim.netns,
                addr: claim.addr.clone(),
            },
        }
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leak(id, Resource::Memory) => write!(f, "leak-{}-{}", id.pid, id.start_ticks),
            Self::Leak(id, resource) => {
                write!(f, "leak-{}-{}-{}", resource.name(), id.pid, id.start_ticks)
            }
            Self::Overload { netns, addr } => write!(f, "overload-{netns}-{addr}"),
            Self::CascadeRisk { cgroup, netns, addr } => {
                write!(f, "cascade-risk-{netns}-{addr}-{cgroup}")
            }
            Self::Exhaustion { cgroup, netns, addr } => {
                write!(f, "exhaustion-local_ports-{netns}-{addr}-{cgroup}")
            }
        }
    }
}

impl Serialize for IncidentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn mode_name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.name())
}
