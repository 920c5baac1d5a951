//! When a request is sent again that nobody answered: soon, then ever later, and not after its
//! deadline.
//!
//! Pure: chance and time are arguments. The first retry comes within a second, because most
//! failures are short; jitter keeps a fleet that fails together from asking together.

use std::time::Duration;

/// Longest wait before the first retry, in seconds; each later one doubles it.
const FIRST_SECS: f64 = 1.0;
/// Longest wait before any, in seconds.
const MOST_SECS: f64 = 30.0;

/// The schedule of one request.
#[derive(Debug, Clone)]
pub struct Backoff {
    until: f64,
    tried: i32,
}

impl Backoff {
    /// Of a request that is of no use after `until`.
    pub fn until(until: f64) -> Self {
        Self { until, tried: 0 }
    }

    /// Returns the time left.
    pub fn left_secs(&self, now: f64) -> f64 {
        (self.until - now).max(0.0)
    }

    /// When to send it again, after it failed at `now`; `None` where that would be too late.
    /// `asked_for` is how long the other side wants to be left alone, `chance` from 0 to 1.
    pub fn next(&mut self, now: f64, asked_for: Option<Duration>, chance: f64) -> Option<f64> {
        let most = (FIRST_SECS * 2.0_f64.powi(self.tried)).min(MOST_SECS);
        self.tried = (self.tried + 1).min(16);
        let jittered = most * (0.5 + 0.5 * chance.clamp(0.0, 1.0));
        let at = now + jittered.max(asked_for.unwrap_or_default().as_secs_f64());
        (at < self.until).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_comes_within_a_second_and_later_ones_later() {
        let mut retries = Backoff::until(1_000.0);
        let waits: Vec<_> = (0..7).filter_map(|_| retries.next(0.0, None, 1.0)).collect();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        let asked_for = Some(Duration::from_secs(120));
        assert_eq!(retries.next(0.0, asked_for, 0.0), Some(120.0));
        assert_eq!(retries.next(900.0, asked_for, 0.0), None);
    }

    proptest! {
        #[test]
        fn it_is_never_too_late_and_never_too_soon(
            deadline in 0.0..600.0_f64,
            tries in prop::collection::vec((0.0..10.0_f64, prop::option::of(0..400_u64), 0.0..1.0_f64), 1..100),
        ) {
            let (mut retries, mut now) = (Backoff::until(deadline), 0.0);
            for (nth, (took, asked_for, chance)) in tries.into_iter().enumerate() {
                now += took;
                let asked_for = asked_for.map(Duration::from_secs);
                let Some(at) = retries.next(now, asked_for, chance) else {
                    prop_assert!(now + asked_for.unwrap_or_default().as_secs_f64().max(MOST_SECS) >= deadline);
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
