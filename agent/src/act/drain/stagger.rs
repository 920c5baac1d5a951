//! Delay of a drain without a receiver: nodes with the same leak, started together, must not leave
//! rotation together.
//!
//! Pure. Each node has a share from 0 to 1, from its names. Drains are spread over the first third
//! of the time that is left until the soonest end that the forecast allows, so that two thirds
//! remain for the drain itself. A forecast that comes nearer faster than the clock ends the delay
//! sooner. Without a forecast there is no delay.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Part of the time until a leak's end over which drains are spread. A guess: connections of two
/// minutes end in the rest of the default ten.
const SPREAD: f64 = 1.0 / 3.0;

/// Delay of one drain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    since: f64,
    until: f64,
    /// Time until the leak's end at which the delay is over all the same.
    near_secs: f64,
}

impl Delay {
    /// Begins at `now`, with the seconds until the forecast end and until the earliest possible
    /// end.
    pub fn new(now: f64, left_secs: Option<[f64; 2]>, share: f64) -> Self {
        let left_secs = left_secs.filter(|left| left.iter().all(|secs| secs.is_finite()));
        let [forecast, soonest] = left_secs.unwrap_or_default().map(|secs| secs.max(0.0));
        let secs = soonest.min(forecast) * SPREAD * share.clamp(0.0, 1.0);
        Self { since: now, until: now + secs, near_secs: forecast - secs }
    }

    /// Length of the delay in seconds.
    pub fn secs(&self) -> f64 {
        self.until - self.since
    }

    /// Time that it took by `now`.
    pub fn waited_secs(&self, now: f64) -> f64 {
        (now - self.since).max(0.0)
    }

    /// Returns whether the drain may be requested. `left_secs` is the latest forecast.
    pub fn is_over(&self, now: f64, left_secs: Option<f64>) -> bool {
        now >= self.until || left_secs.is_some_and(|left| left <= self.near_secs)
    }
}

/// This node's share, the same in every run: from names that no other node has all of.
pub fn share(names: &[&str]) -> f64 {
    let mut hasher = DefaultHasher::new();
    names.hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn node_keeps_its_share_and_others_have_others() {
        let shares: Vec<_> =
            (0..1_000).map(|nth| share(&[&format!("web-{nth}"), "cloned"])).collect();
        for tenth in 0..10 {
            let (from, to) = (f64::from(tenth) / 10.0, f64::from(tenth + 1) / 10.0);
            let within = shares.iter().filter(|share| (from..to).contains(*share)).count();
            assert!((60..140).contains(&within), "{within} of 1,000 nodes in [{from}, {to})");
        }
        assert_eq!(share(&["web-7", "cloned"]), shares[7]);
    }

    #[test]
    fn forecast_that_shrinks_faster_than_time_ends_the_delay() {
        let delay = Delay::new(100.0, Some([600.0, 600.0]), 0.5);
        assert_eq!(delay.secs(), 100.0);
        assert!(!delay.is_over(199.0, Some(501.0)) && delay.is_over(200.0, Some(600.0)));
        assert!(delay.is_over(110.0, Some(500.0)), "it grows faster than was forecast");
        assert_eq!(Delay::new(100.0, Some([600.0, 300.0]), 0.5).secs(), 50.0, "it may end sooner");
        assert!(
            Delay::new(100.0, None, 1.0).is_over(100.0, None),
            "an end that is not known may be near"
        );
    }

    proptest! {
        #[test]
        fn two_thirds_of_the_time_remain(left in 0.0..1e6_f64, share in 0.0..=1.0_f64, now in 0.0..1e6_f64) {
            let delay = Delay::new(now, Some([left, left]), share);
            prop_assert!(delay.secs() >= 0.0 && delay.secs() <= left / 3.0 + 1e-6);
            prop_assert!(delay.is_over(now + delay.secs() + 1e-6, Some(left)));
        }
    }
}
