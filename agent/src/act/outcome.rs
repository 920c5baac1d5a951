//! Outcomes of actions.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::decide::{Action, IncidentId};

/// Outcome of an action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Time on the observations' clock, in seconds.
    pub t: f64,
    /// Kind of outcome.
    #[serde(rename = "outcome")]
    pub event: OutcomeKind,
    /// Cause of the action.
    #[serde(rename = "id")]
    pub cause: OutcomeCause,
    /// Cgroup concerned, as a path from the hierarchy's root or as a directory; the address for an
    /// action on a listener, and `node` for one on the whole node.
    pub cgroup: Arc<str>,
    /// Limit in effect; `None` without one of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Reason in a sentence, for a person.
    pub why: String,
}

/// Cause of an action. Prints as `operator`, or as the ids of the incidents separated by `, `.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeCause {
    /// Incidents that the action was taken for; none if they are unknown.
    Incidents(Vec<IncidentId>),
    /// An operator's request.
    Operator,
}

/// Kind of outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The limit was set.
    Limited,
    /// The limit was not set, because policy or safety forbids it.
    Refused,
    /// The kernel or the disk rejected a change.
    Failed,
    /// Others changed the limit, and it was set again.
    Reasserted,
    /// Others changed the limit once too often, so that it is left to them.
    Overridden,
    /// The limit was lowered.
    Tightened,
    /// The limit was raised, because all processes of the cgroup only waited for memory.
    Relaxed,
    /// The CPU was throttled too, because the cgroup spun at its limit.
    CpuThrottled,
    /// The limit was raised, because moved processes replace memory that they had before.
    Widened,
    /// All processes of the cgroup only wait for memory, and the limit is not raised any more.
    Thrashing,
    /// The memory has stopped growing.
    GrowthStopped,
    /// The incident is over, and the limit stays because it holds the memory down.
    KeptAfterIncident,
    /// The original value was restored.
    Undone,
    /// The cgroup is gone, and the limit with it.
    CgroupRemoved,
    /// The receiver was asked to send this node no new work.
    DrainRequested,
    /// The drain was granted.
    Draining,
    /// The node has no work any more, or none that is waited for.
    Drained,
    /// The reason for the drain seems to be over.
    Verifying,
    /// The drain was not granted, and the node keeps taking work.
    DrainRefused,
    /// The drain did not help, and is undone.
    DrainUseless,
    /// The receiver was asked to send the node work again.
    UndrainRequested,
    /// The node takes work again.
    Undrained,
    /// Work was not granted; the receiver is asked again.
    UndrainFailed,
    /// The accept queue is bounded.
    Shedding,
    /// The accept queue is not bounded, because policy or safety forbids it.
    ShedRefused,
    /// The kernel or the disk rejected a change of the accept queue.
    ShedFailed,
    /// Others changed the length of the accept queue, so that it is left to them.
    ShedYielded,
    /// The original length of the accept queue was restored.
    Unshed,
}

impl OutcomeCause {
    /// Cause of an action that belongs to no known incident.
    pub const UNKNOWN: Self = Self::Incidents(Vec::new());

    /// Name of an operator's request, in print and on disk.
    pub const OPERATOR: &str = "operator";

    /// Incidents that the action was taken for.
    pub fn incidents(&self) -> &[IncidentId] {
        match self {
            Self::Incidents(ids) => ids,
            Self::Operator => &[],
        }
    }
}

impl From<IncidentId> for OutcomeCause {
    fn from(id: IncidentId) -> Self {
        Self::Incidents(vec![id])
    }
}

impl fmt::Display for OutcomeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incidents(ids) => ids.iter().enumerate().try_for_each(|(index, id)| {
                let separator = if index == 0 { "" } else { ", " };
                write!(f, "{separator}{id}")
            }),
            Self::Operator => f.write_str(Self::OPERATOR),
        }
    }
}

impl Serialize for OutcomeCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl OutcomeKind {
    /// Name in print for programs, and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Reasserted => "reasserted",
            Self::Overridden => "yielded",
            Self::Tightened => "tightened",
            Self::Relaxed => "backed_off",
            Self::CpuThrottled => "slowed",
            Self::Widened => "widened",
            Self::Thrashing => "thrashing",
            Self::GrowthStopped => "still",
            Self::KeptAfterIncident => "held",
            Self::Undone => "undone",
            Self::CgroupRemoved => "gone",
            Self::DrainRequested => "drain_requested",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Verifying => "verifying",
            Self::DrainRefused => "drain_refused",
            Self::DrainUseless => "drain_useless",
            Self::UndrainRequested => "undrain_requested",
            Self::Undrained => "undrained",
            Self::UndrainFailed => "undrain_failed",
            Self::Shedding => "shedding",
            Self::ShedRefused => "shed_refused",
            Self::ShedFailed => "shed_failed",
            Self::ShedYielded => "shed_yielded",
            Self::Unshed => "unshed",
        }
    }

    /// Returns the action that it is an outcome of.
    pub fn action(self) -> Action {
        match self {
            Self::Limited
            | Self::Refused
            | Self::Failed
            | Self::Reasserted
            | Self::Overridden
            | Self::Tightened
            | Self::Relaxed
            | Self::CpuThrottled
            | Self::Widened
            | Self::Thrashing
            | Self::GrowthStopped
            | Self::KeptAfterIncident
            | Self::Undone
            | Self::CgroupRemoved => Action::Limit,
            Self::DrainRequested
            | Self::Draining
            | Self::Drained
            | Self::Verifying
            | Self::DrainRefused
            | Self::DrainUseless
            | Self::UndrainRequested
            | Self::Undrained
            | Self::UndrainFailed => Action::Drain,
            Self::Shedding
            | Self::ShedRefused
            | Self::ShedFailed
            | Self::ShedYielded
            | Self::Unshed => Action::Shed,
        }
    }

    /// Returns whether nothing that the action changed is in effect any more.
    pub fn is_end(self) -> bool {
        matches!(
            self,
            Self::Undone
                | Self::CgroupRemoved
                | Self::Overridden
                | Self::ShedYielded
                | Self::Unshed
                | Self::Undrained
        )
    }

    /// Returns whether it is worth a log line and a note on health: a setback, or a length that
    /// could not be set or restored.
    pub fn is_problem(self) -> bool {
        self.is_setback() || self == Self::ShedFailed
    }

    /// Returns whether no load is shed, or none any more.
    pub fn ends_shedding(self) -> bool {
        matches!(self, Self::ShedRefused | Self::ShedFailed | Self::ShedYielded | Self::Unshed)
    }

    /// Returns whether a person has to look at it: the action does not have its effect. Load that
    /// is not shed is no reason: the overload is paged for as without, once it has lasted.
    pub fn is_setback(self) -> bool {
        matches!(
            self,
            Self::Failed
                | Self::Overridden
                | Self::Relaxed
                | Self::Thrashing
                | Self::DrainRefused
                | Self::DrainUseless
                | Self::UndrainFailed
        )
    }
}

impl Serialize for OutcomeKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limited => "limited",
            Self::Refused => "refused to limit",
            Self::Failed => "failed to limit",
            Self::Reasserted => "restored the limit of",
            Self::Overridden => "gave up the limit of",
            Self::Tightened => "tightened the limit of",
            Self::Relaxed => "raised the limit of",
            Self::CpuThrottled => "throttled the CPU of",
            Self::Widened => "raised the limit of",
            Self::Thrashing => "cannot help",
            Self::GrowthStopped => "contained",
            Self::KeptAfterIncident => "keeps the limit of",
            Self::Undone => "lifted the limit of",
            Self::CgroupRemoved => "dropped the limit of",
            Self::DrainRequested => "asked to drain",
            Self::Draining => "drains",
            Self::Drained => "drained",
            Self::Verifying => "verifying",
            Self::DrainRefused => "could not drain",
            Self::DrainUseless => "gave up the drain of",
            Self::UndrainRequested => "asked to undrain",
            Self::Undrained => "undrained",
            Self::UndrainFailed => "could not undrain",
            Self::Shedding => "sheds load at",
            Self::ShedRefused => "refused to shed load at",
            Self::ShedFailed => "failed to shed load at",
            Self::ShedYielded => "gave up shedding load at",
            Self::Unshed => "restored the accept queue of",
        })
    }
}
