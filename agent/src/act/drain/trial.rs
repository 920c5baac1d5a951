//! Judgement of a granted drain: whether it helps.
//!
//! Pure. A queue shows that while the node drains; a leak is judged once its node has no more work,
//! because only then it could slow down.

use std::collections::BTreeMap;

use super::{
    condition::Condition,
    state_machine::{DrainPhase, DrainState},
    work::WorkLeft,
};
use crate::decide::IncidentId;

/// Drain that is not judged yet.
#[derive(Debug, Clone)]
pub struct Trial {
    id: IncidentId,
    /// Harm at the grant, and the time of the grant.
    before: Condition,
    then: f64,
    /// Work at the first count after the grant.
    work: WorkLeft,
}

/// Incident for which this node is not drained again.
#[derive(Debug, Clone)]
pub struct GivenUp {
    /// Incident.
    pub id: IncidentId,
    /// Reason in a sentence, for people.
    pub why: String,
}

impl Trial {
    /// Begins the judgement of a drain for incident `id`, granted at `then`.
    pub fn new(id: &IncidentId, before: Condition, then: f64) -> Self {
        Self { id: id.clone(), before, then, work: WorkLeft::Unknown }
    }

    /// Takes a count of the work.
    pub fn count(&mut self, work: WorkLeft) {
        if self.work == WorkLeft::Unknown {
            self.work = work;
        }
    }

    /// Returns whether a drain that helps would show it by now.
    pub fn is_due(&self, now: f64, machine: &DrainState, helps_within_secs: f64) -> bool {
        let since = match (machine.phase(), self.before.is_leak) {
            (DrainPhase::Drained, true) => machine.since(),
            (DrainPhase::Draining | DrainPhase::Drained, false) => self.then,
            _ => return false,
        };
        now - since >= helps_within_secs
    }

    /// Judges the drain by the harm of the raised incidents; returns the incident if it did not
    /// help.
    pub fn failed(
        &self,
        now: f64,
        harm: &BTreeMap<IncidentId, Condition>,
        work: WorkLeft,
    ) -> Option<GivenUp> {
        let figures =
            self.before.helped(self.then, harm.get(&self.id), now, [self.work, work]).err()?;
        let secs = now - self.then;
        Some(GivenUp {
            id: self.id.clone(),
            why: format!("the drain did not help in {secs:.0} s: {figures}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::drain::state_machine::DrainTimings;

    const PACE: DrainTimings = DrainTimings {
        dwell_secs: 30.0,
        drained_within_secs: 120.0,
        verify_secs: 60.0,
        ask_again_secs: 600.0,
    };

    const UNKNOWN: WorkLeft = WorkLeft::Unknown;

    #[test]
    fn queue_is_judged_while_draining_and_leak_once_idle() {
        let harm =
            |is_leak| Condition { is_leak, ends_at: None, queued: Some(9), oldest_wait_us: None };
        let due = |is_leak, phase, since, now| {
            let trial = Trial::new(&IncidentId::from("it"), harm(is_leak), 0.0);
            trial.is_due(now, &DrainState::resume(PACE, phase, since, true), 30.0)
        };
        assert!(
            !due(false, DrainPhase::Draining, 0.0, 29.9)
                && due(false, DrainPhase::Draining, 0.0, 30.0)
        );
        assert!(due(false, DrainPhase::Drained, 29.0, 30.0));
        assert!(
            !due(true, DrainPhase::Draining, 0.0, 119.0)
                && !due(true, DrainPhase::Drained, 120.0, 149.0)
        );
        assert!(due(true, DrainPhase::Drained, 120.0, 150.0));
        // The incident seems to be over, or is.
        for phase in [DrainPhase::Verifying, DrainPhase::UndrainRequested, DrainPhase::Healthy] {
            assert!(!due(false, phase, 0.0, 900.0) && !due(true, phase, 0.0, 900.0));
        }
    }

    #[test]
    fn an_incident_that_is_over_was_helped() {
        let harm =
            Condition { is_leak: false, ends_at: None, queued: Some(9), oldest_wait_us: None };
        let [it, other] = ["it", "other"].map(IncidentId::from);
        let trial = Trial::new(&it, harm, 0.0);
        assert!(trial.failed(30.0, &BTreeMap::from([(other, harm)]), UNKNOWN).is_none());
        let failed = trial.failed(30.0, &BTreeMap::from([(it.clone(), harm)]), UNKNOWN).unwrap();
        assert_eq!(
            (failed.id, failed.why.as_str()),
            (it, "the drain did not help in 30 s: 9 connections wait, 9 before")
        );
    }
}
