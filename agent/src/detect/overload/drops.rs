//! Whether a queue that does not stand drops connections again and again: then its limit is too
//! small for what comes at once.
//!
//! One burst that finds no room is a burst; the same within a minute, twice more, is how this
//! service is used. Each drop costs a client a second or three. It refuses to count drops within a
//! second as more than one.

/// Times that drops must come...
const TIMES: usize = 3;

/// ...within this time.
const WITHIN_SECS: f64 = 60.0;

/// Drops nearer to each other are one.
const APART_SECS: f64 = 1.0;

/// The last times at which connections were dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DropHistory {
    /// Oldest first.
    times: [Option<f64>; TIMES],
}

impl DropHistory {
    /// Connections were dropped at `t`.
    pub(super) fn note(&mut self, t: f64) {
        if self.times[TIMES - 1].is_none_or(|last_t| t - last_t >= APART_SECS) {
            self.times.rotate_left(1);
            self.times[TIMES - 1] = Some(t);
        }
    }

    /// Whether that happens again and again.
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
