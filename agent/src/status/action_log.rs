//! Actions of the open incidents, and the changes to this host that are in effect, gathered from
//! decisions and outcomes. Pure. Cold start: empty; limits of an earlier run are undone at the
//! start, and their outcomes come in like others. Bounded by the incidents that the policy knows,
//! and by [`CHANGES_MAX`].

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    act::{Outcome, OutcomeKind},
    decide::{Action, Decision, GuardRefusal, IncidentId},
};

/// Changes that are remembered. A guess, beyond what an hour's budget allows.
const CHANGES_MAX: usize = 1_024;

/// Actions by incident, and changes in effect.
#[derive(Debug, Default)]
pub struct ActionLog {
    notes: BTreeMap<IncidentId, Vec<ActionNote>>,
    changes: BTreeMap<Arc<str>, ChangeInEffect>,
}

/// Latest state of an action for an incident.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionNote {
    /// Action.
    pub action: Action,
    /// Time of the state, on the agent's clock.
    pub t: f64,
    /// State.
    pub state: ActionState,
}

/// State of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionState {
    /// Called for, and not carried out.
    Would,
    /// Being carried out.
    Ordered,
    /// Refused by a guard.
    Refused(GuardRefusal),
    /// Carried out, or not, with this outcome in a sentence.
    Done(OutcomeKind, Arc<str>),
}

/// A change to this host that is in effect.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeInEffect {
    /// Latest outcome.
    pub latest: Outcome,
    /// Time at which it began, on the agent's clock.
    pub since_t: f64,
}

impl ActionLog {
    /// Takes a decision.
    pub fn note_decision(&mut self, decision: &Decision) {
        let over = match decision.action {
            Action::Unlimit => Action::Limit,
            Action::Unshed => Action::Shed,
            Action::Unweigh => Action::Weigh,
            Action::Undrain => Action::Drain,
            Action::Resolve => {
                self.notes.remove(&decision.id);
                return;
            }
            action => {
                let state = match &decision.refused {
                    Some(refusal) => ActionState::Refused(refusal.clone()),
                    None if decision.performed => ActionState::Ordered,
                    None => ActionState::Would,
                };
                return self.note(&decision.id, action, decision.t(), state);
            }
        };
        if let Some(notes) = self.notes.get_mut(&decision.id) {
            notes.retain(|note| !is_same(note.action, over));
        }
    }

    /// Takes an outcome.
    pub fn note_outcome(&mut self, outcome: &Outcome) {
        let action = outcome.event.action();
        let state = ActionState::Done(outcome.event, Arc::from(outcome.why.as_str()));
        for id in outcome.cause.incidents() {
            let is_known = |note: &ActionNote| is_same(note.action, action);
            if self.notes.get(id).is_some_and(|notes| notes.iter().any(is_known)) {
                self.note(id, action, outcome.t, state.clone());
            }
        }
        match action {
            Action::Limit | Action::Shed => self.note_change(outcome),
            // The drain of the node is known better by its own thread.
            _ => {}
        }
    }

    /// Forgets the incidents that are over.
    pub fn retain(&mut self, is_known: impl Fn(&IncidentId) -> bool) {
        self.notes.retain(|id, _| is_known(id));
    }

    /// Actions of an incident.
    pub fn of(&self, id: &IncidentId) -> &[ActionNote] {
        self.notes.get(id).map_or(&[], Vec::as_slice)
    }

    /// Changes in effect.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = &ChangeInEffect> {
        self.changes.values()
    }

    fn note(&mut self, id: &IncidentId, action: Action, t: f64, state: ActionState) {
        let notes = self.notes.entry(id.clone()).or_default();
        notes.retain(|note| !is_same(note.action, action));
        notes.push(ActionNote { action, t, state });
    }

    fn note_change(&mut self, outcome: &Outcome) {
        let Outcome { event, cgroup: subject, .. } = outcome;
        if event.is_end() {
            self.changes.remove(subject);
        } else if let Some(change) = self.changes.get_mut(subject) {
            // A refusal is of another incident, or of a change to what is in effect.
            if outcome.limit_bytes.is_some() || *event == OutcomeKind::Shedding {
                change.latest = outcome.clone();
            }
        } else if matches!(event, OutcomeKind::Limited | OutcomeKind::Shedding)
            && self.changes.len() < CHANGES_MAX
        {
            let change = ChangeInEffect { latest: outcome.clone(), since_t: outcome.t };
            self.changes.insert(subject.clone(), change);
        }
    }
}

/// Returns whether two actions are of one kind, however urgent.
fn is_same(one: Action, other: Action) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{act::OutcomeCause, detect::Severity};

    fn decision(action: Action, performed: bool) -> Decision {
        Decision { performed, ..Decision::sample(action) }
    }

    fn outcome(t: f64, event: OutcomeKind, limit_bytes: Option<u64>) -> Outcome {
        let (cause, cgroup) = (decision(Action::Limit, true).id.into(), Arc::from("/a"));
        Outcome { t, event, cause, cgroup, limit_bytes, why: "so".to_owned() }
    }

    #[test]
    fn last_state_of_each_action_counts() {
        let mut log = ActionLog::default();
        let id = decision(Action::Limit, true).id;
        log.note_outcome(&outcome(1.0, OutcomeKind::Limited, Some(5)));
        assert_eq!(log.of(&id), [], "nobody asked for it");
        for severity in [Severity::Warning, Severity::Critical] {
            log.note_decision(&decision(Action::Page { severity }, true));
        }
        log.note_decision(&decision(Action::Limit, true));
        log.note_decision(&decision(Action::Drain, false));
        log.note_outcome(&outcome(4.0, OutcomeKind::Limited, Some(5)));
        let states: Vec<_> =
            log.of(&id).iter().map(|note| (note.action, note.state.clone())).collect();
        let limited = ActionState::Done(OutcomeKind::Limited, Arc::from("so"));
        let severity = Severity::Critical;
        assert_eq!(
            states,
            [
                (Action::Page { severity }, ActionState::Ordered),
                (Action::Drain, ActionState::Would),
                (Action::Limit, limited),
            ]
        );
        log.note_decision(&decision(Action::Unlimit, true));
        assert_eq!(log.of(&id).len(), 2);
        log.retain(|_| false);
        assert_eq!(log.of(&id), []);
    }

    #[test]
    fn change_is_in_effect_from_its_limit_to_its_end() {
        let mut log = ActionLog::default();
        let in_effect = |log: &ActionLog| -> Vec<_> {
            log.changes().map(|change| (change.since_t, change.latest.limit_bytes)).collect()
        };
        log.note_outcome(&outcome(1.0, OutcomeKind::Refused, None));
        log.note_outcome(&outcome(1.0, OutcomeKind::Undone, None));
        assert_eq!(in_effect(&log), []);
        log.note_outcome(&outcome(2.0, OutcomeKind::Limited, Some(8)));
        log.note_outcome(&outcome(3.0, OutcomeKind::Tightened, Some(5)));
        log.note_outcome(&outcome(4.0, OutcomeKind::Refused, None));
        assert_eq!(in_effect(&log), [(2.0, Some(5))]);
        let cause = OutcomeCause::UNKNOWN;
        log.note_outcome(&Outcome { cause, ..outcome(5.0, OutcomeKind::Undone, None) });
        assert_eq!(in_effect(&log), []);
    }
}
