//! Exponential backoff with jitter, a cap and an optional deadline.
//!
//! Pure: time and jitter are arguments. The first retry comes within a second, because most
//! failures are short; jitter keeps a fleet that fails together from retrying together.

use std::time::Duration;

/// Maximum delay of the first retry, in seconds. It doubles with each failure, up to the cap.
const FIRST_SECS: f64 = 1.0;

/// Failures that are counted: 2^16 s is beyond any cap.
const FAILURES_MAX: u32 = 16;

/// Retry schedule of a request or a destination.
#[derive(Debug, Clone)]
pub struct Backoff {
    cap_secs: f64,
    deadline: Option<f64>,
    failures: u32,
}

impl Backoff {
    /// Creates a schedule with delays of at most `cap_secs`, and without retries from `deadline`.
    pub const fn new(cap_secs: f64, deadline: Option<f64>) -> Self {
        Self { cap_secs, deadline, failures: 0 }
    }

    /// Returns the seconds until the deadline; infinity without one.
    pub fn left_secs(&self, now: f64) -> f64 {
        self.deadline.map_or(f64::INFINITY, |deadline| (deadline - now).max(0.0))
    }

    /// Starts again with the first delay, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure and returns the delay after it, in seconds. `jitter` is 0 to 1, drawn each
    /// time; it decides half of the delay.
    pub fn delay_secs(&mut self, jitter: f64) -> f64 {
        let longest = (FIRST_SECS * 2.0_f64.powi(self.failures as i32)).min(self.cap_secs);
        self.failures = (self.failures + 1).min(FAILURES_MAX);
        longest * (0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    /// Counts a failure at `now` and returns the time of the next attempt, at least `asked_for`
    /// later if the other side sent a delay; `None` if that would miss the deadline.
    pub fn next(&mut self, now: f64, asked_for: Option<Duration>, jitter: f64) -> Option<f64> {
        let asked_secs = asked_for.unwrap_or_default().as_secs_f64();
        let at = now + self.delay_secs(jitter).max(asked_secs);
        self.deadline.is_none_or(|deadline| at < deadline).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP_SECS: f64 = 30.0;

    #[test]
    fn delays_double_from_a_second_up_to_the_cap() {
        let mut retries = Backoff::new(CAP_SECS, Some(1_000.0));
        let delays: Vec<_> = (0..7).filter_map(|_| retries.next(0.0, None, 1.0)).collect();
        assert_eq!(delays, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        let asked_for = Some(Duration::from_secs(120));
        assert_eq!(retries.next(0.0, asked_for, 0.0), Some(120.0));
        assert_eq!(retries.next(900.0, asked_for, 0.0), None);
        assert_eq!((retries.left_secs(900.0), retries.left_secs(1_001.0)), (100.0, 0.0));
    }

    #[test]
    fn backoff_without_deadline_always_retries() {
        let mut retries = Backoff::new(300.0, None);
        let last = (0..100).filter_map(|_| retries.next(0.0, None, 1.0)).last();
        assert_eq!((last, retries.left_secs(1e9)), (Some(300.0), f64::INFINITY));
        retries.reset();
        assert_eq!(retries.next(0.0, None, 0.0), Some(0.5));
    }

    proptest! {
        #[test]
        fn retries_are_never_too_late_and_never_too_soon(
            deadline in 0.0..600.0_f64,
            tries in prop::collection::vec(
                (0.0..10.0_f64, prop::option::of(0..400_u64), 0.0..1.0_f64),
                1..100,
            ),
        ) {
            let (mut retries, mut now) = (Backoff::new(CAP_SECS, Some(deadline)), 0.0);
            for (nth, (took, asked_for, jitter)) in tries.into_iter().enumerate() {
                now += took;
                let asked_for = asked_for.map(Duration::from_secs);
                let Some(at) = retries.next(now, asked_for, jitter) else {
                    let longest = asked_for.unwrap_or_default().as_secs_f64().max(CAP_SECS);
                    prop_assert!(now + longest >= deadline);
                    return Ok(());
                };
                prop_assert!(at < deadline && at >= now + 0.5);
                prop_assert!(asked_for.is_none_or(|least| at - now >= least.as_secs_f64() - 1e-9));
                prop_assert!(nth > 0 || asked_for.is_some() || at - now <= FIRST_SECS);
                now = at;
            }
        }
    }
}
