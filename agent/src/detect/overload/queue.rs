//! Accept queue of one socket: whether it is standing, since when, and whether that is an overload.
//!
//! A standing time begins when the oldest wait reaches the target and ends when it falls below, or
//! when samples are too far apart to tell. Cold start: the first sample's oldest wait is known, but
//! no claim rests on the time before it. Growth is not read across a gap, and a server that may
//! still be starting is not called overloaded.

use super::{
    baseline::Baseline,
    counter::Counter,
    drops::DropHistory,
    samples::Sample,
    standing_queue::{StandingQueue, head_secs, is_deep, is_full},
    trigger::Trigger,
};
use crate::{config::OverloadConfig, sense::ListenerFact};

/// Number of the last intervals above which a pause is a gap...
const GAP_INTERVALS: f64 = 3.0;

/// ...if it is also longer than this share of `sustain`: servers stood still with the agent, or
/// answered unseen.
const GAP_SHARE: f64 = 0.5;

/// Time in which a server that has never accepted a connection may still be starting. A guess: most
/// servers that bind their port before they have loaded their program accept within it.
const STARTING_SECS: f64 = 30.0;

/// Shorter time if only the depth is known, so that a server that has long been running may look as
/// if it had never accepted any. A guess: most servers start within it.
const STARTING_UNCOUNTED_SECS: f64 = 10.0;

/// Share of the limit that must have been reached for drops to be overflows.
const FILLED_SHARE: f64 = 0.8;

/// Share of `sustain` from which a standing queue may become an overload: rates before it are those
/// from before the overload.
const STANDS_SHARE: f64 = 0.5;

/// Time without an accept from which whoever connects notices. A guess.
const NOTICED_SECS: f64 = 0.4;

/// State of one socket's queue.
#[derive(Default)]
pub(super) struct AcceptQueue {
    /// Last sample, whether standing or not.
    last: Option<Sample>,
    interval_secs: Option<f64>,
    accepted: Counter,
    arrived: Counter,
    overflows: Counter,
    drops: DropHistory,
    baseline: Baseline,
    standing: Option<Box<StandingQueue>>,
    update: QueueUpdate,
    seen_scan: u32,
    /// Time of the first sample, and of the first after the last gap.
    first_t: Option<f64>,
    watched_since_t: f64,
    /// Whether a connection was ever accepted, or accepts are not counted.
    has_accepted: bool,
    /// Set if the queue ever fell.
    has_fallen: bool,
    /// Set if the wait of a connection was ever known.
    has_waits: bool,
}

/// Result of one sample of a queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueueUpdate {
    /// Connections accepted since the last sample; `None` if they are not counted.
    pub(super) accepted: Option<u64>,
    /// Connections dropped since the last sample.
    pub(super) dropped: u64,
    /// Reason for which it is an overload now, if it is one.
    pub(super) trigger: Option<Trigger>,
    /// Whether it still is an overload: the standing time in which it was one goes on.
    pub(super) is_overload: bool,
    /// Whether it has been standing so long that rates are not what they were before.
    pub(super) is_standing: bool,
    /// Whether samples are missing for so long that earlier ones say nothing about this one.
    pub(super) gap: bool,
}

impl AcceptQueue {
    /// Takes a sample.
    pub(super) fn observe(
        &mut self,
        t: f64,
        scan: u32,
        fact: &ListenerFact,
        config: &OverloadConfig,
    ) -> QueueUpdate {
        self.seen_scan = scan;
        let before = self.last;
        if before.is_some_and(|sample| sample.t == t) {
            // Two facts of the same instant are one sample.
            return self.update;
        }
        let (interval_secs, gap) =
            self.advance(Sample { t, depth: fact.backlog, accepted: None }, config);
        let before = before.filter(|_| !gap);
        let accepted = self.accepted.rise_if_known(fact.accepted_total);
        let arrived = self.arrived.rise_if_known(fact.arrived_total);
        let dropped = self.overflows.rise(fact.overflows_total);
        let dropped =
            if before.is_some_and(|before| may_overflow(before.depth, fact, arrived, accepted)) {
                dropped
            } else {
                0
            };
        let has_fallen = before.is_some_and(|before| fact.backlog < before.depth);
        self.has_accepted |= fact.accepted_total.is_none_or(|total| total > 0);
        self.has_fallen |= has_fallen;
        self.has_waits |= fact.backlog > 0 && fact.oldest_wait_us.is_some();
        if found_empty_secs(fact).is_some_and(|secs| secs < interval_secs) {
            // It drained since the last sample, and the connections that wait now have arrived
            // since.
            self.end_standing(t);
        }
        // What an overload drops is no matter of the limit: a longer queue would drop it later.
        let standing_secs =
            self.standing.as_ref().map_or(0.0, |standing| match standing.is_overload {
                true => t - standing.since_t,
                false => 0.0,
            });
        if standing_secs >= config.sustain.as_secs_f64() {
            self.drops = DropHistory::default();
        } else if dropped > 0 {
            self.drops.note(t);
        }
        let is_unfallen = !has_fallen && !self.has_waits;
        match standing_since(t, fact, self.standing.as_deref(), is_unfallen, config) {
            Some(since_t) => {
                let standing = self
                    .standing
                    .get_or_insert_with(|| Box::new(StandingQueue::new(since_t, before)));
                standing.observe(t, interval_secs, fact, accepted, dropped, has_fallen);
            }
            None => self.end_standing(t),
        }
        let age_secs = t - self.first_t.unwrap_or(t);
        let is_starting = !self.has_accepted && age_secs < STARTING_SECS;
        let may_be_starting = !self.has_fallen && age_secs < STARTING_UNCOUNTED_SECS;
        let watched_since_t = self.watched_since_t;
        let trigger = self.standing.as_mut().filter(|_| !is_starting).and_then(|standing| {
            let trigger = standing
                .trigger(t, watched_since_t, fact, &self.baseline, config)
                .filter(|trigger| *trigger != Trigger::Unfallen || !may_be_starting);
            standing.is_overload |= trigger.is_some();
            standing.is_more_than_stuck |= trigger.is_some_and(|trigger| trigger != Trigger::Stuck);
            trigger
        });
        // A queue that is full now may not drain at all, which is no matter of its limit.
        let is_dropping = !is_full(fact) && self.drops.recur(t);
        let trigger = trigger.or_else(|| is_dropping.then_some(Trigger::Dropping));
        let standing_secs = self.standing.as_ref().map_or(0.0, |standing| t - standing.since_t);
        let is_standing = standing_secs >= STANDS_SHARE * config.sustain.as_secs_f64();
        let is_overload = trigger.is_some()
            || self.standing.as_ref().is_some_and(|standing| standing.is_overload);
        // A second fact of the same instant counts nothing.
        self.update =
            QueueUpdate { accepted: Some(0), dropped: 0, trigger, is_overload, is_standing, gap };
        QueueUpdate { accepted, dropped, ..self.update }
    }

    /// Ends the standing time, if there is one. The baseline learns from it unless it was an
    /// overload other than a pause.
    fn end_standing(&mut self, t: f64) {
        if let Some(standing) = self.standing.take_if(|standing| standing.is_usual()) {
            self.baseline.learn(t, standing.extremes());
        }
        self.standing = None;
    }

    /// Returns whether it has been standing for so long that its clients notice.
    pub(super) fn stands_for_long(&self, t: f64) -> bool {
        self.standing
            .as_ref()
            .is_some_and(|standing| standing.by_age && standing.unaccepted_secs(t) >= NOTICED_SECS)
    }

    /// Standing time that goes on.
    pub(super) fn standing(&self) -> Option<&StandingQueue> {
        self.standing.as_deref()
    }

    /// Scan of the host in which it was last update.
    pub(super) fn seen_scan(&self) -> u32 {
        self.seen_scan
    }

    /// Moves on to a new instant. Returns the seconds since the last, and whether too much time
    /// went by unseen.
    fn advance(&mut self, sample: Sample, config: &OverloadConfig) -> (f64, bool) {
        let Some(last) = self.last.replace(sample) else {
            (self.first_t, self.watched_since_t) = (Some(sample.t), sample.t);
            return (0.0, false);
        };
        let interval_secs = sample.t - last.t;
        let expected_secs = self.interval_secs.replace(interval_secs).unwrap_or(interval_secs);
        let share_secs = GAP_SHARE * config.sustain.as_secs_f64();
        let gap = interval_secs
            > share_secs.max(GAP_INTERVALS * expected_secs.max(config.interval.as_secs_f64()));
        if gap {
            self.standing = None;
            self.watched_since_t = sample.t;
        }
        (interval_secs, gap)
    }
}

/// Returns whether drops may be overflows: the queue was near its limit, or enough connections
/// arrived to fill it. A listener also drops other packets, such as the bare ACKs that
/// TCP_DEFER_ACCEPT ignores, or those of a port scan.
fn may_overflow(
    depth_before: u32,
    fact: &ListenerFact,
    arrived: Option<u64>,
    accepted: Option<u64>,
) -> bool {
    let came = arrived.or_else(|| {
        Some(
            accepted?
                .saturating_add(u64::from(fact.backlog))
                .saturating_sub(u64::from(depth_before)),
        )
    });
    let reached =
        u64::from(depth_before).saturating_add(came.unwrap_or(0)).max(u64::from(fact.backlog));
    reached as f64 >= FILLED_SHARE * f64::from(fact.backlog_max)
}

fn found_empty_secs(fact: &ListenerFact) -> Option<f64> {
    fact.found_empty_us.map(|us| us as f64 / 1e6)
}

/// Returns the time since which this sample shows the queue to be standing; `None` if it is not.
fn standing_since(
    t: f64,
    fact: &ListenerFact,
    standing: Option<&StandingQueue>,
    is_unfallen: bool,
    config: &OverloadConfig,
) -> Option<f64> {
    if fact.backlog == 0 {
        return None;
    }
    let target_secs = config.target.as_secs_f64();
    let Some(head_secs) = head_secs(fact) else {
        // An oldest wait that is missing from one sample does not end the standing time of a queue
        // that had one in the last.
        return (is_deep(fact)
            || is_unfallen
            || standing.is_some_and(StandingQueue::knew_last_wait))
        .then_some(t);
    };
    // A connection was accepted below the target in between: the queue drained, unless this oldest
    // wait proves otherwise.
    let drained = fact.sojourn_min_us.is_some_and(|us| us as f64 / 1e6 < target_secs);
    let is_standing =
        head_secs >= target_secs && (!drained || head_secs >= config.sustain.as_secs_f64());
    is_standing.then_some(t - head_secs)
}
