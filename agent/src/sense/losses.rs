//! Counts of what did not reach an observation. Nothing is lost silently.

use std::{collections::BTreeMap, error::Error};

use crate::bpf::Loss;

/// Counts of losses between the kernel and an observation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LossCounters {
    totals: BTreeMap<Loss, u64>,
}

impl LossCounters {
    /// Counts one loss, and logs the first of its kind.
    pub fn count(&mut self, loss: Loss) {
        if self.add(loss) {
            tracing::warn!(
                what = loss.name(),
                "some of what the kernel has does not reach an observation; \
                 spillway_lost_total counts it"
            );
        }
    }

    /// Counts a pass that ended within a sample, of which `rest_bytes` bytes were left.
    pub fn count_short_read(&mut self, rest_bytes: usize) {
        if rest_bytes != 0 {
            self.count(Loss::ShortRead);
        }
    }

    /// Counts a read that failed as a whole. Logs only the first of its kind: a sensor that fails
    /// does so at every tick.
    pub fn count_failure(&mut self, loss: Loss, error: &dyn Error) {
        if self.add(loss) {
            tracing::warn!(
                what = loss.name(),
                %error,
                "a sensor cannot read the host; the agent goes on without it, and \
                 spillway_lost_total counts its failures"
            );
        }
    }

    /// Counts one; returns whether it is the first of its kind.
    fn add(&mut self, loss: Loss) -> bool {
        let total = self.totals.entry(loss).or_default();
        *total += 1;
        *total == 1
    }

    /// Sets the total of a loss that a BPF program counts, and logs the first of its kind.
    pub fn set(&mut self, loss: Loss, total: u64) {
        let before = self.totals.insert(loss, total).unwrap_or(0);
        if before == 0 && total > 0 {
            tracing::warn!(
                what = loss.name(),
                total,
                "BPF programs could not store some of what they saw; spillway_lost_total counts it"
            );
        }
    }

    /// Total of one loss.
    pub fn total(&self, loss: Loss) -> u64 {
        self.totals.get(&loss).copied().unwrap_or(0)
    }

    /// Every loss counted so far, by name.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.totals.iter().map(|(loss, &total)| (loss.name(), total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_is_counted_by_its_own_name() {
        let mut losses = LossCounters::default();
        Loss::VARIANTS.iter().for_each(|&loss| losses.count(loss));
        let names: Vec<_> = losses.totals().collect();
        assert_eq!(names.len(), Loss::VARIANTS.len());
        assert!(names.iter().all(|&(name, total)| total == 1 && !name.is_empty()));
        assert_eq!(names.first(), Some(&("life_ring_full", 1)));
        assert_eq!(names.last(), Some(&("count_read_failed", 1)));
        assert_eq!(Loss::VARIANTS[Loss::COUNTED_BY_BPF], Loss::HostReadFailed);
    }
}
