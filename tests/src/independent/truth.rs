//! Truth of a run: when its leak is due.
//!
//! `due` is the moment at which a leak has taken 64 MiB or half of the size of what leaks, whichever
//! is more, since the agent could see it; at least a minute and at most a day after its start, and 25
//! minutes later if its start was not seen. A workload that is killed at its limit again and again is
//! due when its third life that began under watch has ended.

use serde::{Deserialize, Serialize};

use super::shapes::{DAY, MIB, MINUTE};

/// Least that a leak must have taken.
const LEAST_BYTES: f64 = 64.0 * MIB;

/// Share of the healthy size that it must have taken.
const SHARE: f64 = 0.5;

/// Additional time if the start was not seen.
const UNSEEN_SECS: f64 = 25.0 * MINUTE;

/// Lives of a crash loop after which it is due.
const LIVES: usize = 3;

/// State of the leak at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Ledger {
    /// Bytes that have leaked and are held.
    pub(super) leaked: f64,
    /// Private bytes of what leaks, without the leak.
    pub(super) healthy: f64,
    /// Lives of the subject that began under watch.
    pub(super) lives: usize,
    /// Lives that ended at the limit.
    pub(super) ended: usize,
}

/// Truth about one leak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Due {
    /// Start of the leak on the run's clock; negative if it was not seen.
    pub start_secs: f64,
    /// Moment by which it must be known.
    pub due_secs: f64,
    /// Bytes taken until then since the agent could see it.
    pub taken_bytes: f64,
    /// Size of what leaks, without what it took under watch.
    pub size_bytes: f64,
}

/// Follows a leak until it is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clockwork {
    start: f64,
    loops: bool,
    first: Option<Ledger>,
    size: f64,
    /// Taken enough, but not for long enough.
    enough: Option<f64>,
    pub(super) due: Option<Due>,
}

impl Clockwork {
    pub(super) fn new(start: f64, loops: bool) -> Self {
        Self { start, loops, first: None, size: 0.0, enough: None, due: None }
    }

    /// Notes the state at `t`; `ends` if memory has run out, which is the last moment at which the
    /// leak may become known.
    pub(super) fn note(&mut self, t: f64, ledger: &Ledger, ends: bool) {
        let from = self.start.max(0.0);
        if self.due.is_some() || t < from {
            return;
        }
        let first = *self.first.get_or_insert(*ledger);
        let taken = ledger.leaked - first.leaked;
        let unseen = if self.start < 0.0 { UNSEEN_SECS } else { 0.0 };
        let due = |due_secs: f64, size: f64| {
            Some(Due { start_secs: self.start, due_secs, taken_bytes: taken, size_bytes: size })
        };
        if self.loops {
            // Lives that the agent saw begin are the last of those that ended.
            let unseen_lives = first.ended + usize::from(self.start < 0.0);
            if ledger.ended >= LIVES + unseen_lives {
                self.due = due(t, ledger.healthy);
            }
            return;
        }
        self.size = self.size.max(ledger.healthy + first.leaked);
        let has_taken = taken >= LEAST_BYTES.max(SHARE * self.size);
        if self.enough.is_none() && has_taken {
            self.enough = Some(t.max(from + MINUTE));
        }
        let by = self.enough.unwrap_or(f64::INFINITY).min(from + DAY) + unseen;
        if t >= by && !has_taken && !ends && t < from + DAY + unseen {
            // Some of it was garbage that has been collected meanwhile.
            self.enough = None;
        } else if t >= by || ends {
            self.due = due(t.min(by), self.size);
        }
    }
}
