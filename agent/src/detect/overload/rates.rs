//! Rates of connections that arrive at one address and are accepted, now and before its queue began
//! to stand.
//!
//! Load that arrives from peers that failed, and clients that retry, are signs of a cascade: they
//! look like any overload from within and differ in the rates before it. The rate before is a mean
//! over about a minute, which is not updated while the queue is standing. Cold start: a rate is
//! known after ten seconds, or after half a minute if a drain may depend on it.

use crate::detect::claim::Sign;

/// Time over which the rate before is averaged.
const BEFORE_SECS: f64 = 60.0;

/// Samples over which the rate now is taken: several, so that one burst is no surge, and fewer than
/// an overload takes to be claimed.
const NOW_SAMPLES: usize = 4;

/// Samples that are kept, for a slow service, of which so few count too little.
const KEPT_SAMPLES: usize = 16;

/// Time on which a rate before must rest to be compared, with its scatter, with the one now.
const KNOWN_AFTER_SECS: f64 = 10.0;

/// Longer time for the claim that the service itself has become slower, which may drain the node.
const SLOWER_AFTER_SECS: f64 = 30.0;

/// Factor from which a rate has risen. If one of three peers fails, each of the others gets half as
/// much again.
const SURGE: f64 = 1.3;

/// Share below which a rate has fallen.
const FALLEN: f64 = 0.7;

/// Standard deviations of a count that a change must exceed.
const SIGMAS: f64 = 4.0;

/// Standard deviations for fewer accepts while more arrive, which is known already.
const SIGMAS_OF_STORM: f64 = 2.5;

/// A rate, now and before.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    before_per_sec: f64,
    known_secs: f64,
    /// Seconds and connections of the last samples.
    now: [(f64, u64); KEPT_SAMPLES],
}

impl Rate {
    fn take(&mut self, secs: f64, count: u64, is_standing: bool) {
        let rate = count as f64 / secs;
        self.now.rotate_left(1);
        self.now[KEPT_SAMPLES - 1] = (secs, count);
        if !is_standing {
            // At first all samples count alike.
            self.known_secs += secs;
            self.before_per_sec +=
                (rate - self.before_per_sec) * (secs / self.known_secs.min(BEFORE_SECS)).min(1.0);
        }
    }

    /// Seconds and rate of the last samples.
    fn last(&self, samples: usize) -> (f64, f64) {
        let last = self.now.iter().rev().take(samples);
        let (secs, count) = last.fold((0.0, 0_u64), |(secs, count), sample| {
            (secs + sample.0, count.saturating_add(sample.1))
        });
        (secs, count as f64 / secs.max(f64::MIN_POSITIVE))
    }

    fn now_per_sec(&self) -> f64 {
        self.last(NOW_SAMPLES).1
    }

    fn is_known_for(&self, secs: f64) -> bool {
        self.known_secs >= secs
    }

    fn has_risen(&self) -> bool {
        self.differs(SIGMAS, |now, before| now >= SURGE * before)
    }

    fn has_fallen(&self, sigmas: f64) -> bool {
        self.differs(sigmas, |now, before| now <= FALLEN * before)
    }

    /// Returns whether the rate now differs from that before as `changes` says, and by more than
    /// chance.
    fn differs(&self, sigmas: f64, changes: impl Fn(f64, f64) -> bool) -> bool {
        let before = self.before_per_sec;
        [NOW_SAMPLES, KEPT_SAMPLES].into_iter().any(|samples| {
            let (secs, now) = self.last(samples);
            let variance = before.max(now) / secs + before / self.known_secs.min(BEFORE_SECS);
            changes(now, before) && (now - before).abs() >= sigmas * variance.sqrt()
        })
    }
}

/// Rates of one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    arrivals: Rate,
    accepts: Rate,
    /// Whether arrivals and accepts were counted in the last sample.
    counts: (bool, bool),
    /// Set if clients were seen to retry since the queue began to stand. The service may accept as
    /// many as before again while they still do: connections whose clients have given up.
    is_storm: bool,
    /// Seconds in which clients were seen to retry since then, and connections that arrived in
    /// them.
    storm: (f64, u64),
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
        self.is_storm = is_standing && self.sign() == Some(Sign::RetryStorm);
        if !is_standing {
            self.storm = (0.0, 0);
        } else if self.is_storm {
            let (known_secs, known) = self.storm;
            self.storm = (known_secs + secs, known.saturating_add(arrived.unwrap_or(0)));
        }
    }

    /// Share of the waiting connections, at least, whose clients have gone: each retry follows a
    /// try that was given up. `None` unless clients were seen to retry since the queue began to
    /// stand and connections are accepted as before again.
    pub(super) fn gone_share(&self) -> Option<f64> {
        let (secs, arrived) = self.storm;
        let share = 1.0 - self.arrivals.before_per_sec * secs / arrived.max(1) as f64;
        let went = &self.accepts;
        let accepts_again = went.last(KEPT_SAMPLES).1 > FALLEN * went.before_per_sec;
        (arrived > 0 && share > 0.0 && accepts_again).then_some(share)
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
            self.arrivals.is_known_for(KNOWN_AFTER_SECS),
            self.accepts.is_known_for(KNOWN_AFTER_SECS),
        ) else {
            return None;
        };
        if !self.arrivals.has_risen() {
            return None;
        }
        let is_storm = self.is_storm || self.accepts.has_fallen(SIGMAS_OF_STORM);
        Some(if is_storm { Sign::RetryStorm } else { Sign::LoadSurge })
    }

    /// Change in the rates, in words; `None` if there is none or the rates before are unknown.
    pub(super) fn change(&self) -> Option<String> {
        let (came, went) = (&self.arrivals, &self.accepts);
        let of = |rate: &Rate| {
            format!("{:.0}/s ({:.0}/s before)", rate.now_per_sec(), rate.before_per_sec)
        };
        if let Some(share) = self.gone_share() {
            let now =
                if self.is_storm { "clients keep retrying" } else { "clients retried before" };
            return Some(format!(
                "{now}: {} arrive and {} are accepted, but at least {:.0} % of them for clients \
                 that have gone",
                of(came),
                of(went),
                share * 100.0
            ));
        }
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
        self.accepts.is_known_for(SLOWER_AFTER_SECS)
            && self.accepts.has_fallen(SIGMAS)
            && self.counts.1
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
        assert_eq!(rates((400, 400), (600, 400), 9).sign(), None, "before is not known yet");
        assert_eq!(rates((400, 400), (600, 400), 11).sign(), Some(Sign::LoadSurge));
        assert!(!rates((400, 400), (400, 200), 20).is_slower(), "that might drain the node");
        assert_eq!(rates((20, 20), (30, 20), 60).sign(), None, "so few scatter that much");
    }

    #[test]
    fn storm_goes_on_while_clients_retry_whatever_is_accepted() {
        let mut rates = rates((400, 400), (600, 200), 60);
        (0..50).for_each(|_| rates.take(0.1, Some(60), Some(50), true));
        assert_eq!(rates.sign(), Some(Sign::RetryStorm));
        (0..50).for_each(|_| rates.take(0.1, Some(40), Some(50), true));
        assert_eq!(rates.sign(), None, "clients retry no more");
        (0..50).for_each(|_| rates.take(0.1, Some(60), Some(40), true));
        assert_eq!(rates.sign(), Some(Sign::LoadSurge), "and this is another surge");
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
