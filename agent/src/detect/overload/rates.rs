//! How many connections come to one address and how many are accepted, now and before its queue
//! began to stand.
//!
//! Load that arrives from peers that failed, and clients that try again and again, are signs of a
//! cascade: they look like any overload from within and differ in what came before it. The rate
//! before is a mean over about a minute, which stands still while the queue stands. Cold start: a
//! rate is known after half a minute. It refuses to compare with less.

use crate::detect::verdict::Sign;

/// Time over which the rate before is averaged.
const BEFORE_SECS: f64 = 60.0;

/// Looks over which the rate now is taken: some, so that one burst is no surge, and fewer than a
/// run takes to be claimed.
const NOW_LOOKS: usize = 4;

/// What a rate before must rest on.
const KNOWN_AFTER_SECS: f64 = 30.0;

/// A rate this many times what it was has risen. A peer of three that fails gives each of the
/// others half as much again.
const SURGE: f64 = 1.3;

/// A rate this share of what it was has fallen.
const FALLEN: f64 = 0.7;

/// How many standard deviations of a count a change must exceed.
const SIGMAS: f64 = 4.0;

/// A rate, now and before.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    before_per_sec: f64,
    known_secs: f64,
    /// Seconds and connections of the last looks.
    now: [(f64, u64); NOW_LOOKS],
}

impl Rate {
    fn take(&mut self, secs: f64, count: u64, stands: bool) {
        let rate = count as f64 / secs;
        self.now.rotate_left(1);
        self.now[NOW_LOOKS - 1] = (secs, count);
        if !stands {
            // At first all that was seen counts alike.
            self.known_secs += secs;
            self.before_per_sec +=
                (rate - self.before_per_sec) * (secs / self.known_secs.min(BEFORE_SECS)).min(1.0);
        }
    }

    fn now_secs(&self) -> f64 {
        self.now.iter().map(|look| look.0).sum()
    }

    fn now_per_sec(&self) -> f64 {
        let count: u64 = self.now.iter().fold(0, |sum, look| sum.saturating_add(look.1));
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

    /// What the rate now scatters by.
    fn noise(&self) -> f64 {
        SIGMAS * (self.before_per_sec.max(self.now_per_sec()) / self.now_secs()).sqrt()
    }
}

/// What came to an address and what was accepted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    arrivals: Rate,
    accepts: Rate,
    /// Whether either was counted in the last look.
    counts: (bool, bool),
}

impl Rates {
    /// Takes what was counted in `secs`: what came, those that found the queue full included, and
    /// what was accepted.
    pub(super) fn take(
        &mut self,
        secs: f64,
        arrived: Option<u64>,
        accepted: Option<u64>,
        stands: bool,
    ) {
        if secs <= 0.0 {
            return;
        }
        self.counts = (arrived.is_some(), accepted.is_some());
        if let Some(arrived) = arrived {
            self.arrivals.take(secs, arrived, stands);
        }
        if let Some(accepted) = accepted {
            self.accepts.take(secs, accepted, stands);
        }
    }

    /// Connections that come a second now; `None` where they are not counted.
    pub(super) fn arrivals_per_sec(&self) -> Option<f64> {
        self.counts.0.then(|| self.arrivals.now_per_sec())
    }

    /// Connections that are accepted a second now; `None` where they are not counted.
    pub(super) fn accepts_per_sec(&self) -> Option<f64> {
        self.counts.1.then(|| self.accepts.now_per_sec())
    }

    /// The sign of a cascade in them.
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

    /// What changed, in words; `None` where nothing did or nothing is known of before.
    pub(super) fn change(&self) -> Option<String> {
        let (came, went) = (&self.arrivals, &self.accepts);
        let of = |rate: &Rate| {
            format!("{:.0}/s, {:.0}/s before", rate.now_per_sec(), rate.before_per_sec)
        };
        match self.sign() {
            Some(Sign::RetryStorm) => {
                return Some(format!(
                    "clients try again and again: {} come, {} are accepted",
                    of(came),
                    of(went)
                ));
            }
            Some(Sign::LoadSurge) => {
                return Some(format!(
                    "more load than before, as from peers that failed: {} come",
                    of(came)
                ));
            }
            Some(Sign::DependencyDown) | None => {}
        }
        self.is_slower().then(|| format!("it accepts less than before: {}", of(went)))
    }

    /// Tells if fewer are accepted than before.
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
            "it accepts less than before: 200/s, 400/s before"
        );
        let surge = "more load than before, as from peers that failed: 600/s, 400/s before come";
        assert_eq!(change(rates((400, 400), (600, 400), 60)), surge);
        assert_eq!(change(rates((400, 400), (400, 400), 60)), "");
    }
}
