//! Rates of connections that arrive at one address and are accepted, now and before its queue began
//! to stand.
//!
//! Load that arrives from peers that failed, and clients that retry, are signs of a cascade: they
//! look like any overload from within and differ in the rates before it. The rate before is a mean
//! over about a minute, which is not updated while the queue is standing. Cold start: a rate is
//! known after half a minute.

use crate::detect::claim::Sign;

/// Time over which the rate before is averaged.
const BEFORE_SECS: f64 = 60.0;

/// Samples over which the rate now is taken: several, so that one burst is no surge, and fewer than
/// an overload takes to be claimed.
const NOW_SAMPLES: usize = 4;

/// Time on which a rate before must rest.
const KNOWN_AFTER_SECS: f64 = 30.0;

/// Factor from which a rate has risen. If one of three peers fails, each of the others gets half as
/// much again.
const SURGE: f64 = 1.3;

/// Share below which a rate has fallen.
const FALLEN: f64 = 0.7;

/// Standard deviations of a count that a change must exceed.
const SIGMAS: f64 = 4.0;

/// A rate, now and before.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    before_per_sec: f64,
    known_secs: f64,
    /// Seconds and connections of the last samples.
    now: [(f64, u64); NOW_SAMPLES],
}

impl Rate {
    fn take(&mut self, secs: f64, count: u64, is_standing: bool) {
        let rate = count as f64 / secs;
        self.now.rotate_left(1);
        self.now[NOW_SAMPLES - 1] = (secs, count);
        if !is_standing {
            // At first all samples count alike.
            self.known_secs += secs;
            self.before_per_sec +=
                (rate - self.before_per_sec) * (secs / self.known_secs.min(BEFORE_SECS)).min(1.0);
        }
    }

    fn now_secs(&self) -> f64 {
        self.now.iter().map(|sample| sample.0).sum()
    }

    fn now_per_sec(&self) -> f64 {
        let count: u64 = self.now.iter().fold(0, |sum, sample| sum.saturating_add(sample.1));
        count as f64 / self.now_secs().max(f64::MIN_POSITIVE)
    }

    fn is_known(&self) -> bool {
        self.known_secs >= KNOWN_AFTER_SECS
    }

    fn has_risen(&self) -> bool {
        let now_per_sec = self.now_per_sec();
        now_per_sec >= SURGE * self.before_per_sec
            && now_per_sec - self.before_per_sec >= self.noise()
    }

    fn has_fallen(&self) -> bool {
        let now_per_sec = self.now_per_sec();
        now_per_sec <= FALLEN * self.before_per_sec
            && self.before_per_sec - now_per_sec >= self.noise()
    }

    /// Scatter of the rate now.
    fn noise(&self) -> f64 {
        SIGMAS * (self.before_per_sec.max(self.now_per_sec()) / self.now_secs()).sqrt()
    }
}

/// Rates of one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    arrivals: Rate,
    accepts: Rate,
    /// Whether arrivals and accepts were counted in the last sample.
    counts: (bool, bool),
}

impl Rates {
    /// Takes the connections counted in `secs`: those that arrived, including any that found the
    /// queue full, and those accepted.
    pub(super) fn take(
        &mut self,
        secs: f64,
        arrived: Option<u64>,
        accepted: Option<u64>,
        is_standing: bool,
    ) {
        if secs <= 0.0 {
            return;
        }
        self.counts = (arrived.is_some(), accepted.is_some());
        if let Some(arrived) = arrived {
            self.arrivals.take(secs, arrived, is_standing);
        }
        if let Some(accepted) = accepted {
            self.accepts.take(secs, accepted, is_standing);
        }
    }

    /// Connections that arrive per second now; `None` if they are not counted.
    pub(super) fn arrivals_per_sec(&self) -> Option<f64> {
        self.counts.0.then(|| self.arrivals.now_per_sec())
    }

    /// Connections that are accepted per second now; `None` if they are not counted.
    pub(super) fn accepts_per_sec(&self) -> Option<f64> {
        self.counts.1.then(|| self.accepts.now_per_sec())
    }

    /// Sign of a cascade in the rates.
    pub(super) fn sign(&self) -> Option<Sign> {
        let (Some(_), Some(_), true, true) = (
            self.arrivals_per_sec(),
            self.accepts_per_sec(),
            self.arrivals.is_known(),
            self.accepts.is_known(),
        ) else {
            return None;
        };
        match (self.arrivals.has_risen(), self.accepts.has_fallen()) {
            (true, true) => Some(Sign::RetryStorm),
            (true, false) => Some(Sign::LoadSurge),
            (false, _) => None,
        }
    }

    /// Change in the rates, in words; `None` if there is none or the rates before are unknown.
    pub(super) fn change(&self) -> Option<String> {
        let (came, went) = (&self.arrivals, &self.accepts);
        let of = |rate: &Rate| {
            format!("{:.0}/s ({:.0}/s before)", rate.now_per_sec(), rate.before_per_sec)
        };
        match self.sign() {
            Some(Sign::RetryStorm) => {
                return Some(format!(
                    "clients keep retrying: {} arrive and {} are accepted",
                    of(came),
                    of(went)
                ));
            }
            Some(Sign::LoadSurge) => {
                return Some(format!(
                    "more load arrives than before, as from peers that failed: {}",
                    of(came)
                ));
            }
            Some(Sign::DependencyDown) | None => {}
        }
        self.is_slower().then(|| format!("it accepts less than before: {}", of(went)))
    }

    /// Whether fewer are accepted than before.
    pub(super) fn is_slower(&self) -> bool {
        self.accepts.is_known() && self.accepts.has_fallen() && self.counts.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(before: (u64, u64), now: (u64, u64), secs_before: u32) -> Rates {
        let mut rates = Rates::default();
        for _ in 0..secs_before * 10 {
            rates.take(0.1, Some(before.0 / 10), Some(before.1 / 10), false);
        }
        for _ in 0..30 {
            rates.take(0.1, Some(now.0 / 10), Some(now.1 / 10), true);
        }
        rates
    }

    #[test]
    fn load_from_elsewhere_is_told_from_clients_that_try_again() {
        assert_eq!(rates((400, 400), (600, 400), 60).sign(), Some(Sign::LoadSurge));
        assert_eq!(rates((400, 400), (600, 200), 60).sign(), Some(Sign::RetryStorm));
        assert_eq!(rates((400, 400), (400, 200), 60).sign(), None);
        assert_eq!(rates((400, 400), (440, 400), 60).sign(), None);
        assert_eq!(rates((400, 400), (600, 400), 20).sign(), None, "before is not known yet");
        assert_eq!(rates((20, 20), (30, 20), 60).sign(), None, "so few scatter that much");
    }

    #[test]
    fn a_change_is_told_with_what_was_before() {
        let change = |rates: Rates| rates.change().unwrap_or_default();
        assert_eq!(
            change(rates((400, 400), (400, 200), 60)),
            "it accepts less than before: 200/s (400/s before)"
        );
        let surge =
            "more load arrives than before, as from peers that failed: 600/s (400/s before)";
        assert_eq!(change(rates((400, 400), (600, 400), 60)), surge);
        assert_eq!(change(rates((400, 400), (400, 400), 60)), "");
    }
}
