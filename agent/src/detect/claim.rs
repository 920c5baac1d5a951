//! Questions about a claim that its own file answers, so that policy, actions and notifications
//! need not know its kind.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::incident_id::IncidentId;
use crate::{config::DecideConfig, sense::identity::ClaimedWorkload};

/// Answers of a claim about itself.
pub trait ClaimDetails {
    /// Identity of the claim, the same from raised to cleared, after a restart and in a replay.
    fn id(&self) -> IncidentId;

    /// Resource that runs out, by its name in metrics.
    fn resource(&self) -> &'static str;

    /// Cgroup concerned; empty if unknown.
    fn cgroup(&self) -> &Arc<str>;

    /// Process concerned, if known.
    fn pid(&self) -> Option<u32>;

    /// Workload concerned, to look up whom a person knows it as.
    fn workload(&self) -> ClaimedWorkload {
        ClaimedWorkload { pid: self.pid(), start_ticks: None, cgroup: self.cgroup().clone() }
    }

    /// Network namespace and address of the listener concerned, if it is one.
    fn listener(&self) -> Option<(u32, &Arc<str>)> {
        None
    }

    /// Part of the claim that is reported anew if it changes while the claim is open.
    fn diagnosis(&self) -> Diagnosis {
        Diagnosis::default()
    }

    /// Resource of the whole host that the subject is short of. Claims that are raised at the same
    /// moment for want of the same resource have one cause.
    fn host_shortage(&self) -> Option<&'static str> {
        None
    }

    /// Whether the whole host is at stake, whatever the workload is.
    fn endangers_host(&self) -> bool {
        false
    }

    /// Urgency, and the reason for it in a sentence for a person.
    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String);

    /// Actions that the claim calls for now. By default none.
    fn wants(&self, _situation: &Situation<'_>) -> Wants {
        Wants::default()
    }

    /// Name in a list of claims, such as `overload of 0.0.0.0:80`.
    fn label(&self) -> String;

    /// Subject in a few words, as notifications name it.
    fn component(&self) -> String;

    /// Kind of incident in a few words, as notifications name it.
    fn class(&self) -> String;

    /// Subject, evidence and consequence in a sentence without a full stop.
    fn headline(&self, host: &str, exhaustion_secs: Option<f64>) -> String;

    /// Headline while a limit of Spillway's, in bytes, holds the subject: nothing fails at it.
    fn held_headline(&self, host: &str, _limit_bytes: u64) -> String {
        self.headline(host, None)
    }

    /// Advice to the person notified: an imperative without a full stop.
    fn advice(&self, exhaustion_secs: Option<f64>) -> String;
}

/// Diagnosis of a claim: the scarce resource, the sign of a cascade, and what else its sentence
/// explains.
pub type Diagnosis = [Option<&'static str>; 5];

/// Urgency of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Recorded and printed, not paged.
    Info,
    /// For a person in working hours.
    Warning,
    /// For a person now.
    Critical,
}

impl Severity {
    /// Name as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Harm that a claim does, as assessed by the policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Harm {
    /// Urgency.
    pub severity: Severity,
    /// Reason for the urgency, for a person.
    #[serde(rename = "severity_why")]
    pub reason: String,
    /// Whether a service or the whole host is at stake: only then may the node be drained, or get
    /// less work, because of the claim.
    #[serde(skip)]
    pub is_nodes: bool,
}

/// Importance of the workload that a claim is about, as far as the policy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Importance {
    /// Whether it is a service: listed by the operator, or used by others for minutes.
    pub is_service: bool,
    /// Whether root set it up, rather than any user.
    pub is_administered: bool,
    /// Reason, for a person.
    pub reason: String,
}

impl Importance {
    /// Severity of a claim that concerns the workload alone and is no reason to wake anybody up: a
    /// workload that an administrator set up is worth a look in working hours, a user's is not.
    pub fn severity_if_alone(&self) -> Severity {
        if self.is_service || self.is_administered { Severity::Warning } else { Severity::Info }
    }
}

/// Knowledge beside the claim that its severity depends on.
#[derive(Debug, Clone, Copy)]
pub struct Assessment<'a> {
    /// Forecast of the verdict, in seconds from now.
    pub exhaustion_secs: Option<f64>,
    /// Time since the claim was raised, in seconds.
    pub lasted_secs: f64,
    /// Importance of the workload concerned.
    pub importance: &'a Importance,
    /// Set if connections are refused at its door, so that those that get in are answered.
    pub is_shed: bool,
    /// Configuration of the policy.
    pub config: &'a DecideConfig,
}

/// Knowledge beside the claim that the actions depend on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Forecast of the verdict, in seconds from now; infinite without one.
    pub left_secs: f64,
    /// Severity of the claim.
    pub severity: Severity,
    /// Whether a service or the whole host is at stake.
    pub is_nodes: bool,
    /// Whether an action that was taken did not help.
    pub is_set_back: bool,
    /// Whether some service grants drains, and so knows whether other nodes can carry the load.
    pub has_granter: bool,
    /// Set in this node's turn to leave, so early because other nodes of its group have to
    /// leave after it.
    pub is_turn: bool,
    /// Wait to which the accept queue of the listener concerned may be bounded, in seconds; `None`
    /// if it may not be.
    pub shed_wait_secs: Option<f64>,
    /// Configuration of the policy.
    pub config: &'a DecideConfig,
}

/// Actions that a claim calls for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// A limit on its cgroup.
    pub limit: bool,
    /// A shorter accept queue for its listener.
    pub shed: bool,
    /// Reason for which that would not help where it is allowed; `None` if it would, or is not.
    pub not_shed: Option<&'static str>,
    /// Less new work for this node.
    pub weigh: bool,
    /// No new work for this node.
    pub drain: bool,
}

/// Sign of a cascade.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Sign {
    /// More connections arrive than before while the service accepts as many as before: load of
    /// peers that failed.
    LoadSurge,
    /// More arrive while fewer are accepted: clients retry.
    RetryStorm,
    /// Connects to an address that used to answer fail.
    DependencyDown,
}

/// Returns the name of a program, or `unknown` if it has none.
pub(super) fn program<'a>(comm: &'a str, unknown: &'a str) -> &'a str {
    if comm.is_empty() { unknown } else { comm }
}
