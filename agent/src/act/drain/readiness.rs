//! What a balancer is told of this node, by whoever it asks: written by what drains, read by the servers.

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
};

use super::{
    state::{Machine, Phase, Word},
    weight::WHOLE,
};

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Send so many percent of its share of work.
    Ready(u8),
    /// Send no new work.
    Drain,
    /// Send nothing, and do not look.
    Maintenance,
}

/// The same for everybody who asks.
#[derive(Debug)]
pub struct Readiness {
    state: AtomicU8,
    weight: AtomicU8,
}

const READY: u8 = 0;
const DRAIN: u8 = 1;
const MAINTENANCE: u8 = 2;

impl Default for Readiness {
    fn default() -> Self {
        Self { state: AtomicU8::new(READY), weight: AtomicU8::new(WHOLE) }
    }
}

impl Readiness {
    /// What is true now.
    pub fn says(&self) -> Says {
        match self.state.load(Ordering::Relaxed) {
            READY => Says::Ready(self.weight.load(Ordering::Relaxed)),
            DRAIN => Says::Drain,
            _ => Says::Maintenance,
        }
    }

    /// Takes where the node is.
    pub(super) fn note(&self, machine: &Machine, word: Option<Word>) {
        let state = match word {
            Some(Word::Undrain) => READY,
            Some(Word::Maintenance) if machine.phase() == Phase::Drained => MAINTENANCE,
            Some(Word::Drain | Word::Maintenance) => DRAIN,
            None if machine.is_out() => DRAIN,
            None => READY,
        };
        self.state.store(state, Ordering::Relaxed);
    }

    /// Takes the share of work that the node asks for, in percent.
    pub(super) fn weigh(&self, percent: u8) {
        self.weight.store(percent, Ordering::Relaxed);
    }
}

/// As HAProxy's agent check has it. `ready` lifts a drain or maintenance that an earlier answer has set.
impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(percent) => write!(f, "ready {percent}%"),
            Self::Drain => f.write_str("drain"),
            Self::Maintenance => f.write_str("maint"),
        }
    }
}
