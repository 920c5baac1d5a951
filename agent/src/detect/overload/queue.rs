//! One socket's accept queue: whether it stands, since when, and on which ground that is an
//! overload.
//!
//! A run begins when the queue begins to stand and ends when it does not, or when looks are too far
//! apart to tell. Cold start: the first look's head is known, but no claim rests on the time before
//! it. It refuses to read growth across a gap, and to call a server overloaded that may still be
//! starting.

use super::{
    baseline::Baseline,
    counter::Counter,
    drops::DropHistory,
    samples::Sample,
    standing_queue::{DEPTH_MIN, DEPTH_SHARE, StandingQueue, head_secs},
    trigger::Trigger,
};
use crate::{config::OverloadConfig, sense::ListenerFact};

/// A pause of more than this many of the last intervals is a gap...
const GAP_INTERVALS: f64 = 3.0;

/// ...if it is also longer than this share of `sustain`: servers stood still with the agent, or
/// answered unseen.
const GAP_SHARE: f64 = 0.5;

/// Time in which a server that has never accepted a connection may still be starting. A guess: most
/// servers that bind their port before they have loaded their program accept within it.
const STARTING_SECS: f64 = 30.0;

/// Share of the limit that must have been reached for drops to be overflows.
const FILLED_SHARE: f64 = 0.8;

/// Share of `sustain` for which a queue has stood that may become an overload: the rates before are
/// those until then.
const STANDS_SHARE: f64 = 0.5;

/// All that is known of one socket's queue.
#[derive(Default)]
pub(super) struct AcceptQueue {
    /// The last look, whether it stood or not.
    last: Option<Sample>,
    interval_secs: Option<f64>,
    accepted: Counter,
    arrived: Counter,
    overflows: Counter,
    drops: DropHistory,
    usual: Baseline,
    run: Option<Box<StandingQueue>>,
    seen: QueueUpdate,
    seen_scan: u32,
    /// Time of the first look, and of the first after the last gap.
    first_t: Option<f64>,
    watched_since_t: f64,
    /// Set if a connection was ever accepted, or accepts are not counted.
    has_accepted: bool,
}

/// What one look at a queue gave.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QueueUpdate {
    /// Connections accepted since the last; `None` where they are not counted.
    pub(super) accepted: Option<u64>,
    /// Connections dropped since the last.
    pub(super) dropped: u64,
    /// On which ground it is an overload, if it is one now.
    pub(super) ground: Option<Trigger>,
    /// Whether it is an overload still: the run in which it was one goes on.
    pub(super) is_overload: bool,
    /// Whether it has stood so long that what comes and goes is not as it was before.
    pub(super) stands: bool,
    /// Whether nothing was seen for so long that nothing follows from what was seen before.
    pub(super) gap: bool,
}

impl AcceptQueue {
    /// Takes a look.
    pub(super) fn look(
        &mut self,
        t: f64,
        scan: u32,
        fact: &ListenerFact,
        config: &OverloadConfig,
    ) -> QueueUpdate {
        self.seen_scan = scan;
        let before = self.last;
        if before.is_some_and(|look| look.t == t) {
            // The same instant told twice is one look.
            return self.seen;
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
        self.has_accepted |= fact.accepted_total.is_none_or(|total| total > 0);
        if found_empty_secs(fact).is_some_and(|secs| secs < interval_secs) {
            // It drained since the last look, and what stands now has begun since.
            self.end_run(t);
        }
        if dropped > 0 {
            self.drops.note(t);
        }
        match standing_since(t, fact, self.run.as_deref(), config) {
            Some(since_t) => {
                let run =
                    self.run.get_or_insert_with(|| Box::new(StandingQueue::new(since_t, before)));
                run.look(t, interval_secs, fact, accepted, dropped);
            }
            None => self.end_run(t),
        }
        let is_starting = !self.has_accepted && t - self.first_t.unwrap_or(t) < STARTING_SECS;
        let watched_since_t = self.watched_since_t;
        let ground = self.run.as_mut().filter(|_| !is_starting).and_then(|run| {
            let ground = run.ground(t, watched_since_t, fact, &self.usual, config);
            run.is_overload |= ground.is_some();
            ground
        });
        let ground = ground.or_else(|| self.drops.recur(t).then_some(Trigger::Dropping));
        let stood_secs = self.run.as_ref().map_or(0.0, |run| t - run.since_t);
        let stands = stood_secs >= STANDS_SHARE * config.sustain.as_secs_f64();
        let is_overload = ground.is_some() || self.run.as_ref().is_some_and(|run| run.is_overload);
        // Told again, it counts nothing anew.
        self.seen = QueueUpdate { accepted: Some(0), dropped: 0, ground, is_overload, stands, gap };
        QueueUpdate { accepted, dropped, ..self.seen }
    }

    /// Ends the run, if there is one; what it was like is usual if it was no overload.
    fn end_run(&mut self, t: f64) {
        if let Some(run) = self.run.take_if(|run| !run.is_overload) {
            self.usual.learn(t, run.extremes());
        }
        self.run = None;
    }

    /// The run that goes on.
    pub(super) fn run(&self) -> Option<&StandingQueue> {
        self.run.as_deref()
    }

    /// The scan of the host in which it was last seen.
    pub(super) fn seen_scan(&self) -> u32 {
        self.seen_scan
    }

    /// Moves on to a new instant; gives the seconds since the last, and whether too much time went
    /// by unseen.
    fn advance(&mut self, look: Sample, config: &OverloadConfig) -> (f64, bool) {
        let Some(last) = self.last.replace(look) else {
            (self.first_t, self.watched_since_t) = (Some(look.t), look.t);
            return (0.0, false);
        };
        let interval_secs = look.t - last.t;
        let expected_secs = self.interval_secs.replace(interval_secs).unwrap_or(interval_secs);
        let share_secs = GAP_SHARE * config.sustain.as_secs_f64();
        let gap = interval_secs
            > share_secs.max(GAP_INTERVALS * expected_secs.max(config.interval.as_secs_f64()));
        if gap {
            self.run = None;
            self.watched_since_t = look.t;
        }
        (interval_secs, gap)
    }
}

/// Decides if drops may be overflows: the queue was near its limit, or as much came as fills it. A
/// listener also drops other packets, such as the bare ACKs that TCP_DEFER_ACCEPT ignores, or those
/// of a port scan.
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

/// Since when this look shows the queue to stand; `None` where it does not.
fn standing_since(
    t: f64,
    fact: &ListenerFact,
    run: Option<&StandingQueue>,
    config: &OverloadConfig,
) -> Option<f64> {
    if fact.backlog == 0 {
        return None;
    }
    let target_secs = config.target.as_secs_f64();
    let Some(head_secs) = head_secs(fact) else {
        let deep = f64::from(fact.backlog) >= f64::from(fact.backlog_max) * DEPTH_SHARE;
        // A head that moved just then says nothing against a queue that stood a look ago.
        return ((fact.backlog >= DEPTH_MIN && deep)
            || run.is_some_and(StandingQueue::saw_the_last_head))
        .then_some(t);
    };
    // Somebody was accepted below the target in between: the queue drained, unless this head proves
    // otherwise.
    let drained = fact.sojourn_min_us.is_some_and(|us| us as f64 / 1e6 < target_secs);
    let stands =
        head_secs >= target_secs && (!drained || head_secs >= config.sustain.as_secs_f64());
    stands.then_some(t - head_secs)
}
