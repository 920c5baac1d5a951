//! Exhaustion detector: finds counts that head for their limit, whatever is counted, and names who
//! causes it.
//!
//! Bytes on a disk, processes of a cgroup, tracked connections and zombies run out alike: a count
//! climbs without an end until nothing is left. One rule judges them all, in shares of what was
//! left when the climb began ([`rise`]), so that it needs no thresholds for each. A claim is about
//! one resource of one subject; its culprit is the user that grew meanwhile, not the largest
//! ([`users`]). Urgency is the claim's own business ([`claim`]): it follows from the time to the
//! end, and from how much of what was left is gone. A count that jumps to its limit is no growth,
//! but the end all the same ([`at_limit`]). Cold start: six samples, or a minute. A count that
//! slows down, that only returns to where it was before, or that has given back a third of its
//! growth is not claimed.

mod at_limit;
pub(super) mod claim;
mod rise;
#[cfg(test)]
mod tests;
mod tracked;
mod users;
mod verdict;
pub(super) mod words;

use std::{collections::BTreeMap, sync::Arc};

use self::tracked::TrackedCount;
use super::detector::{Context, Detector, DetectorSize, Findings};
use crate::sense::{CountFact, CountedResource, Fact};

/// Maximum number of counts that are watched. At some 800 bytes each that is 4 MiB; a host shows a
/// few dozen, and one for each cgroup with a limit on its processes.
const COUNTS_MAX: usize = 4_096;

/// Time without a fact after which a count is gone, in seconds and in gaps between its facts: file
/// systems are unmounted, and cgroups removed. Guesses.
const GONE_SECS: f64 = 120.0;
const GONE_GAPS: f64 = 6.0;

/// Time between two searches for counts that are gone.
const SWEEP_SECS: f64 = 60.0;

/// Finds counts that head for their limit.
#[derive(Default)]
pub(super) struct ExhaustionDetector {
    /// A tree, because output has an order.
    counts: BTreeMap<CountKey, Box<TrackedCount>>,
    swept_t: f64,
    untracked_total: u64,
}

/// Resource and subject.
type CountKey = (CountedResource, Arc<str>);

impl ExhaustionDetector {
    fn count(&mut self, context: &Context<'_>, fact: &CountFact, findings: &mut Findings) {
        let key = (fact.resource.clone(), fact.subject.clone());
        if let Some(tracked) = self.counts.get_mut(&key) {
            tracked.observe(context, fact, findings);
        } else if self.counts.len() < COUNTS_MAX {
            let mut tracked = Box::new(TrackedCount::new(context.t));
            tracked.observe(context, fact, findings);
            self.counts.insert(key, tracked);
        } else {
            self.untracked_total = self.untracked_total.saturating_add(1);
        }
    }

    /// Forgets the counts that are gone.
    fn sweep(&mut self, context: &Context<'_>, findings: &mut Findings) {
        if context.t - self.swept_t < SWEEP_SECS {
            return;
        }
        self.swept_t = context.t;
        self.counts.retain(|_, tracked| {
            let is_kept =
                context.t - tracked.seen_t() <= GONE_SECS.max(GONE_GAPS * tracked.gap_secs());
            if !is_kept {
                tracked.clear(context, "it is gone", findings);
            }
            is_kept
        });
    }
}

impl Detector for ExhaustionDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Count(fact) => self.count(context, fact, findings),
            Fact::Host(_) => self.sweep(context, findings),
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        DetectorSize {
            counts: self.counts.len(),
            exhaustions_raised: self.counts.values().filter(|count| count.is_raised()).count(),
            untracked_total: self.untracked_total,
            ..DetectorSize::default()
        }
    }
}
