//! Detection of a spinning cgroup: at its limit it uses a whole CPU all the same, which the kernel
//! spends on reclaiming the same memory again and again.
//!
//! Pure: it takes the CPU time of the cgroup every second. Cold start: the first reading only
//! starts the measurement. The CPU time is averaged since the start, so that a second in which
//! others had the CPU does not matter; when the average falls below the share, it starts again.

/// Share of one CPU from which a cgroup counts as spinning; a guess. A server at its limit waits
/// for requests now and then.
const SPINNING_SHARE: f64 = 0.9;

/// Detector for one cgroup.
#[derive(Debug, Clone)]
pub struct SpinDetector {
    after_secs: f64,
    /// Time of the start, and the CPU time by then in microseconds.
    since: Option<(f64, u64)>,
}

impl SpinDetector {
    /// Detects a cgroup that spins for `after_secs`.
    pub fn new(after_secs: f64) -> Self {
        Self { after_secs, since: None }
    }

    /// Returns whether the cgroup has spun for long enough. `t` is now, in seconds; `cpu_usec` is
    /// its CPU time so far, `None` if unknown; `is_pressed` is set if it is at its limit.
    pub fn observe(&mut self, t: f64, cpu_usec: Option<u64>, is_pressed: bool) -> bool {
        let Some(now_usec) = cpu_usec.filter(|_| is_pressed) else {
            self.since = None;
            return false;
        };
        let (since, then_usec) = *self.since.get_or_insert((t, now_usec));
        let secs = t - since;
        let used_secs = now_usec.saturating_sub(then_usec) as f64 / 1e6;
        // A counter that went back is that of another cgroup.
        if used_secs < SPINNING_SHARE * secs || now_usec < then_usec {
            self.since = Some((t, now_usec));
            return false;
        }
        secs >= self.after_secs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the second at which spinning is detected, with this CPU time in each second.
    fn reported_at(pressed: impl Fn(u64) -> bool, used_ms: impl Fn(u64) -> u64) -> Option<u64> {
        let mut spin = SpinDetector::new(10.0);
        let mut usec = 5_000_000;
        (0..100).find(|t| {
            usec += used_ms(*t) * 1_000;
            spin.observe(*t as f64, Some(usec), pressed(*t))
        })
    }

    #[test]
    fn nine_tenths_of_a_cpu_for_ten_seconds_is_spinning() {
        assert_eq!(reported_at(|_| true, |_| 1_000), Some(10));
        assert_eq!(reported_at(|_| true, |_| 900), Some(10));
        assert_eq!(reported_at(|_| true, |_| 4_000), Some(10), "of several CPUs");
        assert_eq!(reported_at(|_| true, |_| 899), None);
    }

    #[test]
    fn one_idle_second_is_tolerated_and_a_rest_restarts() {
        assert_eq!(reported_at(|_| true, |t| if t == 6 { 600 } else { 1_000 }), Some(10));
        assert_eq!(reported_at(|_| true, |t| if t == 6 { 0 } else { 1_000 }), Some(16));
    }

    #[test]
    fn it_spins_only_at_its_limit() {
        assert_eq!(reported_at(|_| false, |_| 1_000), None);
        assert_eq!(reported_at(|t| t != 5, |_| 1_000), Some(16));
    }

    #[test]
    fn unknown_or_restarted_counter_is_no_spinning() {
        let mut spin = SpinDetector::new(1.0);
        assert!(!spin.observe(0.0, Some(9_000_000), true));
        assert!(!spin.observe(2.0, Some(1_000_000), true), "another cgroup's");
        assert!(!spin.observe(2.5, None, true));
        assert!(!spin.observe(3.5, Some(3_000_000), true));
        assert!(spin.observe(4.5, Some(4_000_000), true));
    }

    #[test]
    fn without_minimum_time_it_spins_at_once_at_its_limit() {
        let mut spin = SpinDetector::new(0.0);
        assert!(!spin.observe(0.0, Some(7), false));
        assert!(spin.observe(1.0, Some(7), true));
    }

    proptest! {
        #[test]
        fn cgroup_below_the_share_never_spins(readings in prop::collection::vec((0.01..3.0_f64, 0.0..0.89_f64), 1..200)) {
            let mut spin = SpinDetector::new(10.0);
            let (mut t, mut usec) = (0.0, 0);
            for (secs, share) in readings {
                t += secs;
                usec += (secs * share * 1e6) as u64;
                prop_assert!(!spin.observe(t, Some(usec), true));
            }
        }
    }
}
