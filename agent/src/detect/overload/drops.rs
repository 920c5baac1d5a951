//! History of drops: a queue that is not standing and drops connections again and again has a limit
//! that is too small for its bursts.
//!
//! A single burst that finds no room is a burst; drops in three different seconds of a minute show
//! how this service is used. Each costs a client a second or three.

/// Number of times at which connections must be dropped...
const TIMES: usize = 3;

/// ...within this time.
const WITHIN_SECS: f64 = 60.0;

/// Drops nearer to each other count once.
const APART_SECS: f64 = 1.0;

/// Last times at which connections were dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DropHistory {
    /// Oldest first.
    times: [Option<f64>; TIMES],
}

impl DropHistory {
    /// Takes drops at `t`.
    pub(super) fn note(&mut self, t: f64) {
        if self.times[TIMES - 1].is_none_or(|last_t| t - last_t >= APART_SECS) {
            self.times.rotate_left(1);
            self.times[TIMES - 1] = Some(t);
        }
    }

    /// Whether drops recur.
    pub(super) fn recur(&self, t: f64) -> bool {
        self.times[0].is_some_and(|first_t| t - first_t <= WITHIN_SECS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_recur_that_come_thrice_in_a_minute_and_for_as_long() {
        let mut drops = DropHistory::default();
        for t in [0.0, 0.1, 0.2, 20.0] {
            drops.note(t);
            assert!(!drops.recur(t));
        }
        drops.note(40.0);
        assert!(drops.recur(40.0) && drops.recur(60.0));
        assert!(!drops.recur(60.1));
        drops.note(90.0);
        assert!(!drops.recur(90.0));
        let mut steady = DropHistory::default();
        (0..30).for_each(|step| steady.note(f64::from(step) / 10.0));
        assert!(steady.recur(3.0), "without a break is again and again");
    }
}
