//! The ladder: how policy answers a claim, one rung at a time, and climbs back down when it is over.
//!
//! A leak pages as a warning at once; it is limited, and then drained away from, when its forecast comes nearer than the
//! configured distances, which may be long after it was raised: so the ladder reads every fresh forecast too. Files, threads
//! and sockets are not limited: throttling memory closes none of them. An overload
//! drains and pages at once, because a queue that stands has seconds; one whose backlog is too small is a warning, and so is a dependency
//! that does not answer, because no drain helps either. Each rung is taken once an incident; clearing undoes
//! what was done and resolves. Cold start: no incidents. Failure: an update of an unknown incident is nothing.
//! What the guard refuses is told once; where it may grant the same later, it is asked again with every forecast.

use std::collections::BTreeMap;

use super::{Action, Decision, Guard, IncidentId, Severity};
use crate::{
    config::{DecideConfig, Mode},
    detect::{Claim, Resource, Scarce, State, Verdict},
};

/// The policy and its open incidents. As many as detectors hold claims, so bounded by them.
pub struct Ladder {
    config: DecideConfig,
    mode: Mode,
    guard: Guard,
    incidents: BTreeMap<IncidentId, Incident>,
}

/// An open incident, and how far up the ladder it is.
struct Incident {
    latest: Verdict,
    limit: Rung,
    drain: Rung,
    /// Whether what was done does not help.
    is_set_back: bool,
}

/// An action that an incident may call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    /// Not called for yet.
    Ahead,
    /// Refused for now, and told so.
    Held,
    /// Refused for good.
    Barred,
    Taken,
}

impl Ladder {
    /// No incidents yet.
    pub fn new(config: &DecideConfig, mode: Mode) -> Self {
        Self { config: config.clone(), mode, guard: Guard::new(config), incidents: BTreeMap::new() }
    }

    /// Follows another configuration. Open incidents, cooldowns and the hour's actions are kept.
    pub fn reload(&mut self, config: &DecideConfig) {
        self.config.clone_from(config);
        self.guard.reload(config);
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
                let latest = verdict.clone();
                let incident = Incident { latest, limit: Rung::Ahead, drain: Rung::Ahead, is_set_back: false };
                self.incidents.insert(id, incident);
                self.climb(verdict, decisions);
            }
            State::Cleared => {
                let Some(incident) = self.incidents.remove(&id) else { return };
                if incident.limit == Rung::Taken {
                    decisions.push(self.decision(verdict, &id, Action::Unlimit, verdict.why.clone()));
                }
                if incident.drain == Rung::Taken && !self.is_drained() {
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

    /// Answers an action of an incident that does not do what it is for: a human has to look now, and the node to be drained away from.
    pub fn set_back(&mut self, t: f64, id: &str, why: &str, decisions: &mut Vec<Decision>) {
        let Some((id, incident)) = self.incidents.iter_mut().find(|(known, _)| known.to_string() == id) else { return };
        if std::mem::replace(&mut incident.is_set_back, true) {
            return;
        }
        let (id, verdict) = (id.clone(), Verdict { t, ..incident.latest.clone() });
        let action = Action::Page { severity: Severity::Critical };
        decisions.push(self.decision(&verdict, &id, action, why.to_owned()));
        self.climb(&verdict, decisions);
    }

    /// Takes the rungs that the forecast calls for and that are not taken yet.
    fn climb(&mut self, verdict: &Verdict, decisions: &mut Vec<Decision>) {
        let id = IncidentId::from(verdict);
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
        let is_drained = self.is_drained();
        let Some(incident) = self.incidents.get_mut(&id) else { return };
        let drain = drain || incident.is_set_back;
        if drain && is_drained {
            // Another incident's drain is this one's too, and lasts as long as either.
            incident.drain = Rung::Taken;
        }
        let mut asked = Vec::new();
        for (action, due, rung) in
            [(Action::Limit, limit, &mut incident.limit), (Action::Drain, drain, &mut incident.drain)]
        {
            if !due || matches!(rung, Rung::Barred | Rung::Taken) {
                continue;
            }
            let refused = self.guard.ask(verdict.t, action, verdict.claim.cgroup()).err();
            let now = match &refused {
                None => Rung::Taken,
                Some(refusal) if refusal.is_for_now() => Rung::Held,
                Some(_) => Rung::Barred,
            };
            if std::mem::replace(rung, now) != now {
                asked.push((action, refused));
            }
        }
        for (action, refused) in asked {
            let decision = self.decision(verdict, &id, action, verdict.why.clone());
            decisions.push(Decision { refused, ..decision });
        }
    }

    /// Whether an incident that is open has drained the node.
    fn is_drained(&self) -> bool {
        self.incidents.values().any(|incident| incident.drain == Rung::Taken)
    }

    fn decision(&self, verdict: &Verdict, id: &IncidentId, action: Action, why: String) -> Decision {
        let cgroup = verdict.claim.cgroup().clone();
        Decision { t: verdict.t, action, mode: self.mode, id: id.clone(), cgroup, performed: false, refused: None, why }
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
        let down = ["leak-812-4711 Unlimit", "leak-812-4711 Undrain", "leak-812-4711 Resolve"];
        assert_eq!(names(&mut ladder, &leak(State::Cleared, 0.0), true), down);
        assert_eq!(names(&mut ladder, &leak(State::Cleared, 0.0), true), [""; 0]);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 1.0), false), [""; 0]);
    }

    #[test]
    fn a_limit_that_does_not_help_pages_as_critical_and_drains_once() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Enforce);
        names(&mut ladder, &leak(State::Raised, 3_000.0), true);
        let mut decisions = Vec::new();
        ladder.set_back(2.0, "leak-1-1", "another's", &mut decisions);
        assert!(decisions.is_empty());
        for _ in 0..2 {
            ladder.set_back(2.0, "leak-812-4711", "it thrashes", &mut decisions);
        }
        let told: Vec<_> = decisions.iter().map(|d| (d.t, d.action.to_string(), d.why.as_str())).collect();
        assert_eq!(told, [(2.0, "page (critical)".to_owned(), "it thrashes"), (2.0, "drain".to_owned(), "so")]);
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
    fn a_leaker_that_may_not_be_limited_is_told_once_and_drained_away_from() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Observe);
        let ssh = |exhaustion_secs| {
            let mut verdict = leak(State::Raised, exhaustion_secs);
            let Claim::Leak(claim) = &mut verdict.claim else { unreachable!() };
            claim.cgroup = Arc::from("/system.slice/ssh.service");
            verdict
        };
        let mut decisions = Vec::new();
        ladder.judge(&ssh(3_000.0), &mut decisions);
        ladder.update(&ssh(2_000.0), &mut decisions);
        ladder.update(&ssh(500.0), &mut decisions);
        let told: Vec<_> = decisions
            .iter()
            .map(|decision| (decision.action.to_string(), decision.refused.as_ref().map(ToString::to_string)))
            .collect();
        let protected = Some("unit is protected (ssh.service)".to_owned());
        let wanted = [("page (warning)", None), ("limit", protected), ("drain", None)];
        assert_eq!(told, wanted.map(|(action, refused)| (action.to_owned(), refused)));
    }

    #[test]
    fn what_is_refused_for_now_is_told_once_and_done_when_it_may_be() {
        let config = DecideConfig { max_actions_per_hour: 0, ..DecideConfig::default() };
        let mut ladder = Ladder::new(&config, Mode::Observe);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 3_000.0), true).len(), 2);
        assert_eq!(names(&mut ladder, &leak(State::Raised, 2_000.0), false), [""; 0]);
        ladder.guard = Guard::new(&DecideConfig::default());
        assert_eq!(names(&mut ladder, &leak(State::Raised, 1_000.0), false), ["leak-812-4711 Limit"]);
    }

    #[test]
    fn a_node_is_drained_once_for_all_and_until_the_last_is_over() {
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Observe);
        let files = |state, exhaustion_secs| {
            let mut verdict = leak(state, exhaustion_secs);
            let Claim::Leak(claim) = &mut verdict.claim else { unreachable!() };
            claim.resource = Resource::Files;
            verdict
        };
        assert_eq!(names(&mut ladder, &leak(State::Raised, 500.0), true).len(), 3);
        let page = "leak-files-812-4711 Page { severity: Warning }";
        assert_eq!(names(&mut ladder, &files(State::Raised, 500.0), true), [page]);
        assert_eq!(
            names(&mut ladder, &leak(State::Cleared, 500.0), true),
            ["leak-812-4711 Unlimit", "leak-812-4711 Resolve"]
        );
        let down = ["leak-files-812-4711 Undrain", "leak-files-812-4711 Resolve"];
        assert_eq!(names(&mut ladder, &files(State::Cleared, 500.0), true), down);
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
