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
//! Long polls, WebSockets and slow reports are old too, but younger requests overtake them, or their
//! age is usual for the address. Cold start: nothing in flight is judged before some requests were
//! answered, since only a baseline distinguishes a long poll from a request that waits. A gap
//! between samples restarts the standing time. It clears when the oldest is young again, or
//! nothing waits.

mod history;
mod upstreams;
mod usual;
mod verdict;

use self::{
    history::{Ended, RequestHistory},
    usual::{Extremes, UsualRequests, UsualSample},
};
pub(super) use self::{
    upstreams::{Upstream, Upstreams},
    verdict::{OverloadedRequests, answered_in_time},
};
use super::{bottleneck::MeanPressure, counter::Counter, standing_queue::reached};
use crate::{
    config::OverloadConfig,
    sense::{ListenerFact, RequestsFact},
};

/// Time over which connections are counted.
const CONNECTS_SECS: f64 = 2.0;

/// Requests that must wait: fewer are a few slow ones.
const WAITING_MIN: f64 = 4.0;

/// Age of the oldest request from which a queue may be standing, and from which one that was an
/// overload is not over. A user notices a quarter of a second; the rest is for scatter.
const WAIT_MIN_SECS: f64 = 0.4;
const WAITS_STILL_SECS: f64 = 0.25;

/// The same without a baseline: the issue's own measure of a slow service.
const WAIT_COLD_SECS: f64 = 0.5;

/// Factors, and what is added, by which age and number must exceed what is usual.
const AGE_FACTOR: f64 = 1.25;
const AGE_MORE_SECS: f64 = 0.15;
const COUNT_FACTOR: f64 = 1.5;
const COUNT_MORE: f64 = 2.0;

/// Factor by which the mean response time, by Little's law, must exceed the usual one: with it more
/// load that is answered as quickly as before is no queue.
const RESPONSE_FACTOR: f64 = 1.3;

/// Factors by which number and mean response time are so much above the usual that the age of the
/// oldest need not be: where a few requests take ten times as long as the others it says little.
const FAR_COUNT_FACTOR: f64 = 3.0;
const FAR_RESPONSE_FACTOR: f64 = 3.0;

/// Share of the arrivals since the oldest request that must still wait. In a first-in first-out
/// queue it is all of them; if requests are served at random or all at once it is less.
const STANDING_SHARE: f64 = 0.5;

/// Share of the responses since then that may have overtaken the oldest, beside as many as are
/// answered while a request is served as long as usual at most.
const OVERTOOK_SHARE: f64 = 0.25;
const OVERTOOK_MORE_SECS: f64 = 0.25;

/// Difference between the arrivals of the oldest in two samples below which it is the same: two
/// ticks of the slowest kernel clock.
const SAME_OLDEST_SECS: f64 = 0.02;

/// Time beyond the usual for which the same request may be the oldest while others are answered.
const OLDEST_STAYS_SECS: f64 = 0.5;

/// Multiple of the usual rate at which requests must have arrived since the oldest, and of the usual
/// responses that there must be no more than, for requests that are no queue but others that began
/// beside it: if more requests come to a server that has room, it answers more at first.
const JOINED_FACTOR: f64 = 2.5;
const JOINED_ANSWERED_FACTOR: f64 = 1.3;
const JOINED_SECS: f64 = 3.0;

/// Responses that would usually have come in a silence: chance has none of five in 0.7 %.
const SILENT_ANSWERS_MIN: f64 = 5.0;

/// The same while CPU is short, which explains that requests are served all at once.
const SHARED_CPU_SHARE: f64 = 0.2;

/// The same below which an overload is over: younger requests overtake the oldest.
const OVERTAKEN_SHARE: f64 = 0.25;

/// Multiple of `sustain` for which nothing must have been answered, and of the longest usual
/// silence.
const SILENCE_FACTOR: f64 = 1.2;
const SILENCE_USUAL_FACTOR: f64 = 3.0;

/// Requests that must have arrived in that silence.
const SILENT_ARRIVALS_MIN: f64 = 4.0;

/// Share of the requests that clients abandon, and how many, from which that is an overload, and
/// the share up to which it may have been usual. Guesses: users leave slow pages all the time.
const ABANDONED_SHARE: f64 = 0.5;
const ABANDONED_MIN: f64 = 5.0;
const ABANDONED_USUAL_SHARE: f64 = 0.1;

/// Factors by which a sample is unusual, so that it is not learnt at once.
const UNUSUAL_FACTOR: f64 = 1.3;

/// Time after which unusual samples that are no overload are usual.
const ADOPTED_AFTER_SECS: f64 = 30.0;

/// Multiple of `sustain` without a baseline, or if requests are served all at once.
const UNSURE_FACTOR: f64 = 2.0;

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
    /// Connections that arrived, and since when they are counted for `connects_per_sec`.
    arrived: Counter,
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

/// A condition that holds now.
#[derive(Debug, Clone, Copy)]
struct Condition {
    trigger: RequestTrigger,
    /// Time for which it is proven to have held.
    secs: f64,
    /// Multiple of `sustain` for which it must hold.
    factor: f64,
}

/// Result of one sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestUpdate {
    /// Whether the queue is an overload.
    pub(super) is_overload: bool,
    /// Whether samples are missing for so long that earlier ones say nothing about this one.
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
        let ended = self.history.push(t, fact);
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
        let count = count.saturating_add(self.arrived.rise(fact.arrived_total));
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

    /// Whether it is an overload at `t`, as far as the last sample tells.
    pub(super) fn is_overload(&self, t: f64) -> bool {
        self.overload.is_some() && !self.is_stale(t)
    }

    /// Whether the last sample is so old that it tells nothing about `t`.
    fn is_stale(&self, t: f64) -> bool {
        let last_secs = self.last_t.map_or(f64::INFINITY, |last_t| t - last_t);
        last_secs > STALE_SECS.max(GAP_INTERVALS * self.interval_secs.unwrap_or(0.0))
    }

    /// Whether requests wait that would not usually.
    pub(super) fn is_waiting(&self, t: f64) -> bool {
        self.is_overload(t) || self.standing.is_some()
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

    /// Share of the arrivals since the oldest request that still wait: above 1 if fewer responses
    /// were seen than there were. `None` if that is unknown.
    fn standing_share(&self, count: f64, age_secs: f64) -> Option<f64> {
        if !self.history.is_counted() {
            return None;
        }
        let arrived = self.history.arrived(age_secs)?;
        Some(if arrived > 0.0 { count / arrived } else { f64::INFINITY })
    }

    /// Whether younger requests overtake the oldest, more than a pool of workers explains: then it
    /// is no part of a queue, but a long poll or a message that is never answered.
    fn is_overtaken(&self, age_secs: f64, usual: Extremes) -> bool {
        let per_sec = self.history.ended_lately().answered_per_sec();
        let explained = per_sec * (usual.age_secs + OVERTOOK_MORE_SECS);
        let answered = per_sec * age_secs;
        // Since it became the oldest, all that were answered have overtaken it.
        let stays_secs = self.oldest.arrived_t + age_secs - self.oldest.since_t;
        let is_passed_by = stays_secs >= usual.age_secs + OLDEST_STAYS_SECS
            && self.oldest.overtaken_by >= WAITING_MIN;
        is_passed_by
            || self
                .history
                .overtook(age_secs)
                .is_some_and(|overtook| overtook > explained + OVERTOOK_SHARE * answered)
    }

    /// Whether the requests since the oldest came in beside others, which are answered as ever: long
    /// polls or WebSockets of clients that all connect at once.
    fn has_joined(&self, age_secs: f64) -> bool {
        let usual_per_sec = self.in_flight.per_sec();
        let Some(arrived) = self.history.arrived(age_secs) else { return false };
        let lately = self.history.ended_in(age_secs.clamp(1.0, JOINED_SECS));
        let expected = usual_per_sec * lately.secs;
        arrived >= JOINED_FACTOR * usual_per_sec * age_secs + WAITING_MIN
            && lately.answered <= JOINED_ANSWERED_FACTOR * expected + expected.sqrt()
    }

    /// Response time by Little's law, in seconds; `None` if no response was seen.
    fn response_secs(&self) -> Option<f64> {
        let per_sec = self.history.ended_lately().answered_per_sec();
        (per_sec > 0.0 && self.count() > 0.0).then(|| self.count() / per_sec)
    }

    /// Returns the condition that this sample meets.
    fn condition(&self, t: f64, config: &OverloadConfig) -> Option<Condition> {
        self.stuck(t, config)
            .or_else(|| self.waits_unread(t))
            .or_else(|| self.waits_in_flight(t))
            .or_else(|| self.is_abandoned(t))
    }

    fn stuck(&self, t: f64, config: &OverloadConfig) -> Option<Condition> {
        let (usual, silence_secs) = (self.in_flight.at(t), self.silence_secs(t));
        let wanted_secs = (SILENCE_FACTOR * config.sustain.as_secs_f64())
            .max(SILENCE_USUAL_FACTOR * usual.silence_secs);
        let arrived = self.count() - self.answered_count;
        let holds = self.in_flight.is_warm()
            && reached(silence_secs, wanted_secs)
            && arrived >= SILENT_ARRIVALS_MIN
            && silence_secs * self.in_flight.answered_per_sec() >= SILENT_ANSWERS_MIN
            && self.age_secs() >= (AGE_FACTOR * usual.age_secs + AGE_MORE_SECS).max(WAIT_MIN_SECS)
            && !self.has_joined(silence_secs);
        holds.then_some(Condition {
            trigger: RequestTrigger::Stuck,
            secs: silence_secs,
            factor: 1.0,
        })
    }

    fn waits_unread(&self, t: f64) -> Option<Condition> {
        let (usual, count, age_secs) =
            (self.unread.at(t), f64::from(self.fact.unread), self.unread_secs());
        let is_warm = self.unread.is_warm();
        let wait_secs = if is_warm { WAIT_MIN_SECS } else { WAIT_COLD_SECS };
        let wanted_secs = wait_secs.max(AGE_FACTOR * usual.age_secs + AGE_MORE_SECS);
        let holds = age_secs >= wanted_secs
            && count >= WAITING_MIN.max(COUNT_FACTOR * usual.count + COUNT_MORE)
            && self.standing_share(count, age_secs).is_none_or(|share| share >= STANDING_SHARE)
            && !self.history.drains(true);
        holds.then_some(Condition {
            trigger: RequestTrigger::Unread,
            secs: age_secs - wanted_secs,
            factor: if is_warm { 1.0 } else { UNSURE_FACTOR },
        })
    }

    fn waits_in_flight(&self, t: f64) -> Option<Condition> {
        let (usual, count, age_secs) = (self.in_flight.at(t), self.count(), self.age_secs());
        let (mean_secs, response_secs) = (self.in_flight.mean_secs(), self.response_secs());
        let is_far = count >= FAR_COUNT_FACTOR * usual.count + WAITING_MIN
            && response_secs.is_some_and(|secs| secs >= FAR_RESPONSE_FACTOR * mean_secs);
        let wanted_secs = if is_far {
            WAIT_MIN_SECS
        } else {
            WAIT_MIN_SECS.max(AGE_FACTOR * usual.age_secs + AGE_MORE_SECS)
        };
        let share = self.standing_share(count, age_secs)?;
        let is_shared_cpu = share < STANDING_SHARE;
        let holds = self.in_flight.is_warm()
            && age_secs >= wanted_secs
            && count >= WAITING_MIN.max(COUNT_FACTOR * usual.count + COUNT_MORE)
            && if is_shared_cpu {
                share >= SHARED_CPU_SHARE && self.pressure.is_short_of_cpu()
            } else {
                !self.is_overtaken(age_secs, usual) && !self.has_joined(age_secs)
            }
            && response_secs.is_none_or(|secs| secs >= RESPONSE_FACTOR * mean_secs)
            && !self.history.drains(false);
        holds.then_some(Condition {
            trigger: RequestTrigger::InFlight,
            secs: age_secs - wanted_secs,
            factor: if is_shared_cpu { UNSURE_FACTOR } else { 1.0 },
        })
    }

    fn is_abandoned(&self, t: f64) -> Option<Condition> {
        let (usual, ended) = (self.in_flight.at(t), self.history.ended_in_seconds());
        let holds = self.in_flight.is_warm()
            && self.history.is_counted()
            && ended.abandoned >= ABANDONED_MIN
            && ended.abandoned_share() >= ABANDONED_SHARE
            && usual.abandoned_share <= ABANDONED_USUAL_SHARE
            && self.count() >= WAITING_MIN
            && self.age_secs() >= (AGE_FACTOR * usual.age_secs).max(WAIT_MIN_SECS);
        holds.then_some(Condition { trigger: RequestTrigger::Abandoned, secs: 0.0, factor: 1.0 })
    }

    /// Extends or ends the standing time, and the overload.
    fn stand(
        &mut self,
        t: f64,
        interval_secs: f64,
        condition: Option<Condition>,
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

    /// Whether requests still wait as they did when it became an overload.
    fn waits_still(&self, t: f64) -> bool {
        let waits = |usual: Extremes, count: f64, age_secs: f64| {
            let share = self.standing_share(count, age_secs);
            count >= WAITING_MIN
                && age_secs >= WAITS_STILL_SECS.max(usual.age_secs)
                && (share.is_none_or(|share| share >= OVERTAKEN_SHARE)
                    || self.pressure.is_short_of_cpu())
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
