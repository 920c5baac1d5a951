//! Event queue of a simulation, in order of time; events of one moment in the order of their pushes.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::socket::{Nanos, nanos};

/// Events to come.
pub(super) struct EventQueue<E> {
    events: BinaryHeap<Reverse<(Nanos, u64, E)>>,
    sequence: u64,
}

impl<E: Ord> EventQueue<E> {
    /// Creates an empty queue.
    pub(super) fn new() -> Self {
        Self { events: BinaryHeap::new(), sequence: 0 }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, t: Nanos, event: E) {
        self.sequence += 1;
        self.events.push(Reverse((t, self.sequence, event)));
    }

    /// Time of the next event; the end of time if there is none.
    pub(super) fn next_t(&self) -> Nanos {
        self.events.peek().map_or(Nanos::MAX, |next| next.0.0)
    }

    /// Takes the next event.
    pub(super) fn pop(&mut self) -> Option<E> {
        self.events.pop().map(|Reverse((_, _, event))| event)
    }
}

/// Finds the source whose clump comes next, by the time of each source's in seconds; returns that
/// time and the source's place.
pub(super) fn next_clump(sources: &[Option<f64>]) -> (Nanos, usize) {
    let times = sources.iter().zip(0..).filter_map(|(secs, place)| Some((nanos((*secs)?), place)));
    times.min().unwrap_or((Nanos::MAX, 0))
}
