//! What is counted of a process and can leak: each kind's thresholds, and one count of it with its
//! limit.
//!
//! Files and sockets in CLOSE_WAIT share a limit; no fact tells one of threads. A count that is not
//! seen is none, not zero.

use super::super::verdict::Resource;
use crate::sense::ProcessResourcesFact;

/// Share of the limit from which a count that no longer grows has hit it, and is anything but well.
const AT_LIMIT_SHARE: f64 = 0.95;

/// A count that can leak.
pub(super) struct CountKind {
    pub(super) resource: Resource,
    /// A rise from which it is watched, and growth from which it is claimed. Guesses, but for their
    /// order: a socket in CLOSE_WAIT waits for the program alone, so that fewer say as much.
    pub(super) watched_from: u32,
    claimed_from: f64,
}

/// In this order they are judged and told.
pub(super) const KINDS: [CountKind; 3] = [
    CountKind { resource: Resource::CloseWait, watched_from: 8, claimed_from: 16.0 },
    CountKind { resource: Resource::Files, watched_from: 16, claimed_from: 32.0 },
    CountKind { resource: Resource::Threads, watched_from: 16, claimed_from: 32.0 },
];

/// The highest that each count is known to have stood for a while. They saturate: what holds more
/// is always watched.
pub(super) type Tops = [u16; KINDS.len()];

/// As it fits there.
pub(super) fn saturated(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// One count at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountSample {
    pub(super) resource: Resource,
    pub(super) count: u32,
    /// Growth worth a claim.
    pub(super) grown_min: f64,
    /// Open files of the process, whatever is counted.
    pub(super) files: u32,
    /// The most that there can be.
    pub(super) files_max: Option<u64>,
}

impl CountKind {
    /// What a fact says of it; `None` where it is not seen.
    pub(super) fn look(&self, fact: &ProcessResourcesFact) -> Option<CountSample> {
        let count = match self.resource {
            Resource::Memory => return None,
            Resource::Files => fact.fds.saturating_sub(fact.close_wait.unwrap_or(0)),
            Resource::Threads => fact.threads,
            Resource::CloseWait => fact.close_wait?,
        };
        let whole = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Some(CountSample {
            resource: self.resource,
            count: whole(count),
            grown_min: self.claimed_from,
            files: whole(fact.fds),
            files_max: fact.fds_max,
        })
    }
}

impl CountSample {
    /// How many more can be opened; `None` where there is no limit, or none that is known.
    pub(super) fn left(&self) -> Option<f64> {
        (self.resource != Resource::Threads).then_some(())?;
        self.files_max.map(|max| max.saturating_sub(u64::from(self.files)) as f64)
    }

    pub(super) fn has_hit_limit(&self) -> bool {
        let near = |max| f64::from(self.files) >= AT_LIMIT_SHARE * max as f64;
        self.resource != Resource::Threads && self.files_max.is_some_and(near)
    }

    /// Seconds until the limit is reached; `None` where there is none.
    pub(super) fn exhaustion_secs(&self, per_sec: f64) -> Option<f64> {
        self.left().map(|left| left / per_sec).filter(|secs| secs.is_finite())
    }
}
