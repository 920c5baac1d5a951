//! The ladder: how policy answers a claim, one rung at a time, and climbs back down when it is over.
//!
//! A leak pages as a warning at once; it is limited, and then drained away from, when its forecast comes nearer than the
//! configured distances, which may be long after it was raised: so the ladder reads every fresh forecast too. Files, threads
//! and sockets are not limited: throttling memory closes none of them. An overload
//! drains and pages at once, because a queue that stands has seconds; one whose backlog is too small is a warning, and so is a dependency
//! that does not answer, because no drain helps either. Each rung is taken once an incident; clearing undoes
//! what was done and resolves. Cold start: no incidents. Failure: an update of an unknown incident is nothing.
//! It refuses to guard: protected units, budgets and cooldowns stand between a decision and its performance.

use std::collections::BTreeMap;

use super::{Action, Decision, IncidentId, Severity};
use crate::{
    config::{DecideConfig, Mode},
    detect::{Claim, Resource, Scarce, State, Verdict},
};

/// The policy and its open incidents. As many as detectors hold claims, so bounded by them.
pub struct Ladder {
    config: DecideConfig,
    mode: Mode,
    incidents: BTreeMap<IncidentId, Incident>,
}

/// An open incident and the rungs taken.
struct Incident {
    latest: Verdict,
    limited: bool,
    drained: bool,
}

impl Ladder {
    /// No incidents yet.
    pub fn new(config: &DecideConfig, mode: Mode) -> Self {
        Self { config: config.clone(), mode, incidents: BTreeMap::new() }
    }

    /// Claims that stand, each with its latest forecast, in a stable order.
    pub fn open(&self) -> impl Iterator<Item = &Verdict> {
        self.incidents.values().map(|incident| &incident.latest)
    }

    /// Answers a claim that was made or withdrawn.
    pub fn judge(&mut self, verdict: &Verdict, decisions: &mut Vec<Decision>) {
        let id = IncidentId::from(verdict);
        match verdict.state {
            State::Raised => {
                let severity = match verdict.claim {
                    Claim::Leak(_) | Claim::CascadeRisk(_) => Severity::Warning,
                    Claim::Overload(ref claim) if claim.scarce == Some(Scarce::Backlog) => Severity::Warning,
                    Claim::Overload(_) => Severity::Critical,
                };
                let why = verdict.why.clone();
                decisions.push(self.decision(verdict, &id, Action::Page { severity }, why));
                self.incidents.insert(id, Incident { latest: verdict.clone(), limited: false, drained: false });
                self.climb(verdict, decisions);
            }
            State::Cleared => {
                let Some(incident) = self.incidents.remove(&id) else { return };
                if incident.drained {
                    decisions.push(self.decision(verdict, &id, Action::Undrain, verdict.why.clone()));
                }
                decisions.push(self.decision(verdict, &id, Action::Resolve, verdict.why.clone()));
            }
        }
    }

    /// Answers a fresh forecast of a claim that stands.
    pub fn update(&mut self, verdict: &Verdict, decisions: &mut Vec<Decision>) {
        if let Some(incident) = self.incidents.get_mut(&IncidentId::from(verdict)) {
            incident.latest = verdict.clone();
            self.climb(verdict, decisions);
        }
    }

    /// Takes the rungs that the forecast calls for and that are not taken yet.
    fn climb(&mut self, verdict: &Verdict, decisions: &mut Vec<Decision>) {
        let id = IncidentId::from(verdict);
        let Some(incident) = self.incidents.get_mut(&id) else { return };
        let left_secs = verdict.exhaustion_secs.unwrap_or(f64::INFINITY);
        let (limit, drain) = match verdict.claim {
            Claim::Leak(ref claim) => (
                claim.resource == Resource::Memory && left_secs <= self.config.limit_within.as_secs_f64(),
                left_secs <= self.config.drain_within.as_secs_f64(),
            ),
            // Elsewhere the same bursts meet the same backlog; and what a dependency withholds, no other node has.
            Claim::Overload(ref claim) => (false, claim.scarce != Some(Scarce::Backlog)),
            Claim::CascadeRisk(_) => (false, false),
        };
        let limit = limit && !std::mem::replace(&mut incident.limited, true);
        let drain = drain && !std::mem::replace(&mut incident.drained, true);
        if limit {
            decisions.push(self.decision(verdict, &id, Action::Limit, verdict.why.clone()));
        }
        if drain {
            decisions.push(self.decision(verdict, &id, Action::Drain, verdict.why.clone()));
        }
    }

    fn decision(&self, verdict: &Verdict, id: &IncidentId, action: Action, why: String) -> Decision {
        let cgroup = verdict.claim.cgroup().clone();
        let performed = match self.mode {
            Mode::Observe => false,
        };
        Decision { t: verdict.t, action, mode: self.mode, id: id.clone(), cgroup, performed, why }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        detect::{LeakClaim, OverloadClaim},
        sense::ProcessId,
    };

    fn leak(state: State, exhaustion_secs: f64) -> Verdict {
        let claim = LeakClaim {
            resource: Resource::Memory,
            id: ProcessId { pid: 812, start_ticks: 4711 },
            comm: Arc::from("api"),
            cgroup: Arc::from("/api.service"),
            growth_bytes_per_sec: Some(1.0),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
        };
        Verdict {
            t: 1.0,
            claim: Claim::Leak(claim),
            exhaustion_secs: Some(exhaustion_secs),
            exhaustion_interval_secs: None,
            confidence: 1.0,
            state,
            why: "so".into(),
        }
    }

    fn names(ladder: &mut Ladder, verdict: &Verdict, fresh: bool) -> Vec<String> {
        let mut decisions = Vec::new();
        if fresh {
            ladder.judge(verdict, &mut decisions)
        } else {
            ladder.update(verdict, &mut decisions)
        }
        decisions.iter().map(|d| format!("{} {:?}", d.id, d.action)).collect()
    }

    #[test]
    fn a_leak_climbs_as_its_end_nears_and_steps_down_once() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Observe);
        let page = "leak-812-4711 Page { severity: Warning }";
        assert_eq!(names(&mut ladder, &leak(State::Raised, 9_000.0), true), [page]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 3_601.0), false), [""; 0]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 3_600.0), false), ["leak-812-4711 Limit"]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 600.0), false), ["leak-812-4711 Drain"]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 9_000.0), false), [""; 0]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 1.0), false), [""; 0]);
        assert_eq!(ladder.open().count(), 1);
        let down = ["leak-812-4711 Undrain", "leak-812-4711 Resolve"];
        assert_eq!(names(&mut ladder, &leak(State::Cleared, 0.0), true), down);
        assert_eq!(names(&mut ladder, &leak(State::Cleared, 0.0), true), [""; 0]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 1.0), false), [""; 0]);
    }

    #[test]
    fn files_that_leak_are_another_incident_and_are_never_limited() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Observe);
        let mut files = leak(State::Raised, 3_000.0);
        let Claim::Leak(claim) = &mut files.claim else { unreachable!() };
        claim.resource = Resource::Files;
        names(&mut ladder, &leak(State::Raised, 9_000.0), true);
        let page = "leak-files-812-4711 Page { severity: Warning }";
        assert_eq!(names(&mut ladder, &files, true), [page]);
        assert_eq!(ladder.open().count(), 2);
        files.exhaustion_secs = Some(500.0);
        assert_eq!(names(&mut ladder, &files, false), ["leak-files-812-4711 Drain"]);
    }

    #[test]
    fn an_overload_pages_and_drains_at_once() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Observe);
        let claim = OverloadClaim {
            addr: Arc::from("[::]:80"),
            netns: 7,
            pid: None,
            cgroup: Arc::from(""),
            backlog: 3,
            backlog_max: 4,
            ..OverloadClaim::default()
        };
        let verdict = Verdict {
            t: 1.5,
            claim: Claim::Overload(claim),
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            confidence: 0.9,
            state: State::Raised,
            why: "so".into(),
        };
        let mut decisions = Vec::new();
        ladder.judge(&verdict, &mut decisions);
        let lines: Vec<_> = decisions.iter().map(|d| serde_json::to_string(d).unwrap()).collect();
        let tail = r#""mode":"observe","id":"overload-7-[::]:80","cgroup":"","performed":false,"why":"so"}"#;
        assert_eq!(
            lines,
            [
                format!(r#"{{"t":1.5,"decision":"page","severity":"critical",{tail}"#),
                format!(r#"{{"t":1.5,"decision":"drain",{tail}"#)
            ]
        );
    }
}
