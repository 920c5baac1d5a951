//! A stretch of time in which one accept queue never ceased to stand, and on which ground that is
//! an overload.
//!
//! Cold start: the age of the first look's head proves how long the queue has stood already. It
//! refuses to call a queue overloaded that is seen to drain, unless nothing is accepted at all.

use super::{
    baseline::Baseline,
    bottleneck::MeanPressure,
    samples::{Sample, Samples, Trend, scatter_of},
    trigger::Trigger,
};
use crate::{config::OverloadConfig, sense::ListenerFact};

/// Share of `sustain` for which the same connection may wait at the head: with looks a tenth of
/// that apart, and the time until somebody connects, a stopped acceptor is known within the whole.
const STUCK_SHARE: f64 = 0.7;

/// Share of `sustain` for which a queue must have been watched without a gap.
const WATCHED_SHARE: f64 = 0.7;

/// Connections that wait for a stuck server from which that is more than the usual pause of a small
/// one: others are looked at by how long they have waited together. A guess.
const STUCK_WAITING: u32 = 4;

/// Time that they must have waited together, the longest counted for each, if fewer wait: one for 6
/// s, or two for 3 s. A guess: a worker that serves a slow request lets one or two wait for less.
const STUCK_WAITED_SECS: f64 = 6.0;

/// Connections accepted in a run without draining it, which is no chance, within `sustain`, and
/// half as many within twice that: at eight tenths of capacity a queue of random arrivals forgets
/// what it was within a hundred, at nine tenths within four hundred (M/M/1, relaxation time
/// 1/(1-√ρ)² services).
const ACCEPTED_MIN: u64 = 2_000;

/// Depth that is no chance either, however few were accepted: at eight tenths of capacity one look
/// in twenty thousand finds as many waiting where the time that each takes varies as much as in the
/// field (a variance of three squared means).
const DEEP: u32 = 100;

/// Depth below which a queue that is near its limit has a small limit rather than many waiting.
const NEAR_LIMIT_MIN: u32 = 48;

/// How many times deeper than it usually is a queue must be.
const DEPTH_FACTOR: f64 = 1.5;

/// How many times longer than usual nothing must have been accepted: a server that takes a quarter
/// of a second for each is now and then not heard of for one.
const GAP_FACTOR: f64 = 3.0;

/// Share of the limit that is deep where the limit is small.
const LIMIT_SHARE: f64 = 0.5;

/// Share of `sustain` for which a queue must have been that near its limit.
const NEAR_LIMIT_SHARE: f64 = 0.5;

/// How many times longer what holds must hold while it is not clear that the queue grows: a burst
/// may be draining.
const UNCLEAR_FACTOR: f64 = 2.0;

/// Share of `sustain` for which nothing must have been accepted where the queue overflows before it
/// is clear that nothing will be. A pause of 200 ms is shorter, whatever looks it falls between.
const STALLED_SHARE: f64 = 0.35;

/// Overflow within this time of a queue that fills steadily is not waited for.
const OVERFLOWS_WITHIN_SECS: f64 = 1.0;

/// How many times `sustain` a queue must stand of which it is not proven that it never drained
/// between two looks: nobody timed its connections one by one or asked each what it found, and its
/// head was younger than the look before.
const UNPROVEN_FACTOR: f64 = 3.0;

/// How many times `sustain` where nobody counted what was accepted.
const UNCOUNTED_FACTOR: f64 = 2.0;

/// Depth, as a share of the limit, from which a queue of unseen age may stand. A guess: healthy
/// queues are near empty.
pub(super) const DEPTH_SHARE: f64 = 0.25;

/// Depth from which a queue of unseen age may stand, however small its limit.
pub(super) const DEPTH_MIN: u32 = STUCK_WAITING;

/// How many times `sustain` a queue of unseen age must have been that deep.
const DEPTH_SUSTAIN_FACTOR: f64 = 2.0;

/// Looks in a row that a run takes where its head is too young to prove it, so that two coarse
/// looks are no run.
const LOOKS_MIN: u32 = 3;

/// Looks in a row without the head's age after which a run rests on depth. One is a head that moved
/// just then.
const BLIND_LOOKS_MIN: u32 = 2;

/// Two looks whose heads were established within this of each other saw the same one: both clocks
/// count microseconds.
const SAME_HEAD_SECS: f64 = 0.001;

/// A stretch of time in which a queue never ceased to stand.
pub(super) struct StandingQueue {
    pub(super) since_t: f64,
    pub(super) looks: Samples,
    pub(super) strain: MeanPressure,
    /// Whether every look saw the head's age.
    pub(super) by_age: bool,
    pub(super) overflows: u64,
    /// Whether it was an overload at any look: then it is one until it ends.
    pub(super) is_overload: bool,
    looks_total: u32,
    /// Looks in a row that did not see the head's age.
    blind_looks: u32,
    /// Since when it is proven not to have drained between two looks.
    proven_since_t: f64,
    /// Counted, or where a look could not, estimated.
    accepted: u64,
    is_counted: bool,
    /// When a connection was last seen to be accepted, or the first head was established.
    accepted_t: f64,
    head_established_t: f64,
    /// The longest that was seen between two accepts, and the most that waited.
    longest_gap_secs: f64,
    deepest: u32,
    accepted_at_deepest: u64,
    near_limit_since_t: f64,
    full_since_t: f64,
}

impl StandingQueue {
    /// Begins at `since_t`; the look before, where there was one, says from which depth it grew.
    pub(super) fn new(since_t: f64, before: Option<Sample>) -> Self {
        let mut looks = Samples::default();
        before.into_iter().for_each(|look| looks.push(look));
        Self {
            since_t,
            looks,
            strain: MeanPressure::default(),
            by_age: true,
            overflows: 0,
            is_overload: false,
            looks_total: 0,
            blind_looks: 0,
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
        }
    }

    /// Takes a look at a queue that stands: since the one before, `interval_secs` ago, so many were
    /// accepted and dropped.
    pub(super) fn look(
        &mut self,
        t: f64,
        interval_secs: f64,
        fact: &ListenerFact,
        accepted: Option<u64>,
        dropped: u64,
    ) {
        // Before the first look of a run, connections were still being accepted.
        if self.looks_total > 0 {
            self.is_counted &= accepted.is_some();
            let more = accepted.unwrap_or_else(|| likely_accepted(fact, interval_secs));
            self.accepted = self.accepted.saturating_add(more);
        }
        self.looks.push(Sample { t, depth: fact.backlog, accepted });
        if fact.backlog >= self.deepest {
            (self.deepest, self.accepted_at_deepest) = (fact.backlog, self.accepted);
        }
        self.overflows = self.overflows.saturating_add(dropped);
        self.strain.add(fact.strain.as_ref());
        match head_secs(fact) {
            Some(secs) => self.note_head(t, secs, interval_secs, fact, accepted),
            None => {
                self.blind_looks = self.blind_looks.saturating_add(1);
                self.by_age &= self.blind_looks < BLIND_LOOKS_MIN && self.looks_total > 0;
            }
        }
        self.looks_total = self.looks_total.saturating_add(1);
        let since = |holds: bool, since_t: f64| if holds { since_t.min(t) } else { f64::INFINITY };
        self.near_limit_since_t = since(is_near_limit(fact), self.near_limit_since_t);
        self.full_since_t = since(is_full(fact), self.full_since_t);
    }

    fn note_head(
        &mut self,
        t: f64,
        secs: f64,
        interval_secs: f64,
        fact: &ListenerFact,
        accepted: Option<u64>,
    ) {
        self.blind_looks = 0;
        let established_t = t - secs;
        self.since_t = self.since_t.min(established_t);
        if self.looks_total == 0 {
            self.accepted_t = established_t;
        } else {
            let is_another = (established_t - self.head_established_t).abs() > SAME_HEAD_SECS;
            // Of a burst all were established at once, so that one head looks like the next; a
            // count tells them, but for one, by which a count may be ahead.
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

    /// Whether the look before saw the head's age.
    pub(super) fn saw_the_last_head(&self) -> bool {
        self.blind_looks == 0
    }

    /// On which ground it is an overload now. A queue that was not watched for long is none: what
    /// stood still with the agent begins to move when it does.
    pub(super) fn ground(
        &self,
        t: f64,
        watched_since_t: f64,
        fact: &ListenerFact,
        usual: &Baseline,
        config: &OverloadConfig,
    ) -> Option<Trigger> {
        let sustain_secs = config.sustain.as_secs_f64();
        if !reached(t - watched_since_t, WATCHED_SHARE * sustain_secs) {
            return None;
        }
        let is_unusual = self.unaccepted_secs(t) >= GAP_FACTOR * usual.gap_secs(t);
        if self.is_stuck(t, fact, config) && is_unusual && makes_many_wait(fact) {
            return Some(Trigger::Stuck);
        }
        let trend = self.trend(fact);
        if self.looks_total < LOOKS_MIN || trend == Trend::Drains {
            return None;
        }
        let sure = if trend == Trend::Grows { 1.0 } else { UNCLEAR_FACTOR };
        if !self.by_age {
            let deep = reached(t - self.since_t, DEPTH_SUSTAIN_FACTOR * sustain_secs)
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
        let deep = f64::from(fact.backlog) >= f64::from(DEEP).max(DEPTH_FACTOR * usual.depth(t));
        let stands = |factor: f64| {
            let secs = factor * if self.is_counted { 1.0 } else { UNCOUNTED_FACTOR } * sustain_secs;
            reached(t - self.proven_since_t, secs)
                || reached(t - self.since_t, UNPROVEN_FACTOR * secs)
        };
        let is_standing = (deep && stands(sure))
            || (self.accepted >= ACCEPTED_MIN && stands(1.0))
            || (self.accepted >= ACCEPTED_MIN / 2 && stands(2.0));
        is_standing.then_some(Trigger::Standing)
    }

    /// Where it is on its way to. What the last looks leave open, its peak may tell: a large burst
    /// takes long to drain.
    fn trend(&self, fact: &ListenerFact) -> Trend {
        match self.looks.trend() {
            Trend::Unclear if self.has_fallen(fact) => Trend::Drains,
            trend => trend,
        }
    }

    fn has_fallen(&self, fact: &ListenerFact) -> bool {
        let fallen = f64::from(self.deepest.saturating_sub(fact.backlog));
        let gone = self.accepted.saturating_sub(self.accepted_at_deepest) as f64;
        fallen >= 1.0 && fallen >= scatter_of(gone)
    }

    /// What it was like, for as long as nothing was wrong with it: the longest between two accepts,
    /// and the deepest.
    pub(super) fn extremes(&self) -> (f64, u32) {
        (self.longest_gap_secs, self.deepest)
    }

    /// Whether nothing is accepted: a connection has waited long at the head, and none was seen to
    /// go meanwhile.
    pub(super) fn is_stuck(&self, t: f64, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        let wanted_secs = STUCK_SHARE * config.sustain.as_secs_f64();
        head_secs(fact).is_some_and(|secs| reached(secs, wanted_secs))
            && reached(self.unaccepted_secs(t), wanted_secs)
    }

    /// Whether nothing has been accepted for so long that no more is to be expected, should the
    /// queue overflow before that is sure.
    pub(super) fn is_stalled(&self, t: f64, config: &OverloadConfig) -> bool {
        reached(self.unaccepted_secs(t), STALLED_SHARE * config.sustain.as_secs_f64())
    }

    /// For how long nothing has been accepted, in seconds.
    pub(super) fn unaccepted_secs(&self, t: f64) -> f64 {
        t - self.accepted_t
    }

    /// Seconds until the queue overflows at the pace at which it fills; `None` where it does not
    /// fill.
    fn overflow_secs(&self, fact: &ListenerFact, while_accepting: bool) -> Option<f64> {
        Some(room(fact) / self.looks.fills_per_sec(while_accepting)?)
    }
}

/// Decides if more wait, or have waited longer, than one slow request explains.
fn makes_many_wait(fact: &ListenerFact) -> bool {
    let waited_secs = f64::from(fact.backlog) * head_secs(fact).unwrap_or(0.0);
    fact.backlog >= STUCK_WAITING || reached(waited_secs, STUCK_WAITED_SECS)
}

/// Connections that were likely accepted in the last seconds, by Little's law: those that wait came
/// since their head did, and as many went.
fn likely_accepted(fact: &ListenerFact, interval_secs: f64) -> u64 {
    let secs = head_secs(fact).unwrap_or(0.0);
    if secs > 0.0 { (f64::from(fact.backlog) / secs * interval_secs) as u64 } else { 0 }
}

/// Connections that still find room.
pub(super) fn room(fact: &ListenerFact) -> f64 {
    (f64::from(fact.backlog_max) + 1.0 - f64::from(fact.backlog)).max(0.0)
}

/// The kernel refuses once the backlog *exceeds* its limit.
pub(super) fn is_full(fact: &ListenerFact) -> bool {
    fact.backlog > fact.backlog_max
}

fn is_near_limit(fact: &ListenerFact) -> bool {
    let half = (f64::from(fact.backlog_max) * LIMIT_SHARE).ceil() as u32;
    fact.backlog >= half.max(NEAR_LIMIT_MIN.min(fact.backlog_max)).max(1)
}

/// How long the connection at the head has waited, in seconds; `None` where that is not seen.
pub(super) fn head_secs(fact: &ListenerFact) -> Option<f64> {
    fact.oldest_wait_us.map(|us| us as f64 / 1e6)
}

/// Whether a span has lasted, to within what sums of decimal intervals lose (ten times 0.1 s is not
/// quite 1 s).
pub(super) fn reached(secs: f64, wanted_secs: f64) -> bool {
    secs + 1e-6 >= wanted_secs
}
