//! Outcomes of decisions and of the actions taken for them.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::decide::IncidentId;

/// Outcome of an action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// When, on the observations' clock, in seconds.
    pub t: f64,
    /// Outcome of an action.
    #[serde(rename = "outcome")]
    pub event: OutcomeKind,
    /// Cause of the action.
    #[serde(rename = "id")]
    pub cause: OutcomeCause,
    /// The cgroup concerned, as a path from the hierarchy's root or as a directory; `node` where it
    /// is all of them.
    pub cgroup: Arc<str>,
    /// The limit that stands now; `None` where there is none of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// The reason in a sentence, for a person.
    pub why: String,
}

/// Cause of an action. Prints as `operator`, or as the ids of the incidents with `, ` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutcomeCause {
    /// Incidents that the action was taken for; none if they are unknown.
    Incidents(Vec<IncidentId>),
    /// An operator's request.
    Operator,
}

/// Outcome of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The limit was set.
    Limited,
    /// It was not set, for a reason that is none of the kernel's.
    Refused,
    /// The kernel, or the disk, did not do what was asked.
    Failed,
    /// Somebody changed the limit, and it was set again.
    Reasserted,
    /// Somebody changed it once too often; it is left to them.
    Overridden,
    /// The limit was lowered.
    Tightened,
    /// The limit was raised, because the cgroup did nothing but wait for memory.
    Relaxed,
    /// The CPU was limited as well, because the process spun at its limit.
    CpuThrottled,
    /// The limit was raised, because processes that were moved replace memory that they had before.
    Widened,
    /// It does nothing but wait for memory, and the limit gives way no more.
    Thrashing,
    /// It does not grow any more.
    GrowthStopped,
    /// The incident is over, and the limit stays because it is what holds the memory down.
    KeptAfterIncident,
    /// The original value was restored.
    Undone,
    /// The cgroup is gone, and the limit with it.
    CgroupRemoved,
    /// Somebody was asked to give this node no new work.
    DrainRequested,
    /// That was granted.
    Draining,
    /// It has no work any more, or none that is waited for.
    Drained,
    /// The reason for the drain seems to be over.
    Verifying,
    /// It goes on taking work: nobody granted that it need not.
    DrainRefused,
    /// It was drained, and that did not help: it is undone.
    DrainUseless,
    /// Somebody was asked to give it work again.
    UndrainRequested,
    /// It takes work again.
    Undrained,
    /// Nobody granted that it may. That is asked for again.
    UndrainFailed,
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
    /// As it is printed for programs, and counted.
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
        }
    }

    /// Whether a human has to look now: what was done does not do what it is for.
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
            Self::Reasserted => "set again the limit of",
            Self::Overridden => "gave up the limit of",
            Self::Tightened => "tightened the limit of",
            Self::Relaxed => "widened the limit of",
            Self::CpuThrottled => "slowed down",
            Self::Widened => "made room below the limit of",
            Self::Thrashing => "cannot help",
            Self::GrowthStopped => "contained",
            Self::KeptAfterIncident => "keeps the limit of",
            Self::Undone => "put back the limit of",
            Self::CgroupRemoved => "forgot the limit of",
            Self::DrainRequested => "asked to drain",
            Self::Draining => "drains",
            Self::Drained => "drained",
            Self::Verifying => "looks once more at",
            Self::DrainRefused => "could not drain",
            Self::DrainUseless => "gives up the drain of",
            Self::UndrainRequested => "asked to undrain",
            Self::Undrained => "undrained",
            Self::UndrainFailed => "could not undrain",
        })
    }
}
