//! Gate between the drain's thread and the fleet's: one says where the node is and whether it wants
//! to leave, the other whether it may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    fleet::{Permit, Rotation},
    sense::Fact,
};

/// Facts that wait for the loop, at most. There are a few a minute.
const FACTS_MAX: usize = 16;

/// Gate that both threads share.
#[derive(Debug, Clone, Default)]
pub struct FleetGate(Arc<Mutex<GateState>>);

#[derive(Debug, Default)]
struct GateState {
    rotation: Rotation,
    wants_out: bool,
    /// Number of the wish: a permit for an earlier one does not count.
    wish: u64,
    permit: Permit,
    is_turn: bool,
    /// Facts for the loop, the oldest first.
    facts: Vec<Fact>,
}

/// Wish of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Place of the node.
    pub rotation: Rotation,
    /// Set if the node wants to leave, or to stay out.
    pub wants_out: bool,
    number: u64,
}

impl FleetGate {
    /// Says where the node is, and whether it wants to leave or to stay out.
    pub fn set(&self, rotation: Rotation, wants_out: bool) {
        let mut state = self.lock();
        state.rotation = rotation;
        if std::mem::replace(&mut state.wants_out, wants_out) != wants_out {
            state.wish += 1;
            state.permit = Permit::NotAsked;
        }
    }

    /// Returns the permit for the current wish.
    pub fn permit(&self) -> Permit {
        self.lock().permit.clone()
    }

    /// Returns whether it is the node's turn to leave, by the forecasts of its group.
    pub fn is_turn(&self) -> bool {
        self.lock().is_turn
    }

    /// Takes the facts that the fleet's thread has made since the last call.
    pub fn take_facts(&self) -> Vec<Fact> {
        std::mem::take(&mut self.lock().facts)
    }

    /// Adds facts. The oldest are dropped if the loop does not take them.
    pub(super) fn add_facts(&self, facts: impl Iterator<Item = Fact>) {
        let known = &mut self.lock().facts;
        known.extend(facts);
        let surplus = known.len().saturating_sub(FACTS_MAX);
        known.drain(..surplus);
    }

    pub(super) fn set_turn(&self, is_turn: bool) {
        self.lock().is_turn = is_turn;
    }

    pub(super) fn wish(&self) -> Wish {
        let state = self.lock();
        Wish { rotation: state.rotation, wants_out: state.wants_out, number: state.wish }
    }

    /// Answers a wish.
    pub(super) fn answer(&self, wish: Wish, permit: Permit) {
        let mut state = self.lock();
        if state.wish == wish.number && state.wants_out {
            state.permit = permit;
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permit_for_an_earlier_wish_does_not_count() {
        let gate = FleetGate::default();
        gate.set(Rotation::In, true);
        let wish = gate.wish();
        gate.set(Rotation::In, false);
        gate.answer(wish, Permit::Granted);
        assert_eq!(gate.permit(), Permit::NotAsked);
        gate.set(Rotation::In, true);
        gate.answer(wish, Permit::Granted);
        assert_eq!(gate.permit(), Permit::NotAsked, "that was the first wish");
        gate.answer(gate.wish(), Permit::Granted);
        assert_eq!(gate.permit(), Permit::Granted);
        gate.set(Rotation::Out, true);
        assert_eq!(gate.permit(), Permit::Granted, "it stays out");
    }
}
