//! Decisions as values that can be printed, recorded and carried out.
//!
//! An action is an enum variant, so that the compiler asks for its dry run, its guard, its record
//! and its undo wherever actions are handled. A decision that is not performed says what *would* be
//! done.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use super::GuardRefusal;
use crate::{
    config::{Choice as _, Mode},
    detect::{IncidentId, Severity, Verdict},
};

/// An action that the policy chose, with the verdict that it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Action called for.
    pub action: Action,
    /// Mode of the agent: whether decisions are carried out at all.
    pub mode: Mode,
    /// Verdict that the decision answers.
    pub verdict: Arc<Verdict>,
    /// Incident that it belongs to, the same from raised to cleared. A page is called after the
    /// first claim of its incident, which may not be that of the verdict.
    pub id: IncidentId,
    /// Whether it is carried out; the outcome is reported separately.
    pub performed: bool,
    /// Guard's refusal; `None` if the action is granted.
    pub refused: Option<GuardRefusal>,
    /// Reason in a sentence, for a person.
    pub why: String,
}

impl Decision {
    /// Returns a decision about an overload, for tests.
    #[cfg(test)]
    pub(crate) fn sample(action: Action) -> Self {
        let claim = crate::detect::OverloadClaim::default();
        let verdict = Verdict::raised(3.0, claim, 1.0, String::new());
        Self {
            id: IncidentId::from(&verdict),
            action,
            mode: Mode::Enforce,
            verdict: Arc::new(verdict),
            performed: false,
            refused: None,
            why: String::new(),
        }
    }

    /// Time on the observations' clock, in seconds.
    pub fn t(&self) -> f64 {
        self.verdict.t
    }

    /// Cgroup concerned; empty if unknown.
    pub fn cgroup(&self) -> &Arc<str> {
        self.verdict.claim.cgroup()
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// A decision as printed; the verdict is printed on a line of its own.
        #[derive(Serialize)]
        struct Record<'a> {
            t: f64,
            #[serde(flatten)]
            action: Action,
            mode: &'static str,
            id: &'a IncidentId,
            cgroup: &'a str,
            performed: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            refused: &'a Option<GuardRefusal>,
            why: &'a str,
        }

        Record {
            t: self.t(),
            action: self.action,
            mode: self.mode.name(),
            id: &self.id,
            cgroup: self.cgroup(),
            performed: self.performed,
            refused: &self.refused,
            why: &self.why,
        }
        .serialize(serializer)
    }
}

/// An effect that the policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
pub enum Action {
    /// Notify a person.
    Page {
        /// Urgency.
        severity: Severity,
    },
    /// Throttle the cgroup with memory.high.
    Limit,
    /// Restore the cgroup's previous limit.
    Unlimit,
    /// Bound the accept queue of the listener, so that new connections are refused early.
    Shed,
    /// Restore the accept queue's length.
    Unshed,
    /// Send this node less new work, down to a floor; it stays in rotation.
    Weigh,
    /// Send this node as much work as before.
    Unweigh,
    /// Stop new work on this node.
    Drain,
    /// Accept new work again.
    Undrain,
    /// Tell the person notified that the incident is over.
    Resolve,
}

impl Action {
    /// Name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page { .. } => "page",
            Self::Limit => "limit",
            Self::Unlimit => "unlimit",
            Self::Shed => "shed",
            Self::Unshed => "unshed",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Weigh => "weigh",
            Self::Unweigh => "unweigh",
            Self::Resolve => "resolve",
        }
    }

    /// Returns whether it only notifies and changes nothing on the host.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Page { .. } | Self::Resolve)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page { severity } => write!(f, "{} ({})", self.name(), severity.name()),
            _ => f.write_str(self.name()),
        }
    }
}
