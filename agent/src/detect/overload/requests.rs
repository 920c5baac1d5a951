//! Request queue of one address: requests that wait on connections which were accepted long ago,
//! and the rule that calls it an overload.
//!
//! The accept queue says nothing about connections that stay open, nor about servers that accept in
//! a loop of their own. A request is *unread* while its bytes wait in a socket (event loops, pools
//! that read in the worker), and *in flight* until its response begins (servers that read early).
//! An overload is a queue of which everything that has arrived since its oldest request still
//! waits, as in a first-in first-out queue that does not drain, for `sustain`:
//!
//! - unread requests wait, whatever was usual: no server leaves them unread on purpose, and of an
//!   upload bytes keep arriving, so that it is never old;
//! - more are in flight than usual, and for longer, while responses per second do not rise with
//!   them;
//! - nothing is answered any more, and requests go on arriving;
//! - clients give up before they are answered, which they did not before.
//!
//! Long polls, WebSockets and slow reports are old too, but younger requests overtake them, or
//! their age is usual for the address. Cold start: nothing in flight is judged before some requests
//! were answered, since only a baseline distinguishes a long poll from a request that waits. A gap
//! between samples restarts the standing time. It clears when the oldest is young again, or nothing
//! waits.

mod condition;
mod history;
mod upstreams;
mod usual;
mod verdict;

use self::{
    condition::WaitingCondition,
    history::{Ended, RequestHistory},
    usual::{Extremes, UsualRequests, UsualSample},
};
pub(super) use self::{
    upstreams::{Service, Upstream, Upstreams},
    verdict::{OverloadedRequests, answered_in_time},
};
use super::{
    bottleneck::MeanPressure, counter::Counter, standing_queue::reached, worker::StuckWorker,
};
use crate::{
    config::OverloadConfig,
    sense::{ListenerFact, RequestsFact},
};

/// Time over which connections are counted.
const CONNECTS_SECS: f64 = 2.0;

/// Requests that must wait: fewer are a few slow ones.
const WAITING_MIN: f64 = 4.0;

/// Age of the oldest request below which an overload is over: a wait that a user does not notice.
const WAITS_STILL_SECS: f64 = 0.25;

/// Share of the requests that clients abandon from which that is an overload. A guess.
const ABANDONED_SHARE: f64 = 0.5;

/// Difference between the arrivals of the oldest in two samples below which it is the same: two
/// ticks of the slowest kernel clock.
const SAME_OLDEST_SECS: f64 = 0.02;

/// Share of the arrivals since the oldest request that still wait below which an overload is over:
/// younger ones overtake it.
const OVERTAKEN_SHARE: f64 = 0.25;

/// Factors by which a sample is unusual, so that it is not learnt at once.
const UNUSUAL_FACTOR: f64 = 1.3;

/// Time after which unusual samples that are no overload are usual.
const ADOPTED_AFTER_SECS: f64 = 30.0;

/// Samples that a standing time takes at least, so that one burst is none.
const SAMPLES_MIN: u32 = 2;

/// Time between two samples from which the earlier says nothing about the later, and the same as a
/// multiple of the interval before.
const GAP_SECS: f64 = 3.0;
const GAP_INTERVALS: f64 = 3.0;

/// Time without samples after which an overload is not known to last.
const STALE_SECS: f64 = 15.0;

/// Reason for which a request queue is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestTrigger {
    /// Requests wait unread.
    Unread,
    /// More requests are in flight than usual, and none overtakes another.
    InFlight,
    /// No request is answered.
    Stuck,
    /// Clients give up before they are answered.
    Abandoned,
}

/// State of the requests at one address.
#[derive(Default)]
pub(super) struct RequestQueue {
    history: RequestHistory,
    unread: UsualRequests,
    in_flight: UsualRequests,
    fact: RequestsFact,
    last_t: Option<f64>,
    interval_secs: Option<f64>,
    /// Time of the last sample with a response or without requests, and the requests then.
    answered_t: f64,
    answered_count: f64,
    oldest: Oldest,
    unusual: Option<Unusual>,
    standing: Option<StandingRequests>,
    /// Reason of the overload that goes on, if there is one.
    overload: Option<RequestTrigger>,
    pressure: MeanPressure,
    /// Connections that arrived, those of them that were accepted, and since when they are counted
    /// for `connects_per_sec`.
    arrived: Counter,
    arrived_count: u64,
    accepted: Option<f64>,
    connects: (f64, u64),
    connects_per_sec: f64,
    seen_scan: u32,
}

/// Oldest request in flight.
#[derive(Debug, Clone, Copy, Default)]
struct Oldest {
    arrived_t: f64,
    /// Time since which it has been the oldest, and requests answered since then.
    since_t: f64,
    overtaken_by: f64,
}

/// Samples in a row that are unusual.
#[derive(Debug, Clone, Copy)]
struct Unusual {
    since_t: f64,
    unread: Extremes,
    in_flight: Extremes,
    was_overload: bool,
}

/// Samples in a row that meet one of the conditions.
#[derive(Debug, Clone, Copy)]
struct StandingRequests {
    since_t: f64,
    samples: u32,
}

/// Result of one sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestUpdate {
    /// Set if the queue is an overload.
    pub(super) is_overload: bool,
    /// Set if samples are missing for so long that earlier ones say nothing about this one.
    pub(super) gap: bool,
}

impl RequestQueue {
    /// Takes a sample.
    pub(super) fn observe(
        &mut self,
        t: f64,
        scan: u32,
        fact: &RequestsFact,
        config: &OverloadConfig,
    ) -> RequestUpdate {
        self.seen_scan = scan;
        if self.last_t == Some(t) {
            // Two facts of the same instant are one sample.
            return RequestUpdate { is_overload: self.overload.is_some(), gap: false };
        }
        let (interval_secs, gap) = self.advance(t);
        self.fact.clone_from(fact);
        let ended = self.history.push(t, fact, self.accepted);
        if gap || ended.answered > 0.0 || self.count() == 0.0 || !self.history.is_counted() {
            (self.answered_t, self.answered_count) = (t, self.count());
        }
        self.note_oldest(t, ended.answered);
        let condition = self.condition(t, config);
        self.stand(t, interval_secs, condition, config);
        self.learn(t, ended);
        RequestUpdate { is_overload: self.overload.is_some(), gap }
    }

    /// Moves on to `t`. Returns the seconds since the last sample, and whether that is a gap.
    fn advance(&mut self, t: f64) -> (f64, bool) {
        let Some(last_t) = self.last_t.replace(t) else { return (0.0, false) };
        let secs = t - last_t;
        let expected_secs = self.interval_secs.replace(secs).unwrap_or(secs);
        let gap = secs > GAP_SECS.max(GAP_INTERVALS * expected_secs);
        if gap {
            self.history.clear();
            (self.unusual, self.standing) = (None, None);
        }
        (secs, gap)
    }

    fn note_oldest(&mut self, t: f64, answered: f64) {
        let arrived_t = t - self.age_secs();
        if (arrived_t - self.oldest.arrived_t).abs() <= SAME_OLDEST_SECS {
            self.oldest.overtaken_by += answered;
        } else {
            self.oldest = Oldest { arrived_t, since_t: t, overtaken_by: 0.0 };
        }
    }

    /// Takes a sample of a socket: the pressure on its service counts while requests wait
    /// unusually, and connections show how many requests there are at least.
    pub(super) fn join(&mut self, t: f64, fact: &ListenerFact) {
        if self.unusual.is_some() {
            self.pressure.add(fact.strain.as_ref());
        }
        let (since_t, count) = self.connects;
        let arrived = self.arrived.rise(fact.arrived_total);
        let count = count.saturating_add(arrived);
        self.arrived_count = self.arrived_count.saturating_add(arrived);
        self.accepted =
            fact.arrived_total.map(|_| self.arrived_count as f64 - f64::from(fact.backlog));
        self.connects = (since_t, count);
        if t - since_t >= CONNECTS_SECS {
            self.connects_per_sec = count as f64 / (t - since_t);
            self.connects = (t, 0);
        }
    }

    /// Scan of the host in which it was last sampled.
    pub(super) fn seen_scan(&self) -> u32 {
        self.seen_scan
    }

    /// Returns whether it is an overload at `t`, as far as the last sample tells.
    pub(super) fn is_overload(&self, t: f64) -> bool {
        self.overload.is_some() && !self.is_stale(t)
    }

    /// Returns whether the last sample is so old that it tells nothing about `t`.
    fn is_stale(&self, t: f64) -> bool {
        let last_secs = self.last_t.map_or(f64::INFINITY, |last_t| t - last_t);
        last_secs > STALE_SECS.max(GAP_INTERVALS * self.interval_secs.unwrap_or(0.0))
    }

    /// Returns whether requests wait that would not usually, if only a few, and none is answered.
    pub(super) fn is_waiting(&self, t: f64) -> bool {
        // A service that is sampled only since it answers no longer has no baseline.
        let usual_secs = match self.in_flight.is_warm() {
            true => self.in_flight.at(t).age_secs,
            false => 0.0,
        };
        let is_silent = !self.is_stale(t)
            && self.count() > 0.0
            && self.silence_secs(t) >= WAITS_STILL_SECS
            && self.age_secs() >= WAITS_STILL_SECS.max(UNUSUAL_FACTOR * usual_secs);
        self.is_overload(t) || self.standing.is_some() || is_silent
    }

    /// Worker that has kept one of them for longest, as far as the last sample tells.
    pub(super) fn stuck_worker(&self, t: f64) -> Option<StuckWorker> {
        if self.is_stale(t) { None } else { StuckWorker::at(&self.fact) }
    }

    /// Requests that wait or are served.
    fn count(&self) -> f64 {
        f64::from(self.fact.in_flight.max(self.fact.unread))
    }

    /// Age of the oldest request, in seconds; 0 if there is none or it is unknown.
    fn age_secs(&self) -> f64 {
        let oldest_us = self.fact.oldest_in_flight_us.max(self.fact.oldest_unread_us);
        oldest_us.unwrap_or(0) as f64 / 1e6
    }

    fn unread_secs(&self) -> f64 {
        self.fact.oldest_unread_us.unwrap_or(0) as f64 / 1e6
    }

    /// Time without a response, in seconds.
    fn silence_secs(&self, t: f64) -> f64 {
        t - self.answered_t
    }

    /// Extends or ends the standing time, and the overload.
    fn stand(
        &mut self,
        t: f64,
        interval_secs: f64,
        condition: Option<WaitingCondition>,
        config: &OverloadConfig,
    ) {
        if self.overload.is_some() && !self.waits_still(t) {
            self.overload = None;
        }
        let Some(condition) = condition else {
            self.standing = None;
            return;
        };
        // The age of the oldest grows by at most a second a second, so that it proves since when it
        // was above its bound; of the other bounds the sample before says that they did not hold.
        let proven_secs = match condition.trigger {
            RequestTrigger::Stuck => condition.secs,
            _ => condition.secs.min(interval_secs),
        };
        let standing =
            self.standing.get_or_insert(StandingRequests { since_t: t - proven_secs, samples: 0 });
        standing.since_t = standing.since_t.min(t - proven_secs);
        standing.samples = standing.samples.saturating_add(1);
        let wanted_secs = condition.factor * config.sustain.as_secs_f64();
        let is_sampled = standing.samples >= SAMPLES_MIN
            || (condition.trigger == RequestTrigger::Stuck && interval_secs < condition.secs);
        if is_sampled && reached(t - standing.since_t, wanted_secs) {
            self.overload.get_or_insert(condition.trigger);
        }
    }

    /// Returns whether requests still wait as they did when it became an overload.
    fn waits_still(&self, t: f64) -> bool {
        let waits = |usual: Extremes, count: f64, age_secs: f64| {
            let share = self.standing_share(count, age_secs);
            count >= WAITING_MIN
                && age_secs >= WAITS_STILL_SECS.max(usual.age_secs)
                && (share.is_none_or(|share| share >= OVERTAKEN_SHARE)
                    || self.pressure.is_short_of_cpu()
                    || self.waits_long_unread())
        };
        waits(self.unread.at(t), f64::from(self.fact.unread), self.unread_secs())
            || waits(self.in_flight.at(t), self.count(), self.age_secs())
    }

    /// Extremes of this sample: unread, and in flight.
    fn extremes(&self, t: f64) -> (Extremes, Extremes) {
        let in_flight = Extremes {
            count: self.count(),
            age_secs: self.age_secs(),
            silence_secs: self.silence_secs(t),
            abandoned_share: self.history.ended_in_seconds().abandoned_share(),
        };
        let count = f64::from(self.fact.unread);
        (Extremes { count, age_secs: self.unread_secs(), ..Extremes::default() }, in_flight)
    }

    fn learn(&mut self, t: f64, ended: Ended) {
        let (unread, in_flight) = self.extremes(t);
        let is_unusual = |usual: &UsualRequests, sample: Extremes| {
            let learnt = usual.at(t);
            sample.count >= WAITING_MIN
                && sample.age_secs >= WAITS_STILL_SECS
                && (sample.count > UNUSUAL_FACTOR * learnt.count
                    || sample.age_secs > UNUSUAL_FACTOR * learnt.age_secs
                    || sample.abandoned_share > ABANDONED_SHARE)
        };
        if self.overload.is_some()
            || is_unusual(&self.unread, unread)
            || (self.in_flight.is_warm() && is_unusual(&self.in_flight, in_flight))
        {
            let was_overload = self.overload.is_some();
            if self.unusual.is_none() {
                self.pressure = MeanPressure::default();
            }
            let unusual =
                self.unusual.get_or_insert(Unusual { since_t: t, unread, in_flight, was_overload });
            unusual.unread = unusual.unread.max(unread);
            unusual.in_flight = unusual.in_flight.max(in_flight);
            unusual.was_overload |= was_overload;
            if unusual.was_overload || t - unusual.since_t < ADOPTED_AFTER_SECS {
                return;
            }
        }
        // It has ended of itself, or has been so for long enough to be usual.
        if let Some(unusual) = self.unusual.take().filter(|unusual| !unusual.was_overload) {
            self.unread.learn(t, unusual.unread);
            self.in_flight.learn(t, unusual.in_flight);
        }
        // Samples miss short requests; each connection has had at least one.
        let per_sec = self.history.ended_lately().answered_per_sec().max(self.connects_per_sec);
        let sample = UsualSample {
            extremes: in_flight,
            secs: ended.secs,
            answered: ended.answered,
            per_sec,
        };
        self.unread.take(t, UsualSample { extremes: unread, ..sample });
        self.in_flight.take(t, sample);
    }
}

#[cfg(test)]
mod tests;
