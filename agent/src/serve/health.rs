//! Health of the agent, for `/healthz`: everything that it cannot see, limit or deliver.
//!
//! Pure: it takes events with their times, and reports those that still count. A loss counts for
//! some minutes, a failed action until one for the same incident succeeds, but at most an hour; a
//! missing probe counts while it is missing.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    act::{Outcome, OutcomeCause, OutcomeKind},
    bpf::ProbeStatus,
};

/// Time for which a loss counts. A guess: several periods of the probes that read `/healthz`, so
/// that each of them sees it.
const LOSS_COUNTS_SECS: f64 = 300.0;

/// Time for which a failed action counts, unless it succeeds before. A guess.
const SETBACK_COUNTS_SECS: f64 = 3_600.0;

/// Maximum number of incidents with failed actions; the oldest is forgotten first.
const SETBACKS_MAX: usize = 16;

/// Minimum time without any reads that counts as a loss. The default of `detect.overload.sustain`:
/// an overload of that length may be missed.
const GAP_MIN_SECS: f64 = 1.0;

/// Overall state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// The agent sees, limits and delivers everything.
    Ok,
    /// The agent works, except for the reasons given.
    Degraded,
    /// The agent no longer watches the host.
    Failing,
}

/// Response of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// Overall state.
    pub status: HealthStatus,
    /// Every reason for the state; empty if it is `ok`.
    pub reasons: Vec<Reason>,
}

/// Reason why the agent is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Kind, for programs.
    pub kind: &'static str,
    /// Sentence, for people.
    pub detail: String,
}

/// Events that bear on the agent's health.
#[derive(Debug, Default)]
pub struct Health {
    probes: Vec<Reason>,
    permanent: Vec<Reason>,
    lost: BTreeMap<&'static str, GrowingTotal>,
    untracked: GrowingTotal,
    gap: Option<(f64, f64)>,
    setbacks: BTreeMap<OutcomeCause, (f64, String)>,
}

/// A total that only rises, and the time of its last rise.
#[derive(Debug, Default)]
struct GrowingTotal {
    total: u64,
    at: Option<f64>,
}

impl HealthStatus {
    /// Name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

impl Reason {
    fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl Health {
    /// Notes the state of every probe.
    pub fn note_probes(&mut self, reports: &[ProbeStatus]) {
        let lacking = reports.iter().filter(|report| report.reason().is_some());
        self.probes = lacking.map(|report| Reason::new("probe", report.to_string())).collect();
    }

    /// Notes a fault that lasts as long as the agent runs.
    pub fn note_permanent(&mut self, kind: &'static str, detail: String) {
        self.permanent.push(Reason::new(kind, detail));
    }

    /// Notes the total of a loss, by name.
    pub fn note_lost(&mut self, now: f64, loss: &'static str, total: u64) {
        self.lost.entry(loss).or_default().note(now, total);
    }

    /// Notes the total of observations of processes and listeners for which there was no room.
    pub fn note_untracked(&mut self, now: f64, total: u64) {
        self.untracked.note(now, total);
    }

    /// Notes the length of a gap between reads.
    pub fn note_gap(&mut self, now: f64, secs: f64) {
        if secs >= GAP_MIN_SECS {
            self.gap = Some((now, secs));
        }
    }

    /// Notes an outcome: a setback counts until an action for the same incident succeeds.
    pub fn note_outcome(&mut self, now: f64, outcome: &Outcome) {
        let Outcome { event, cause, cgroup, why, .. } = outcome;
        if event.is_problem() {
            self.setbacks.insert(cause.clone(), (now, format!("{event} {cgroup}: {why}")));
            if self.setbacks.len() > SETBACKS_MAX {
                let oldest =
                    self.setbacks.iter().min_by(|one, other| one.1.0.total_cmp(&other.1.0));
                let oldest = oldest.map(|(cause, _)| cause.clone());
                oldest.and_then(|cause| self.setbacks.remove(&cause));
            }
        } else if !matches!(
            event,
            OutcomeKind::Refused
                | OutcomeKind::DrainRequested
                | OutcomeKind::UndrainRequested
                | OutcomeKind::ShedRefused
        ) {
            self.setbacks.remove(cause);
        }
    }

    /// Reports the health at `now`. `failing` is the reason if the agent no longer watches, and
    /// `undelivered` has the notifications that no receiver has taken.
    pub fn report(
        &self,
        now: f64,
        failing: Option<String>,
        undelivered: Vec<String>,
    ) -> HealthReport {
        let status = |reasons: &[Reason]| match (&failing, reasons) {
            (Some(_), _) => HealthStatus::Failing,
            (None, []) => HealthStatus::Ok,
            (None, _) => HealthStatus::Degraded,
        };
        let is_recent = |at: f64, secs: f64| now - at <= secs;
        let mut reasons: Vec<_> = failing.iter().map(|why| Reason::new("hang", why)).collect();
        reasons.extend(self.probes.iter().chain(&self.permanent).cloned());
        for (loss, rise) in &self.lost {
            if rise.is_recent(now) {
                reasons.push(Reason::new(
                    "lost",
                    format!("{loss}: {} lost since the start, some of them recently", rise.total),
                ));
            }
        }
        if self.untracked.is_recent(now) {
            let detail = "there are more processes or listeners than the agent can track, so \
                          some are not judged";
            reasons.push(Reason::new("untracked", detail));
        }
        if let Some((_, secs)) = self.gap.filter(|(at, _)| is_recent(*at, LOSS_COUNTS_SECS)) {
            reasons.push(Reason::new(
                "gap",
                format!("the agent recently read nothing for {secs:.1} s"),
            ));
        }
        let setbacks = self.setbacks.values().filter(|(at, _)| is_recent(*at, SETBACK_COUNTS_SECS));
        reasons.extend(setbacks.map(|(_, detail)| Reason::new("action", detail)));
        reasons.extend(undelivered.into_iter().map(|detail| Reason::new("notification", detail)));
        HealthReport { status: status(&reasons), reasons }
    }
}

impl GrowingTotal {
    fn note(&mut self, now: f64, total: u64) {
        if total > self.total {
            self.at = Some(now);
        }
        self.total = total;
    }

    fn is_recent(&self, now: f64) -> bool {
        self.at.is_some_and(|at| now - at <= LOSS_COUNTS_SECS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bpf::{
            Fallback, Hook, Probe,
            fallbacks::{Cause, Passed, Unavailable},
        },
        decide::IncidentId,
        sense::Sensors,
    };

    fn kinds(health: &Health, now: f64) -> Vec<&'static str> {
        health.report(now, None, Vec::new()).reasons.iter().map(|reason| reason.kind).collect()
    }

    fn outcome(event: OutcomeKind, id: &str) -> Outcome {
        let why = "Permission denied".to_owned();
        Outcome {
            t: 0.0,
            event,
            cause: IncidentId::from(id).into(),
            cgroup: "/a".into(),
            limit_bytes: None,
            why,
        }
    }

    #[test]
    fn agent_with_all_probes_is_ok() {
        const BEST: Fallback = Fallback::without_bpf(Hook::new("best"), "best");
        let mut health = Health::default();
        let attached =
            Probe::VARIANTS.map(|probe| ProbeStatus::new(probe, Some(&BEST), Vec::new()));
        health.note_probes(&attached);
        health.note_lost(1.0, "life_ring_full", 0);
        health.note_untracked(1.0, 0);
        health.note_gap(1.0, 0.9);
        let report = health.report(2.0, None, Vec::new());
        assert_eq!(serde_json::to_string(&report).unwrap(), r#"{"status":"ok","reasons":[]}"#);
    }

    #[test]
    fn missing_probe_counts_until_it_is_attached() {
        let mut health = Health::default();
        health.note_probes(Sensors::without_bpf("not root").reports());
        assert_eq!(kinds(&health, 1e9), ["probe"; Probe::VARIANTS.len()]);
        let passed = Passed {
            at: "it",
            shortfall: Unavailable::new(Cause::Refused, "kernel refused it (EPERM)"),
        };
        health.note_probes(&[ProbeStatus::new(Probe::FaultSamples, None, vec![passed])]);
        let report = health.report(0.0, None, Vec::new());
        assert_eq!(report.status, HealthStatus::Degraded);
        assert_eq!(
            report.reasons[0].detail,
            "probe fault_samples not attached: kernel refused it (EPERM)"
        );
        health.note_probes(&[]);
        assert_eq!(kinds(&health, 0.0), [""; 0]);
    }

    #[test]
    fn loss_counts_for_some_minutes() {
        let mut health = Health::default();
        for (now, total) in [(0.0, 3), (200.0, 4), (400.0, 4)] {
            health.note_lost(now, "listener_map_full", total);
            health.note_untracked(now, total);
        }
        health.note_gap(100.0, 1.5);
        assert_eq!(kinds(&health, 400.0), ["lost", "untracked", "gap"]);
        assert_eq!(kinds(&health, 450.0), ["lost", "untracked"]);
        assert_eq!(kinds(&health, 501.0), [""; 0]);
    }

    #[test]
    fn failed_action_counts_until_one_for_its_incident_succeeds() {
        let mut health = Health::default();
        health.note_outcome(0.0, &outcome(OutcomeKind::Failed, "leak-1"));
        health.note_outcome(0.0, &outcome(OutcomeKind::UndrainFailed, "node"));
        let report = health.report(1.0, None, Vec::new());
        assert_eq!(report.reasons[0].detail, "failed to limit /a: Permission denied");
        health.note_outcome(2.0, &outcome(OutcomeKind::Refused, "leak-1"));
        assert_eq!(kinds(&health, 3.0), ["action", "action"]);
        health.note_outcome(4.0, &outcome(OutcomeKind::Limited, "leak-1"));
        assert_eq!(kinds(&health, 5.0), ["action"]);
        assert_eq!(kinds(&health, 3_601.0), [""; 0]);
        for nth in 0..100 {
            health.note_outcome(
                f64::from(nth),
                &outcome(OutcomeKind::Failed, &format!("leak-{nth}")),
            );
        }
        assert_eq!(kinds(&health, 100.0).len(), SETBACKS_MAX);
    }

    #[test]
    fn hang_and_undelivered_notifications_are_reported() {
        let health = Health::default();
        let report = health.report(0.0, None, vec!["slack: failed".to_owned()]);
        assert_eq!(
            (report.status, report.reasons[0].kind),
            (HealthStatus::Degraded, "notification")
        );
        let report = health.report(0.0, Some("late".to_owned()), Vec::new());
        assert_eq!((report.status, report.reasons[0].kind), (HealthStatus::Failing, "hang"));
    }
}
