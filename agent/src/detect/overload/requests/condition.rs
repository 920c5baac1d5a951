//! Conditions that make requests which wait an overload, should they last.

use super::{ABANDONED_SHARE, Extremes, RequestQueue, RequestTrigger, WAITING_MIN};
use crate::{config::OverloadConfig, detect::overload::standing_queue::reached};

/// Age of the oldest request from which a queue may be standing: a user notices a quarter of a
/// second, and the rest is for scatter.
const WAIT_MIN_SECS: f64 = 0.4;

/// Age from which it may be standing without a baseline. A guess.
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

/// Mean wait for being read, by Little's law, from which requests wait too long in whatever order
/// they are served: several processes with a queue each are as one that serves at random.
const MEAN_WAIT_SECS: f64 = 0.5;

/// Multiple of `sustain` for which they must.
const MEAN_WAIT_FACTOR: f64 = 2.0;

/// Smaller share while CPU is short, which explains that requests are served all at once.
const SHARED_CPU_SHARE: f64 = 0.2;

/// Share of the responses since the oldest arrived that may have overtaken it, beside as many as
/// are answered while a request is served as long as usual at most.
const OVERTOOK_SHARE: f64 = 0.25;
const OVERTOOK_MORE_SECS: f64 = 0.25;

/// Time beyond the usual for which the same request may be the oldest while others are answered.
const OLDEST_STAYS_SECS: f64 = 0.5;

/// Multiple of the usual rate at which requests must have arrived since the oldest, and of the
/// usual responses that there must be no more than, for requests that are no queue but others that
/// began beside it: if more requests come to a server that has room, it answers more at first.
const JOINED_FACTOR: f64 = 2.5;
const JOINED_ANSWERED_FACTOR: f64 = 1.3;
const JOINED_SECS: f64 = 3.0;

/// Share of the usual responses that those others must still get.
const JOINED_ANSWERED_SHARE: f64 = 0.5;

/// Responses that would usually have come in a silence: chance has none of five in 0.7 %.
const SILENT_ANSWERS_MIN: f64 = 5.0;

/// Multiple of `sustain` for which nothing must have been answered, and of the longest usual
/// silence.
const SILENCE_FACTOR: f64 = 1.2;
const SILENCE_USUAL_FACTOR: f64 = 3.0;

/// Requests that must have arrived in that silence.
const SILENT_ARRIVALS_MIN: f64 = 4.0;

/// Requests that clients abandon in some seconds from which that is an overload, and the share up
/// to which it may have been usual. Guesses: users leave slow pages all the time.
const ABANDONED_MIN: f64 = 5.0;
const ABANDONED_USUAL_SHARE: f64 = 0.1;

/// Multiple of `sustain` without a baseline, or if requests are served all at once.
const UNSURE_FACTOR: f64 = 2.0;

/// A condition that holds now.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingCondition {
    pub(super) trigger: RequestTrigger,
    /// Time for which it is proven to have held.
    pub(super) secs: f64,
    /// Multiple of `sustain` for which it must hold.
    pub(super) factor: f64,
}

impl RequestQueue {
    /// Share of the arrivals since the oldest request that still wait: above 1 if fewer responses
    /// were seen than there were. `None` if that is unknown.
    pub(super) fn standing_share(&self, count: f64, age_secs: f64) -> Option<f64> {
        if !self.history.is_counted() {
            return None;
        }
        let arrived = self.history.arrived(age_secs)?;
        Some(if arrived > 0.0 { count / arrived } else { f64::INFINITY })
    }

    /// Returns whether younger requests overtake the oldest, more than a pool of workers explains:
    /// then it is no part of a queue, but a long poll or a message that is never answered.
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

    /// Returns whether the requests since the oldest came in beside others, which are answered as
    /// ever: long polls or WebSockets of clients that all connect at once.
    fn has_joined(&self, age_secs: f64) -> bool {
        let usual_per_sec = self.in_flight.per_sec();
        let Some(arrived) = self.history.arrived(age_secs) else { return false };
        let lately = self.history.ended_in(age_secs.clamp(1.0, JOINED_SECS));
        let expected = usual_per_sec * lately.secs;
        arrived >= JOINED_FACTOR * usual_per_sec * age_secs + WAITING_MIN
            && lately.answered <= JOINED_ANSWERED_FACTOR * expected + expected.sqrt()
            && lately.answered >= JOINED_ANSWERED_SHARE * expected - expected.sqrt()
    }

    /// Response time by Little's law, in seconds; `None` if no response was seen.
    pub(super) fn response_secs(&self) -> Option<f64> {
        let per_sec = self.history.ended_lately().answered_per_sec();
        (per_sec > 0.0 && self.count() > 0.0).then(|| self.count() / per_sec)
    }

    /// Returns whether the mean wait for being read is too long. Samples count at most one response
    /// a connection each: if that is near, there were more responses, and the wait is unknown.
    pub(super) fn waits_long_unread(&self) -> bool {
        let per_sec = self.history.ended_lately().answered_per_sec();
        let (Some(interval_secs), Some(connections)) = (self.interval_secs, self.fact.connections)
        else {
            return false;
        };
        let is_counted = per_sec > 0.0 && 2.0 * per_sec * interval_secs <= f64::from(connections);
        is_counted && f64::from(self.fact.unread) >= MEAN_WAIT_SECS * per_sec
    }

    /// Returns the condition that this sample meets.
    pub(super) fn condition(&self, t: f64, config: &OverloadConfig) -> Option<WaitingCondition> {
        self.stuck(t, config)
            .or_else(|| self.waits_unread(t))
            .or_else(|| self.waits_in_flight(t))
            .or_else(|| self.is_abandoned(t))
    }

    fn stuck(&self, t: f64, config: &OverloadConfig) -> Option<WaitingCondition> {
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
        holds.then_some(WaitingCondition {
            trigger: RequestTrigger::Stuck,
            secs: silence_secs,
            factor: 1.0,
        })
    }

    fn waits_unread(&self, t: f64) -> Option<WaitingCondition> {
        let (usual, count, age_secs) =
            (self.unread.at(t), f64::from(self.fact.unread), self.unread_secs());
        let is_warm = self.unread.is_warm();
        let wait_secs = if is_warm { WAIT_MIN_SECS } else { WAIT_COLD_SECS };
        let wanted_secs = wait_secs.max(AGE_FACTOR * usual.age_secs + AGE_MORE_SECS);
        let stands =
            self.standing_share(count, age_secs).is_none_or(|share| share >= STANDING_SHARE);
        let holds = age_secs >= wanted_secs
            && count >= WAITING_MIN.max(COUNT_FACTOR * usual.count + COUNT_MORE)
            && (stands || self.waits_long_unread())
            && !self.history.drains(true);
        holds.then_some(WaitingCondition {
            trigger: RequestTrigger::Unread,
            secs: age_secs - wanted_secs,
            factor: match (is_warm, stands) {
                (true, true) => 1.0,
                (false, true) => UNSURE_FACTOR,
                (_, false) => MEAN_WAIT_FACTOR,
            },
        })
    }

    fn waits_in_flight(&self, t: f64) -> Option<WaitingCondition> {
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
        holds.then_some(WaitingCondition {
            trigger: RequestTrigger::InFlight,
            secs: age_secs - wanted_secs,
            factor: if is_shared_cpu { UNSURE_FACTOR } else { 1.0 },
        })
    }

    fn is_abandoned(&self, t: f64) -> Option<WaitingCondition> {
        let (usual, ended) = (self.in_flight.at(t), self.history.ended_in_seconds());
        let holds = self.in_flight.is_warm()
            && self.history.is_counted()
            && ended.abandoned >= ABANDONED_MIN
            && ended.abandoned_share() >= ABANDONED_SHARE
            && usual.abandoned_share <= ABANDONED_USUAL_SHARE
            && self.count() >= WAITING_MIN
            && self.age_secs() >= (AGE_FACTOR * usual.age_secs).max(WAIT_MIN_SECS);
        holds.then_some(WaitingCondition {
            trigger: RequestTrigger::Abandoned,
            secs: 0.0,
            factor: 1.0,
        })
    }
}
