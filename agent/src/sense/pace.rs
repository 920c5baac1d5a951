//! Paces of sensors that are not read with every scan: by a period, or by the processor time that
//! they take.

use super::thread_time::thread_secs;

/// Tolerance for scans that are early, so that no turn is skipped.
pub(super) const SLACK_SECS: f64 = 0.1;

/// Period of a sensor.
#[derive(Debug)]
pub(super) struct ReadPeriod {
    secs: f64,
    last_t: Option<f64>,
}

impl ReadPeriod {
    /// Creates a period, due at once.
    pub(super) fn every(secs: f64) -> Self {
        Self { secs, last_t: None }
    }

    /// Returns whether the sensor is due; it then counts as read.
    pub(super) fn is_due(&mut self, now: f64) -> bool {
        let is_due = self.last_t.is_none_or(|then| now - then + SLACK_SECS >= self.secs);
        if is_due {
            self.last_t = Some(now);
        }
        is_due
    }
}

/// Processor time that a sensor may spend: a share of one core, of which an unused part is saved
/// for a while.
#[derive(Debug)]
pub(super) struct CpuCredit {
    share: f64,
    saved_secs: f64,
    /// Negative after work that took more.
    left_secs: f64,
    last_t: Option<f64>,
}

impl CpuCredit {
    /// Creates a credit that is full.
    pub(super) fn new(share: f64, saved_secs: f64) -> Self {
        Self { share, saved_secs, left_secs: share * saved_secs, last_t: None }
    }

    /// Adds what the time since the last call is worth.
    pub(super) fn earn(&mut self, now: f64) {
        let passed_secs = self.last_t.replace(now).map_or(0.0, |last_t| (now - last_t).max(0.0));
        self.left_secs =
            (self.left_secs + passed_secs * self.share).min(self.share * self.saved_secs);
    }

    /// Returns whether anything is left.
    pub(super) fn is_left(&self) -> bool {
        self.left_secs > 0.0
    }

    /// Does a piece of work, and subtracts the time that it took.
    pub(super) fn spend<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before_secs = thread_secs();
        let result = work();
        self.left_secs -= thread_secs() - before_secs;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn period_is_due_at_once_and_tolerates_early_scans() {
        let mut period = ReadPeriod::every(10.0);
        let due: Vec<_> =
            [0.0, 5.0, 9.95, 15.0, 20.0].map(|now| period.is_due(now)).into_iter().collect();
        assert_eq!(due, [true, false, true, false, true]);
    }

    #[test]
    fn credit_is_spent_by_work_and_saved_for_a_while() {
        let mut credit = CpuCredit::new(1e-9, 10.0);
        assert!(credit.is_left());
        let sum = credit.spend(|| (0..100_000_u64).fold(0, u64::wrapping_add));
        assert!(sum > 0 && !credit.is_left(), "{credit:?}");
        credit.earn(0.0);
        credit.earn(1e12);
        assert!(credit.is_left() && credit.left_secs <= 1e-8, "{credit:?}");
    }
}
