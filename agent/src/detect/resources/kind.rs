//! Counts of a process that can leak: the thresholds of each kind, and one sample of a count with
//! its limit.
//!
//! Files and sockets in CLOSE_WAIT share a limit; no fact contains one for threads. A count that is
//! not seen is unknown, not zero.

use crate::{detect::Resource, sense::ProcessResourcesFact};

/// Share of the limit from which a count that no longer grows has reached the limit, rather than
/// stopped leaking.
const AT_LIMIT_SHARE: f64 = 0.95;

/// A count that can leak.
pub(super) struct CountKind {
    pub(super) resource: Resource,
    /// Rise from which it is tracked, and growth from which it is claimed. Guesses, except for
    /// their order: a socket in CLOSE_WAIT waits for the program alone, so fewer say as much.
    pub(super) watched_from: u32,
    claimed_from: f64,
}

/// Kinds in the order in which they are judged and reported.
pub(super) const KINDS: [CountKind; 3] = [
    CountKind { resource: Resource::CloseWait, watched_from: 8, claimed_from: 16.0 },
    CountKind { resource: Resource::Files, watched_from: 16, claimed_from: 32.0 },
    CountKind { resource: Resource::Threads, watched_from: 16, claimed_from: 32.0 },
];

/// Highest level that each count is known to have held for a while. The levels saturate: a process
/// that holds more is always tracked.
pub(super) type Tops = [u16; KINDS.len()];

/// Returns a count as it fits into [`Tops`].
pub(super) fn saturated(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// One sample of one count.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountSample {
    pub(super) resource: Resource,
    pub(super) count: u32,
    /// Growth worth a claim.
    pub(super) grown_min: f64,
    /// Open files of the process, whichever count this is.
    pub(super) files: u32,
    /// Limit of open files.
    pub(super) files_max: Option<u64>,
}

impl CountKind {
    /// Reads the count from a fact; `None` if it is not seen.
    pub(super) fn sample(&self, fact: &ProcessResourcesFact) -> Option<CountSample> {
        let count = match self.resource {
            Resource::Memory => return None,
            Resource::Files => fact.fds.saturating_sub(fact.close_wait.unwrap_or(0)),
            Resource::Threads => fact.threads,
            Resource::CloseWait => fact.close_wait?,
        };
        let saturated_u32 = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Some(CountSample {
            resource: self.resource,
            count: saturated_u32(count),
            grown_min: self.claimed_from,
            files: saturated_u32(fact.fds),
            files_max: fact.fds_max,
        })
    }
}

impl CountSample {
    /// Number that can still be opened; `None` if there is no limit, or no known one.
    pub(super) fn left(&self) -> Option<f64> {
        (self.resource != Resource::Threads).then_some(())?;
        self.files_max.map(|max| max.saturating_sub(u64::from(self.files)) as f64)
    }

    pub(super) fn has_hit_limit(&self) -> bool {
        let near = |max| f64::from(self.files) >= AT_LIMIT_SHARE * max as f64;
        self.resource != Resource::Threads && self.files_max.is_some_and(near)
    }

    /// Seconds until the limit is reached; `None` without a limit.
    pub(super) fn exhaustion_secs(&self, per_sec: f64) -> Option<f64> {
        self.left().map(|left| left / per_sec).filter(|secs| secs.is_finite())
    }
}
