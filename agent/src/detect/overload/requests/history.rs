//! Last few samples of the requests at one address: rates, and arrivals since a moment.
//!
//! Bounded by [`MOMENTS_MAX`], which are at least [`APART_SECS`] apart, so that however often the
//! sensor samples, some seconds are known. Between two samples everything is taken to be even.

use crate::detect::overload::counter::Counter;
use crate::sense::RequestsFact;

/// Moments kept.
const MOMENTS_MAX: usize = 16;

/// Time between two moments that are kept: together they span six seconds at least.
const APART_SECS: f64 = 0.4;

/// Responses on which a rate should rest, if the history has so many...
const RATE_ANSWERED: f64 = 20.0;

/// ...and the time that it must span.
const RATE_SECS: f64 = 1.0;

/// Time over which abandoned requests are counted.
const ABANDONED_SECS: f64 = 3.0;

/// Counts at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Moment {
    t: f64,
    in_flight: f64,
    unread: f64,
    /// Requests answered and abandoned since the address was first sampled.
    answered: f64,
    abandoned: f64,
    /// Connections that ended without being abandoned, since then.
    closed: f64,
}

/// The last moments, oldest first; the last is the latest sample.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestHistory {
    moments: [Moment; MOMENTS_MAX],
    len: usize,
    answered: Counter,
    abandoned: Counter,
    /// Set if responses are counted.
    is_counted: bool,
    /// Connections that must have ended, by the first counts; `None` until both are known.
    closed_from: Option<f64>,
}

/// Requests that ended in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Ended {
    /// Time in seconds.
    pub(super) secs: f64,
    /// Requests whose response began in it.
    pub(super) answered: f64,
    /// Requests whose client gave up in it.
    pub(super) abandoned: f64,
}

impl Ended {
    /// Responses per second.
    pub(super) fn answered_per_sec(&self) -> f64 {
        if self.secs > 0.0 { self.answered / self.secs } else { 0.0 }
    }

    /// Share of the requests that ended without a response; 0 if none ended.
    pub(super) fn abandoned_share(&self) -> f64 {
        let ended = self.answered + self.abandoned;
        if ended > 0.0 { self.abandoned / ended } else { 0.0 }
    }
}

impl RequestHistory {
    /// Takes a sample. Returns the requests that ended since the last one. `accepted` is how many
    /// connections were accepted so far: samples miss most responses on connections of a single
    /// request, but each that was accepted and is open no longer has had one.
    pub(super) fn push(&mut self, t: f64, fact: &RequestsFact, accepted: Option<f64>) -> Ended {
        let last = self.last();
        self.is_counted = fact.answered_total.is_some();
        let answered = self.answered.rise(fact.answered_total) as f64;
        let abandoned = self.abandoned.rise(fact.abandoned_total) as f64;
        let abandoned_total = last.map_or(0.0, |last| last.abandoned) + abandoned;
        let closed = accepted.zip(fact.connections).map_or(0.0, |(accepted, open)| {
            let gone = accepted - f64::from(open) - abandoned_total;
            gone - *self.closed_from.get_or_insert(gone)
        });
        // The two counts are not of the same instant.
        let closed_before = last.map_or(0.0, |last| last.closed);
        let closed = closed.max(closed_before);
        let moment = Moment {
            t,
            in_flight: f64::from(fact.in_flight.max(fact.unread)),
            unread: f64::from(fact.unread),
            answered: last.map_or(0.0, |last| last.answered) + answered,
            abandoned: abandoned_total,
            closed,
        };
        let is_near = |pair: &[Moment]| pair[1].t - pair[0].t < APART_SECS;
        if self.all().last_chunk::<2>().is_some_and(|pair| is_near(pair)) {
            self.len -= 1;
        } else if self.len == MOMENTS_MAX {
            self.moments.rotate_left(1);
            self.len -= 1;
        }
        self.moments[self.len] = moment;
        self.len += 1;
        let answered = answered.max(closed - closed_before);
        Ended { secs: last.map_or(0.0, |last| t - last.t), answered, abandoned }
    }

    /// Forgets all samples, as after a gap. Counters go on.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns whether responses are counted.
    pub(super) fn is_counted(&self) -> bool {
        self.is_counted
    }

    fn all(&self) -> &[Moment] {
        &self.moments[..self.len]
    }

    fn last(&self) -> Option<Moment> {
        self.all().last().copied()
    }

    /// Returns the counts so many seconds ago, or at the first sample if that was later.
    fn ago(&self, secs: f64) -> Option<Moment> {
        let last = self.last()?;
        let t = last.t - secs;
        let next = self.all().partition_point(|moment| moment.t <= t);
        let Some(before) = next.checked_sub(1).map(|place| self.moments[place]) else {
            return self.all().first().copied();
        };
        let Some(after) = self.all().get(next) else { return Some(before) };
        let share = (t - before.t) / (after.t - before.t);
        let between = |from: f64, to: f64| from + (to - from) * share;
        Some(Moment {
            t,
            in_flight: between(before.in_flight, after.in_flight),
            unread: between(before.unread, after.unread),
            answered: between(before.answered, after.answered),
            abandoned: between(before.abandoned, after.abandoned),
            closed: between(before.closed, after.closed),
        })
    }

    fn since(&self, then: Moment) -> Ended {
        let Some(last) = self.last() else { return Ended::default() };
        Ended {
            secs: last.t - then.t,
            answered: (last.answered - then.answered).max(last.closed - then.closed),
            abandoned: last.abandoned - then.abandoned,
        }
    }

    /// Requests that ended lately: in a second, or in as long as it takes for enough of them.
    pub(super) fn ended_lately(&self) -> Ended {
        let mut ended = self.ago(RATE_SECS).map(|then| self.since(then)).unwrap_or_default();
        for then in self.all().iter().rev() {
            if ended.secs >= RATE_SECS && ended.answered >= RATE_ANSWERED {
                break;
            }
            let longer = self.since(*then);
            if longer.secs > ended.secs {
                ended = longer;
            }
        }
        ended
    }

    /// Requests that ended in the last three seconds.
    pub(super) fn ended_in_seconds(&self) -> Ended {
        self.ended_in(ABANDONED_SECS)
    }

    /// Requests that ended in the last `secs`, or as many of them as are known.
    pub(super) fn ended_in(&self, secs: f64) -> Ended {
        self.ago(secs).map(|then| self.since(then)).unwrap_or_default()
    }

    /// Requests that arrived in the last `secs`, as many as ended and as the queue grew. If the
    /// history is shorter, its rate stands for the time before. `None` without two samples.
    pub(super) fn arrived(&self, secs: f64) -> Option<f64> {
        let (then, last) = (self.ago(secs)?, self.last()?);
        let ended = self.since(then);
        if ended.secs <= 0.0 {
            return None;
        }
        let grown = last.in_flight - then.in_flight;
        Some((grown + ended.answered + ended.abandoned).max(0.0) * (secs / ended.secs).max(1.0))
    }

    /// Requests that were answered in the last `secs` although they were not in flight before, so
    /// that they overtook those which were; with those in flight then. `None` without two samples.
    pub(super) fn overtook(&self, secs: f64) -> Option<f64> {
        let then = self.ago(secs)?;
        let ended = self.since(then);
        let scale = if ended.secs > 0.0 { (secs / ended.secs).max(1.0) } else { return None };
        Some((ended.answered * scale - then.in_flight).max(0.0))
    }

    /// Returns whether a queue, of unread requests or of all in flight, falls from its peak by more
    /// than chance does, so fast that it is empty soon.
    pub(super) fn drains(&self, is_unread: bool) -> bool {
        let of = |moment: &Moment| if is_unread { moment.unread } else { moment.in_flight };
        let Some(last) = self.last() else { return false };
        let Some(peak) = self.all().iter().rev().max_by(|a, b| of(a).total_cmp(&of(b))) else {
            return false;
        };
        let fallen = of(peak) - of(&last);
        let scatter = (2.0 * self.since(*peak).answered).sqrt();
        fallen >= DRAINED_MIN
            && fallen >= DRAINED_SIGMAS * scatter
            && of(&last) * (last.t - peak.t) <= DRAINED_WITHIN_SECS * fallen
    }
}

/// Requests by which a queue must have fallen to drain...
const DRAINED_MIN: f64 = 3.0;

/// ...the standard deviations of the difference between arrivals and responses...
const DRAINED_SIGMAS: f64 = 1.5;

/// ...and the time in which the rest will have gone: waits of half a second for three seconds are
/// an overload.
const DRAINED_WITHIN_SECS: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(in_flight: u32, answered: u64) -> RequestsFact {
        RequestsFact {
            in_flight,
            answered_total: Some(answered),
            abandoned_total: Some(answered / 10),
            ..RequestsFact::default()
        }
    }

    #[test]
    fn arrivals_are_what_ended_and_what_was_added() {
        let mut history = RequestHistory::default();
        assert_eq!(history.arrived(1.0), None);
        for second in 0..5 {
            history.push(f64::from(second), &fact(10 * second, 100 * u64::from(second)), None);
        }
        // 100 answered, 10 abandoned and 10 more in flight, each second.
        assert_eq!(history.arrived(2.0), Some(240.0));
        assert_eq!(history.arrived(1.5), Some(180.0));
        assert_eq!(history.arrived(40.0), Some(4_800.0), "the rate stands for the time before");
        let ended = history.ended_lately();
        assert_eq!((ended.secs, ended.answered_per_sec()), (1.0, 100.0));
        assert!((history.ended_in_seconds().abandoned_share() - 1.0 / 11.0).abs() < 1e-9);
    }

    #[test]
    fn connections_of_one_request_count_when_they_end() {
        let mut history = RequestHistory::default();
        let sample = |open, abandoned| RequestsFact {
            connections: Some(open),
            answered_total: Some(1),
            abandoned_total: Some(abandoned),
            ..RequestsFact::default()
        };
        for second in 0..5 {
            history.push(f64::from(second), &sample(7, 0), Some(100.0 + 40.0 * f64::from(second)));
        }
        assert_eq!(history.ended_in(2.0).answered, 80.0);
        // Nothing is answered: as many stay open as were accepted; ten clients give up.
        for second in 5..8 {
            let open = 7 + 40 * (second - 4) - 10;
            let accepted = 260.0 + 40.0 * f64::from(second - 4);
            let ended = history.push(f64::from(second), &sample(open, 10), Some(accepted));
            assert_eq!(ended.answered, 0.0, "{second}");
        }
        assert_eq!(history.ended_in(3.0).abandoned, 10.0);
    }

    #[test]
    fn frequent_samples_still_span_seconds() {
        let mut history = RequestHistory::default();
        for step in 0..200_u32 {
            history.push(f64::from(step) / 20.0, &fact(5, u64::from(step)), None);
        }
        let span = history.all()[history.len - 1].t - history.all()[0].t;
        assert!((6.0..8.0).contains(&span), "{span}");
        assert_eq!(history.ended_lately().secs, 1.0);
    }

    #[test]
    fn queue_drains_once_it_has_fallen_by_more_than_chance() {
        let falls = |by: u32| {
            let mut history = RequestHistory::default();
            for step in 0..5 {
                history.push(f64::from(step), &fact(200 - by * step, 100 * u64::from(step)), None);
            }
            history.drains(false)
        };
        // Peak 200, and 100 answered a second: by 120 within four seconds is more than chance.
        assert!(falls(40) && !falls(5) && !falls(0));
        assert!(!falls(20), "it needs six seconds more");
    }
}
