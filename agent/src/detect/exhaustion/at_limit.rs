//! Counts that are at their limit without a climb that led there: a jump, or a limit that was
//! reached before the agent started.

use crate::sense::{CountFact, CountedResource};

/// Share of the limit from which a count is at it, and below which it no longer is.
const AT_LIMIT_SHARE: f64 = 0.97;
const BELOW_LIMIT_SHARE: f64 = 0.9;

/// Share of the limit below which a count has been far from it.
const FAR_SHARE: f64 = 0.85;

/// Samples in sequence, and time in seconds, for which a count has to be at its limit. A guess: a
/// build, a backup or a burst of connections comes near it for a moment.
const SAMPLES_MIN: u32 = 3;
const SECS_MIN: f64 = 30.0;

/// Smallest limit that is judged: a container that may have one process has it always.
const LIMIT_MIN: u64 = 32;

/// State of a count with respect to its limit.
#[derive(Debug, Default)]
pub(super) struct LimitWatch {
    /// Samples in sequence that were far from the limit, up to [`SAMPLES_MIN`]; then the count has
    /// been far from it.
    far_samples: u32,
    /// Time since which it has been at its limit, and the samples since.
    at_limit: Option<(f64, u32)>,
}

impl LimitWatch {
    /// Takes a count. Returns whether it has come to its limit and stays there.
    pub(super) fn observe(&mut self, t: f64, fact: &CountFact) -> bool {
        let Some(limit) = fact.limit.filter(|limit| *limit >= LIMIT_MIN) else { return false };
        let share = fact.used as f64 / limit as f64;
        if share < FAR_SHARE && self.far_samples < SAMPLES_MIN {
            self.far_samples += 1;
        }
        let has_come = self.far_samples >= SAMPLES_MIN;
        let is_at_limit = is_near(fact) && can_jump(&fact.resource);
        let was_full = is_full(fact) && is_never_full_by_design(&fact.resource);
        if !is_at_limit || !(has_come || was_full) {
            self.at_limit = None;
            return false;
        }
        let (since_t, samples) = self.at_limit.get_or_insert((t, 0));
        *samples = samples.saturating_add(1);
        *samples >= SAMPLES_MIN && t - *since_t >= SECS_MIN
    }

    /// Returns whether it was far from its limit under watch.
    pub(super) fn has_been_far(&self) -> bool {
        self.far_samples >= SAMPLES_MIN
    }
}

/// Returns whether a count is at its limit, or next to it.
pub(super) fn is_near(fact: &CountFact) -> bool {
    fact.limit.is_some_and(|limit| fact.used as f64 >= AT_LIMIT_SHARE * limit as f64)
}

/// Returns whether a count has left its limit.
pub(super) fn has_left(fact: &CountFact) -> bool {
    fact.limit.is_none_or(|limit| (fact.used as f64) < BELOW_LIMIT_SHARE * limit as f64)
}

/// Returns whether nothing is left.
pub(super) fn is_full(fact: &CountFact) -> bool {
    fact.limit.is_some_and(|limit| limit > 0 && fact.used >= limit)
}

/// Returns whether coming to the limit is an end by itself. Full swap is what swap is for, and the
/// kernel's memory has no limit of its own.
fn can_jump(resource: &CountedResource) -> bool {
    use CountedResource as R;
    !matches!(
        resource,
        R::SwapBytes | R::SlabBytes | R::PageTableBytes | R::VmallocBytes | R::PercpuBytes
    )
}

/// Returns whether nobody runs this close to the limit on purpose, as with `pids.max`.
fn is_never_full_by_design(resource: &CountedResource) -> bool {
    use CountedResource as R;
    matches!(resource, R::DiskBytes | R::DiskInodes | R::OpenFiles | R::Conntrack)
}
