//! Standing queue: a stretch of time in which one accept queue never drained, and the rule that
//! calls it an overload.
//!
//! Cold start: the oldest wait of the first sample proves how long the queue has been standing
//! already. A queue that is seen to drain is not called overloaded, unless nothing is accepted at
//! all.

use super::{
    baseline::Baseline,
    bottleneck::MeanPressure,
    samples::{Sample, Samples, Trend, scatter_of},
    trigger::Trigger,
};
use crate::{config::OverloadConfig, sense::ListenerFact};

/// Share of `sustain` for which the same connection may wait at the head: with samples a tenth of
/// that apart, and the time until the next connect, a stopped acceptor is known within the whole.
const STUCK_SHARE: f64 = 0.7;

/// Share of `sustain` for which a queue must have been watched without a gap.
const WATCHED_SHARE: f64 = 0.7;

/// Connections waiting for a stuck server from which that is more than the usual pause of a small
/// one; fewer are judged by the sum of their waits. A guess.
const STUCK_WAITING: u32 = 4;

/// Sum of the waits, the longest counted for each, from which fewer connections count: one for 6 s,
/// or two for 3 s. A guess: a worker that serves a slow request lets one or two wait for less.
const STUCK_WAITED_SECS: f64 = 6.0;

/// Connections accepted without draining the queue that are no chance within `sustain`, and half as
/// many within twice that: at eight tenths of capacity a queue of random arrivals forgets its state
/// within a hundred, at nine tenths within four hundred (M/M/1, relaxation time 1/(1-√ρ)²
/// services).
const ACCEPTED_MIN: u64 = 2_000;

/// Depth that is no chance either, however few were accepted: at eight tenths of capacity one
/// sample in twenty thousand finds as many waiting if service times vary as much as in the field (a
/// variance of three squared means).
const DEEP: u32 = 100;

/// Wait of each connection that is an overload however few they are, and for how long. It is no
/// sign that the load is too high, as the other bounds are, but what clients suffer.
const SLOW_WAIT_SECS: f64 = 0.5;
const SLOW_SECS: f64 = 3.0;

/// Length from which nothing accepted is no pause of an event loop or a collector. A guess: users
/// have noticed it by then.
const PAUSE_SECS_MAX: f64 = 3.0;

/// Depth below which a queue near its limit has a small limit rather than many waiting.
const NEAR_LIMIT_MIN: u32 = 48;

/// Factor by which a queue must be deeper than baseline.
const DEPTH_FACTOR: f64 = 1.5;

/// Factor by which the time without an accept must be longer than baseline: a server that takes a
/// quarter of a second for each is now and then silent for one.
const GAP_FACTOR: f64 = 3.0;

/// Share of the limit that is deep if the limit is small.
const LIMIT_SHARE: f64 = 0.5;

/// Share of `sustain` for which a queue must have been that near its limit.
const NEAR_LIMIT_SHARE: f64 = 0.5;

/// Factor for all times while it is not clear that the queue grows: a burst may be draining.
const UNCLEAR_FACTOR: f64 = 2.0;

/// Share of `sustain` for which nothing must have been accepted if the queue overflows before it is
/// clear that nothing will be. A pause of 200 ms is shorter, whatever samples it falls between.
const STALLED_SHARE: f64 = 0.35;

/// Time to the overflow of a steadily filling queue from which the claim does not wait.
const OVERFLOWS_WITHIN_SECS: f64 = 1.0;

/// Multiple of `sustain` for a queue that is not proven never to have drained between two samples:
/// its connections were not timed one by one or asked what they found, and its oldest wait was
/// shorter than the interval.
const UNPROVEN_FACTOR: f64 = 3.0;

/// Multiple of `sustain` if accepts are not counted.
const UNCOUNTED_FACTOR: f64 = 2.0;

/// Depth, as a share of the limit, from which a queue of unknown age may be standing. A guess:
/// healthy queues are near empty.
const DEPTH_SHARE: f64 = 0.25;

/// Depth from which a queue of unknown age may be standing, however small its limit.
const DEPTH_MIN: u32 = STUCK_WAITING;

/// Multiple of `sustain` for which a queue of unknown age must have been that deep.
const DEPTH_SUSTAIN_FACTOR: f64 = 2.0;

/// Multiple of `sustain` for which a queue of unknown age must not have fallen to count as stuck.
const UNFALLEN_FACTOR: f64 = 3.0;

/// Samples that this takes: while a server accepts, arrivals hide that from each of so many in a
/// row by no chance.
const UNFALLEN_SAMPLES: u32 = 8;

/// Samples in a row that a standing time takes if the oldest wait is too short to prove it, so that
/// two coarse samples are not enough.
const SAMPLES_MIN: u32 = 3;

/// Samples in a row without an oldest wait from which the standing time rests on depth. A single
/// one is a head that was accepted just then.
const AGELESS_SAMPLES_MIN: u32 = 2;

/// Difference between the times at which the heads of two samples were established below which they
/// are the same connection: both clocks count microseconds.
const SAME_HEAD_SECS: f64 = 0.001;

/// A stretch of time in which a queue never drained.
pub(super) struct StandingQueue {
    pub(super) since_t: f64,
    pub(super) samples: Samples,
    pub(super) pressure: MeanPressure,
    /// Whether every sample has an oldest wait.
    pub(super) by_age: bool,
    pub(super) overflows: u64,
    /// Whether it was an overload at any sample: then it is one until it ends.
    pub(super) is_overload: bool,
    /// Set if it was an overload for another reason than that nothing was accepted.
    pub(super) is_more_than_stuck: bool,
    samples_total: u32,
    /// Samples in a row without an oldest wait.
    ageless_samples: u32,
    /// Time since which it is proven not to have drained between two samples.
    proven_since_t: f64,
    /// Accepts, counted or, for samples without a count, estimated.
    accepted: u64,
    is_counted: bool,
    /// Time at which a connection was last seen to be accepted, or the first head was established.
    accepted_t: f64,
    head_established_t: f64,
    /// Longest time between two accepts, and the most connections waiting.
    longest_gap_secs: f64,
    deepest: u32,
    accepted_at_deepest: u64,
    near_limit_since_t: f64,
    full_since_t: f64,
    deep_since_t: f64,
    /// Samples since the queue last fell.
    unfallen_samples: u32,
    /// Time since which every connection has waited for long; infinity if they do not.
    slow_since_t: f64,
}

impl StandingQueue {
    /// Begins at `since_t`. The sample before, if there was one, shows from which depth the queue
    /// grew.
    pub(super) fn new(since_t: f64, before: Option<Sample>) -> Self {
        let mut samples = Samples::default();
        before.into_iter().for_each(|sample| samples.push(sample));
        Self {
            since_t,
            samples,
            pressure: MeanPressure::default(),
            by_age: true,
            overflows: 0,
            is_overload: false,
            is_more_than_stuck: false,
            samples_total: 0,
            ageless_samples: 0,
            proven_since_t: since_t,
            accepted: 0,
            is_counted: true,
            accepted_t: since_t,
            head_established_t: since_t,
            longest_gap_secs: 0.0,
            deepest: 0,
            accepted_at_deepest: 0,
            near_limit_since_t: f64::INFINITY,
            full_since_t: f64::INFINITY,
            deep_since_t: f64::INFINITY,
            unfallen_samples: 0,
            slow_since_t: f64::INFINITY,
        }
    }

    /// Takes a sample of a standing queue: since the one before, `interval_secs` ago, so many
    /// connections were accepted and dropped. `has_fallen` says that fewer wait than in that one.
    pub(super) fn observe(
        &mut self,
        t: f64,
        interval_secs: f64,
        fact: &ListenerFact,
        accepted: Option<u64>,
        dropped: u64,
        has_fallen: bool,
    ) {
        // Before the first sample, connections were still being accepted.
        if self.samples_total > 0 {
            self.is_counted &= accepted.is_some();
            let more = accepted.unwrap_or_else(|| likely_accepted(fact, interval_secs));
            self.accepted = self.accepted.saturating_add(more);
        }
        self.unfallen_samples =
            if has_fallen { 0 } else { self.unfallen_samples.saturating_add(1) };
        self.samples.push(Sample { t, depth: fact.backlog, accepted });
        if fact.backlog >= self.deepest {
            (self.deepest, self.accepted_at_deepest) = (fact.backlog, self.accepted);
        }
        self.overflows = self.overflows.saturating_add(dropped);
        self.pressure.add(fact.strain.as_ref());
        match head_secs(fact) {
            Some(secs) => self.note_head(t, secs, interval_secs, fact, accepted),
            None => {
                if has_fallen {
                    self.accepted_t = t;
                }
                self.longest_gap_secs = self.longest_gap_secs.max(t - self.accepted_t);
                self.ageless_samples = self.ageless_samples.saturating_add(1);
                self.by_age &= self.ageless_samples < AGELESS_SAMPLES_MIN && self.samples_total > 0;
            }
        }
        self.note_slow(t, interval_secs, fact, accepted);
        self.samples_total = self.samples_total.saturating_add(1);
        let since = |holds: bool, since_t: f64| if holds { since_t.min(t) } else { f64::INFINITY };
        self.near_limit_since_t = since(is_near_limit(fact), self.near_limit_since_t);
        self.full_since_t = since(is_full(fact), self.full_since_t);
        self.deep_since_t = since(is_deep(fact), self.deep_since_t);
    }

    /// Extends or ends the time in which every connection has waited for long.
    fn note_slow(
        &mut self,
        t: f64,
        interval_secs: f64,
        fact: &ListenerFact,
        accepted: Option<u64>,
    ) {
        let Some(secs) = head_secs(fact) else {
            // An oldest wait that is missing from one sample proves nothing.
            if self.ageless_samples >= AGELESS_SAMPLES_MIN || fact.backlog < STUCK_WAITING {
                self.slow_since_t = f64::INFINITY;
            }
            return;
        };
        let has_accepted = accepted != Some(0);
        let was_quick = match fact.sojourn_min_us {
            Some(us) => (us as f64 / 1e6) < SLOW_WAIT_SECS,
            // The last that was accepted had come before the head: by as much as connections are
            // apart, and it was accepted before this sample.
            None => {
                let gap_secs = secs / f64::from(fact.backlog.max(1));
                let ago_secs = interval_secs / (accepted.unwrap_or(1).saturating_add(1) as f64);
                has_accepted && secs + gap_secs - ago_secs < SLOW_WAIT_SECS
            }
        };
        if was_quick || fact.backlog < STUCK_WAITING {
            self.slow_since_t = f64::INFINITY;
        }
        if secs >= SLOW_WAIT_SECS && fact.backlog >= STUCK_WAITING {
            self.slow_since_t = self.slow_since_t.min(t - (secs - SLOW_WAIT_SECS));
        }
    }

    fn note_head(
        &mut self,
        t: f64,
        secs: f64,
        interval_secs: f64,
        fact: &ListenerFact,
        accepted: Option<u64>,
    ) {
        self.ageless_samples = 0;
        let established_t = t - secs;
        self.since_t = self.since_t.min(established_t);
        if self.samples_total == 0 {
            self.accepted_t = established_t;
        } else {
            let is_another = (established_t - self.head_established_t).abs() > SAME_HEAD_SECS;
            // The connections of a burst are established at once, so that one head samples like the
            // next; a count tells them apart, except for one, by which a count may be ahead.
            if accepted.is_some_and(|count| count > 1) || (is_another && accepted != Some(0)) {
                self.accepted_t = t;
            }
            self.longest_gap_secs = self.longest_gap_secs.max(t - self.accepted_t);
            let is_proven = secs >= interval_secs
                || fact.sojourn_min_us.is_some()
                || fact.found_empty_us.is_some();
            if !is_proven {
                self.proven_since_t = established_t;
            }
        }
        self.head_established_t = established_t;
    }

    /// Whether the last sample had an oldest wait.
    pub(super) fn knew_last_wait(&self) -> bool {
        self.ageless_samples == 0
    }

    /// Returns the reason for which it is an overload now. A queue that was not watched for long is
    /// none: servers that stood still with the agent begin to move when it does.
    pub(super) fn trigger(
        &self,
        t: f64,
        watched_since_t: f64,
        fact: &ListenerFact,
        baseline: &Baseline,
        config: &OverloadConfig,
    ) -> Option<Trigger> {
        let sustain_secs = config.sustain.as_secs_f64();
        if !reached(t - watched_since_t, WATCHED_SHARE * sustain_secs) {
            return None;
        }
        let is_unusual = self.unaccepted_secs(t) >= GAP_FACTOR * baseline.gap_secs(t);
        if self.is_stuck(t, fact, config) && is_unusual && makes_many_wait(fact) {
            return Some(Trigger::Stuck);
        }
        // It may drain: those that wait have waited all the same.
        let is_slow = reached(t - self.slow_since_t, SLOW_SECS).then_some(Trigger::Slow);
        let trend = self.trend(fact);
        if self.samples_total < SAMPLES_MIN || trend == Trend::Drains {
            return is_slow;
        }
        let sure = if trend == Trend::Grows { 1.0 } else { UNCLEAR_FACTOR };
        if !self.by_age {
            if self.is_unfallen(t, fact, config) && is_unusual {
                return Some(Trigger::Unfallen);
            }
            let deep = reached(t - self.deep_since_t, DEPTH_SUSTAIN_FACTOR * sustain_secs)
                || (self.overflows > 0 && reached(t - self.full_since_t, sustain_secs));
            return deep.then_some(Trigger::Deep);
        }
        let is_harmful = makes_many_wait(fact) || self.overflows > 0;
        if is_harmful
            && reached(t - self.near_limit_since_t, sure * NEAR_LIMIT_SHARE * sustain_secs)
        {
            return Some(Trigger::NearLimit);
        }
        let is_stalled = self.is_stalled(t, config) && is_unusual;
        if self.overflow_secs(fact, !is_stalled).is_some_and(|secs| secs <= OVERFLOWS_WITHIN_SECS) {
            return Some(Trigger::Filling);
        }
        let deep = f64::from(fact.backlog) >= f64::from(DEEP).max(DEPTH_FACTOR * baseline.depth(t));
        let stands = |factor: f64| {
            let secs = factor * if self.is_counted { 1.0 } else { UNCOUNTED_FACTOR } * sustain_secs;
            reached(t - self.proven_since_t, secs)
                || reached(t - self.since_t, UNPROVEN_FACTOR * secs)
        };
        let is_standing = (deep && stands(sure))
            || (self.accepted >= ACCEPTED_MIN && stands(1.0))
            || (self.accepted >= ACCEPTED_MIN / 2 && stands(2.0));
        if is_standing { Some(Trigger::Standing) } else { is_slow }
    }

    /// Returns the direction of the queue. If the last samples leave it open, the peak may tell: a
    /// large burst takes long to drain.
    fn trend(&self, fact: &ListenerFact) -> Trend {
        match self.samples.trend() {
            Trend::Unclear if self.has_fallen(fact) => Trend::Drains,
            trend => trend,
        }
    }

    fn has_fallen(&self, fact: &ListenerFact) -> bool {
        let fallen = f64::from(self.deepest.saturating_sub(fact.backlog));
        let gone = self.accepted.saturating_sub(self.accepted_at_deepest) as f64;
        fallen >= 1.0 && fallen >= scatter_of(gone)
    }

    /// Returns whether it shows the nature of the server once it has ended: it was no overload, or
    /// a pause, which ended of itself and was not long.
    pub(super) fn is_usual(&self) -> bool {
        let is_pause = !self.is_more_than_stuck && self.longest_gap_secs < PAUSE_SECS_MAX;
        !self.is_overload || is_pause
    }

    /// Longest time between two accepts, and greatest depth, for the baseline.
    pub(super) fn extremes(&self) -> (f64, u32) {
        (self.longest_gap_secs, self.deepest)
    }

    /// Whether nothing is accepted: a connection has waited long at the head, and none was accepted
    /// meanwhile.
    pub(super) fn is_stuck(&self, t: f64, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        let wanted_secs = STUCK_SHARE * config.sustain.as_secs_f64();
        head_secs(fact).is_some_and(|secs| reached(secs, wanted_secs))
            && reached(self.unaccepted_secs(t), wanted_secs)
    }

    /// Returns whether a queue of unknown age shows that nothing is accepted: it has not fallen for
    /// long.
    fn is_unfallen(&self, t: f64, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        fact.backlog >= STUCK_WAITING
            && self.unfallen_samples >= UNFALLEN_SAMPLES
            && reached(self.unaccepted_secs(t), UNFALLEN_FACTOR * config.sustain.as_secs_f64())
    }

    /// Whether nothing has been accepted for so long that no more is to be expected, should the
    /// queue overflow before that is certain.
    pub(super) fn is_stalled(&self, t: f64, config: &OverloadConfig) -> bool {
        reached(self.unaccepted_secs(t), STALLED_SHARE * config.sustain.as_secs_f64())
    }

    /// Time since the last accept, in seconds.
    pub(super) fn unaccepted_secs(&self, t: f64) -> f64 {
        t - self.accepted_t
    }

    /// Seconds until the queue overflows at the rate at which it fills; `None` if it does not fill.
    fn overflow_secs(&self, fact: &ListenerFact, while_accepting: bool) -> Option<f64> {
        Some(room(fact) / self.samples.fills_per_sec(while_accepting)?)
    }
}

/// Returns whether more connections wait, or have waited longer, than one slow request explains.
fn makes_many_wait(fact: &ListenerFact) -> bool {
    let waited_secs = f64::from(fact.backlog) * head_secs(fact).unwrap_or(0.0);
    fact.backlog >= STUCK_WAITING || reached(waited_secs, STUCK_WAITED_SECS)
}

/// Estimates the connections accepted in the last seconds, by Little's law: those that wait arrived
/// since their head did, and as many were accepted.
fn likely_accepted(fact: &ListenerFact, interval_secs: f64) -> u64 {
    let secs = head_secs(fact).unwrap_or(0.0);
    if secs > 0.0 { (f64::from(fact.backlog) / secs * interval_secs) as u64 } else { 0 }
}

/// Returns the number of connections that still find room.
pub(super) fn room(fact: &ListenerFact) -> f64 {
    (f64::from(fact.backlog_max) + 1.0 - f64::from(fact.backlog)).max(0.0)
}

/// Returns whether the queue is full: the kernel refuses connections once the backlog *exceeds* its
/// limit.
pub(super) fn is_full(fact: &ListenerFact) -> bool {
    fact.backlog > fact.backlog_max
}

fn is_near_limit(fact: &ListenerFact) -> bool {
    let half = (f64::from(fact.backlog_max) * LIMIT_SHARE).ceil() as u32;
    fact.backlog >= half.max(NEAR_LIMIT_MIN.min(fact.backlog_max)).max(1)
}

/// Returns whether a queue of unknown age is so deep that it may be standing.
pub(super) fn is_deep(fact: &ListenerFact) -> bool {
    fact.backlog >= DEPTH_MIN
        && f64::from(fact.backlog) >= f64::from(fact.backlog_max) * DEPTH_SHARE
}

/// Wait of the oldest connection, in seconds; `None` if it is unknown.
pub(super) fn head_secs(fact: &ListenerFact) -> Option<f64> {
    fact.oldest_wait_us.map(|us| us as f64 / 1e6)
}

/// Returns whether a span has lasted, to within the error of sums of decimal intervals (ten times
/// 0.1 s is not quite 1 s).
pub(super) fn reached(secs: f64, wanted_secs: f64) -> bool {
    secs + 1e-6 >= wanted_secs
}
