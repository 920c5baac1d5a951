//! Queue of events between the loop and the thread that sends them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::export_counts::ExportCounts;
use crate::history::HistoryEvent;

/// Maximum number of events that wait: some hours of a busy node's, at 3 KiB at most.
const WAITING_MAX: usize = 1_000;

/// Events that wait, with the time of each in nanoseconds since 1970.
#[derive(Default)]
pub(super) struct EventQueue {
    waiting: Mutex<VecDeque<(u64, HistoryEvent)>>,
    counts: ExportCounts,
}

impl EventQueue {
    /// Creates a queue that counts what it drops.
    pub(super) fn new(counts: ExportCounts) -> Self {
        Self { waiting: Mutex::default(), counts }
    }

    /// Adds an event; the oldest makes room for it.
    pub(super) fn put(&self, at_nanos: u64, event: HistoryEvent) {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
            self.counts.events_dropped.inc();
        }
        waiting.push_back((at_nanos, event));
    }

    /// Takes the oldest events, at most so many.
    pub(super) fn take(&self, most: usize) -> Vec<(u64, HistoryEvent)> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }

    /// Puts events back that could not be sent, as far as there is room before newer ones.
    pub(super) fn put_back(&self, events: Vec<(u64, HistoryEvent)>) {
        let mut waiting = self.waiting();
        for event in events.into_iter().rev() {
            match waiting.len() >= WAITING_MAX {
                true => drop(self.counts.events_dropped.inc()),
                false => waiting.push_front(event),
            }
        }
    }

    /// Ignores poisoning: nothing panics while it holds the lock.
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(u64, HistoryEvent)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_events_make_room_and_are_counted() {
        let counts = ExportCounts::default();
        let queue = EventQueue::new(counts.clone());
        for at in 0..WAITING_MAX as u64 + 3 {
            queue.put(at, HistoryEvent::default());
        }
        assert_eq!(counts.events_dropped.get(), 3);
        let taken = queue.take(2);
        assert_eq!(taken.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [3, 4]);
        queue.put(9_999, HistoryEvent::default());
        queue.put_back(taken);
        assert_eq!(counts.events_dropped.get(), 4, "there was room for one of the two");
        assert_eq!(queue.take(1)[0].0, 4);
    }
}
