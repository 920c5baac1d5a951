//! What did not reach an observation, by name. Nothing is lost silently.

use std::collections::BTreeMap;

/// Counts of what was lost between kernel and observation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LossCounters {
    totals: BTreeMap<&'static str, u64>,
}

impl LossCounters {
    /// Counts one thing that could not be used, and logs the first of its kind.
    pub fn count(&mut self, what: &'static str) {
        if self.add(what) {
            tracing::warn!(
                what,
                "something was lost on the way to an observation; see spillway_lost_total"
            );
        }
    }

    /// Counts a pass that ended within a sample, of which so many bytes were left.
    pub fn short_read(&mut self, rest_bytes: usize) {
        if rest_bytes != 0 {
            self.count("short_read");
        }
    }

    /// Counts a read that failed as a whole, and logs the first of its kind: a sensor that fails
    /// does so at each tick.
    pub fn failed(&mut self, what: &'static str, error: &dyn std::error::Error) {
        if self.add(what) {
            tracing::warn!(what, %error, "a sensor cannot read; the agent goes on without it");
        }
    }

    /// Counts one; says whether it is the first of its kind.
    fn add(&mut self, what: &'static str) -> bool {
        let total = self.totals.entry(what).or_default();
        *total += 1;
        *total == 1
    }

    /// Sets the total of a loss that the kernel counts itself, and logs the first of its kind.
    pub fn set(&mut self, what: &'static str, total: u64) {
        let before = self.totals.insert(what, total).unwrap_or(0);
        if before == 0 && total > 0 {
            tracing::warn!(
                what,
                total,
                "samples were lost on the way from the kernel; see spillway_lost_total"
            );
        }
    }

    /// Every loss so far, by name.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.totals.iter().map(|(&what, &total)| (what, total))
    }
}
