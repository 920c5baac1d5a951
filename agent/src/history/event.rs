//! Verdicts, decisions and outcomes as they are kept in the history: sentences with the time, the
//! incident and the subject.

use serde::{Deserialize, Serialize};

use crate::{
    act::{Outcome, notify::printable},
    decide::Decision,
    detect::Verdict,
};

/// Maximum length of a text, in characters. Evidence has some three hundred.
const TEXT_CHARS_MAX: usize = 600;

/// Kind of record that a line of the history is, beside the kinds of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// An event.
    #[default]
    Event,
}

/// An event of the agent. A field that is unknown to a reader is ignored, and one that is missing
/// is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEvent {
    /// Kind of record. It comes first, so that a reader tells an event without parsing it.
    pub kind: RecordKind,
    /// Time in seconds: on the agent's clock until it is written, since the boot from then on.
    pub t: f64,
    /// Progress: `raised`, `updated` or `cleared` of a verdict; `would`, `ordered` or `refused` of
    /// an action; or its outcome.
    pub event: String,
    /// Incidents that it belongs to.
    pub ids: Vec<String>,
    /// Kind of claim of a verdict; empty otherwise.
    pub verdict: String,
    /// Action of a decision or an outcome; empty for a verdict.
    pub action: String,
    /// Severity of a verdict; empty otherwise.
    pub severity: String,
    /// Cgroup concerned; empty if unknown.
    pub cgroup: String,
    /// Process concerned.
    pub pid: Option<u32>,
    /// Forecast of a verdict: time until the end.
    pub exhaustion_secs: Option<f64>,
    /// Interval of the forecast, soonest first.
    pub exhaustion_interval_secs: Option<[f64; 2]>,
    /// Headline of a verdict; empty otherwise.
    pub headline: String,
    /// Advice of a verdict; empty otherwise.
    pub advice: String,
    /// Evidence of a verdict, or reason for an action or its outcome.
    pub why: String,
}

impl HistoryEvent {
    /// Returns the event of a verdict on this host.
    pub fn of_verdict(verdict: &Verdict, host: &str) -> Self {
        let claim = &verdict.claim;
        Self {
            t: verdict.t,
            event: verdict.state.name().to_owned(),
            ids: vec![shown(&claim.id().to_string())],
            verdict: claim.name().to_owned(),
            severity: verdict.harm.as_ref().map_or("", |harm| harm.severity.name()).to_owned(),
            cgroup: shown(claim.cgroup()),
            pid: claim.pid(),
            exhaustion_secs: verdict.exhaustion_secs,
            exhaustion_interval_secs: verdict.exhaustion_interval_secs,
            headline: shown(&claim.headline(host, verdict.exhaustion_secs)),
            advice: shown(&claim.advice(verdict.exhaustion_secs)),
            why: shown(&verdict.why),
            ..Self::default()
        }
    }

    /// Returns the event of a decision.
    pub fn of_decision(decision: &Decision) -> Self {
        let (event, why) = match &decision.refused {
            Some(refusal) => ("refused", refusal.to_string()),
            None if decision.performed => ("ordered", decision.why.clone()),
            None => ("would", decision.why.clone()),
        };
        Self {
            t: decision.t(),
            event: event.to_owned(),
            ids: vec![shown(&decision.id.to_string())],
            action: decision.action.name().to_owned(),
            cgroup: shown(decision.cgroup()),
            why: shown(&why),
            ..Self::default()
        }
    }

    /// Returns the event of an outcome.
    pub fn of_outcome(outcome: &Outcome) -> Self {
        Self {
            t: outcome.t,
            event: outcome.event.name().to_owned(),
            ids: outcome.cause.incidents().iter().map(|id| shown(&id.to_string())).collect(),
            action: outcome.event.action().name().to_owned(),
            cgroup: shown(&outcome.cgroup),
            why: shown(&outcome.why),
            ..Self::default()
        }
    }
}

/// Makes a text that others have a part in printable, and short.
pub(crate) fn shown(text: &str) -> String {
    printable(&text.replace("\n  hint:", "; hint:"), TEXT_CHARS_MAX)
}
