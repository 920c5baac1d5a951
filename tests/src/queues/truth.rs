//! Ground truth of a run: when it was overloaded, since when, until when, and when it first dropped
//! a connection.
//!
//! The family has no say in it. There are four kinds of overload: a socket is offered more than
//! its capacity for a second or more and its queue does not drain; its acceptor has stopped and a
//! connection waits; connections are dropped repeatedly; for three seconds in a row several wait
//! and each that is accepted has waited for half a second, whatever the load. An overload begins
//! when its condition first holds, and ends when it no longer does and the queue has drained.
//! Overloads close to each other are one. Nearly as long waits are neither: a claim is tolerated.

use serde::{Deserialize, Serialize};

use super::{
    plan::{Plan, Scarce},
    socket::{Nanos, SECOND, Socket, nanos},
};

/// Age of the queue's head from which the queue counts as standing: CoDel's target and the agent's
/// default.
const STANDING_AGE: Nanos = 5_000_000;

/// Maximum distance of overloads that count as one.
const APART_SECS: f64 = 10.0;

/// Minimum number of moments of drops that count as recurring...
const DROPS_MIN: usize = 3;

/// ...the minimum distance between them...
const DROPS_APART_SECS: f64 = 1.0;

/// ...and the maximum distance. A guess: a client dropped once a minute blames the network.
const DROPS_WITHIN_SECS: f64 = 60.0;

/// Wait from which accepts are slow, and for how long they must be: three seconds, and two looks, so
/// that one that ends at once need not be told from one that does not reach them.
const SLOW_SECS: [f64; 2] = [0.5, 3.2];

/// Wait from which a claim is tolerated, and for how long.
const NEARLY_SLOW_SECS: [f64; 2] = [0.4, 2.4];

/// Connections that must wait meanwhile: fewer are a few slow requests.
const SLOW_WAITING: usize = 4;

/// Overload of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overload {
    /// Kind of its beginning.
    pub kind: Kind,
    /// Time of its beginning.
    pub onset_secs: f64,
    /// Time at which its acceptor had stopped and a connection first waited; `None` if it keeps
    /// accepting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_secs: Option<f64>,
    /// Time of the first drop; `None` if nothing was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow_secs: Option<f64>,
    /// Time of its end, or the end of the run if it never ends.
    pub end_secs: f64,
    /// Scarce resource; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scarce: Option<Scarce>,
}

/// Kind of an overload's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Offered load exceeds the capacity.
    Load,
    /// Accepting has stopped.
    Stopped,
    /// Connections are dropped repeatedly.
    Drops,
    /// Every connection waits for long, at a load that could be carried.
    Waits,
}

/// Truth as known so far.
pub(super) struct Truth {
    sockets: Vec<Watch>,
    spans: Vec<Overload>,
    /// Times in which connections wait nearly as long as in an overload, in nanoseconds.
    tolerated: Vec<(Nanos, Nanos)>,
    drops: Drops,
    scarce: Scarce,
}

/// Time in which every accepted connection has waited for long and several wait.
#[derive(Debug, Clone, Copy)]
struct SlowAccepts {
    wait: Nanos,
    lasts: Nanos,
    since: Option<Nanos>,
}

impl SlowAccepts {
    fn new(secs: [f64; 2]) -> Self {
        let [wait, lasts] = secs.map(nanos);
        Self { wait, lasts, since: None }
    }

    /// Takes the queue as it is.
    fn poll(&mut self, now: Nanos, socket: &Socket) -> Option<(Nanos, Nanos)> {
        match socket.head_age(now).filter(|_| socket.queue.len() >= SLOW_WAITING) {
            Some(age) if age >= self.wait => {
                self.since.get_or_insert(now - (age - self.wait));
                None
            }
            Some(_) => None,
            None => self.end(now),
        }
    }

    /// Takes an accept after such a wait.
    fn accepted(&mut self, now: Nanos, wait: Nanos) -> Option<(Nanos, Nanos)> {
        if wait < self.wait { self.end(now) } else { None }
    }

    /// Ends it. Returns its span if it has lasted.
    fn end(&mut self, now: Nanos) -> Option<(Nanos, Nanos)> {
        let since = self.since.take()?;
        (now - since >= self.lasts).then_some((since, now))
    }
}

/// Times of dropped connections.
#[derive(Debug, Default)]
pub struct Drops {
    /// Moments of drops; those within a second are one.
    moments: Vec<Nanos>,
    /// Times of all drops, at most one per millisecond.
    all: Vec<Nanos>,
}

struct Watch {
    excess: Vec<(Nanos, Nanos)>,
    /// Index of the next or current overload, and whether the queue has stood in it.
    place: usize,
    stood: bool,
    /// Time since which a connection waits for a stopped acceptor.
    stopped: Option<Nanos>,
    slow: SlowAccepts,
    nearly_slow: SlowAccepts,
}

impl Truth {
    pub(super) fn new(plan: &Plan) -> Self {
        let watch = |socket| Watch {
            excess: plan
                .excess(socket)
                .into_iter()
                .map(|span| (nanos(span.0), nanos(span.1)))
                .collect(),
            place: 0,
            stood: false,
            stopped: None,
            slow: SlowAccepts::new(SLOW_SECS),
            nearly_slow: SlowAccepts::new(NEARLY_SLOW_SECS),
        };
        Self {
            sockets: plan.sockets.iter().map(watch).collect(),
            spans: Vec::new(),
            tolerated: Vec::new(),
            drops: Drops::default(),
            scarce: plan.scarce,
        }
    }

    pub(super) fn dropped(&mut self, now: Nanos) {
        self.drops.note(now);
    }

    /// Takes the accept of a connection that has waited at a socket.
    pub(super) fn accepted(&mut self, now: Nanos, place: usize, wait: Nanos) {
        let watch = &mut self.sockets[place];
        let slow = watch.slow.accepted(now, wait);
        self.tolerated.extend(watch.nearly_slow.accepted(now, wait));
        if let Some((from, to)) = slow {
            self.found(Kind::Waits, from, to);
        }
    }

    /// Returns the times in which a claim is neither right nor wrong, in order, in seconds.
    pub(super) fn tolerated(&self) -> Vec<(f64, f64)> {
        let secs = |t: Nanos| rounded(t as f64 / SECOND);
        let mut spans: Vec<_> =
            self.tolerated.iter().map(|span| (secs(span.0), secs(span.1))).collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        spans
    }

    fn found(&mut self, kind: Kind, from: Nanos, to: Nanos) {
        self.spans.push(Overload::new(kind, (from, to), Some(self.scarce)));
    }

    /// Samples every socket.
    pub(super) fn poll(&mut self, now: Nanos, sockets: &[Socket]) {
        for (place, socket) in sockets.iter().enumerate() {
            let drained = |since: Nanos| socket.queue.is_empty() || socket.empty_t >= since;
            let watch = &mut self.sockets[place];
            let is_standing = socket.head_age(now).is_some_and(|age| age >= STANDING_AGE);
            let mut over = None;
            if let Some(&(from, to)) = watch.excess.get(watch.place).filter(|span| span.0 <= now) {
                watch.stood |= is_standing;
                if now >= to && drained(to) {
                    over = watch.stood.then_some((from, now));
                    (watch.place, watch.stood) = (watch.place + 1, false);
                }
            }
            if let (Some(stopped), Some(head)) = (socket.stopped, socket.queue.front()) {
                watch.stopped.get_or_insert(head.since.max(stopped));
            }
            let mut goes_on = None;
            if let Some(since) = watch.stopped
                && socket.stopped.is_none()
                && drained(since)
            {
                (watch.stopped, goes_on) = (None, Some(since));
            }
            let slow = watch.slow.poll(now, socket);
            self.tolerated.extend(watch.nearly_slow.poll(now, socket));
            if let Some((from, to)) = over {
                self.found(Kind::Load, from, to);
            }
            if let Some((from, to)) = slow {
                self.found(Kind::Waits, from, to);
            }
            if let Some(since) = goes_on {
                self.found(Kind::Stopped, since, now);
            }
        }
    }

    /// Returns all overloads at the end of the run.
    pub(super) fn finish(&mut self, now: Nanos) -> Vec<Overload> {
        for mut watch in std::mem::take(&mut self.sockets) {
            self.tolerated.extend(watch.nearly_slow.end(now));
            if let Some((from, to)) = watch.slow.end(now) {
                self.found(Kind::Waits, from, to);
            }
            if let Some(&(from, _)) =
                watch.excess.get(watch.place).filter(|span| span.0 <= now && watch.stood)
            {
                self.found(Kind::Load, from, now);
            }
            if let Some(since) = watch.stopped {
                self.found(Kind::Stopped, since, now);
            }
        }
        together(std::mem::take(&mut self.spans), &self.drops, Some(self.scarce))
    }
}

impl Overload {
    /// Overload in a span, without a known drop.
    pub fn new(kind: Kind, (from, to): (Nanos, Nanos), scarce: Option<Scarce>) -> Self {
        let secs = |t: Nanos| t as f64 / SECOND;
        Self {
            kind,
            onset_secs: secs(from),
            stopped_secs: (kind == Kind::Stopped).then_some(secs(from)),
            overflow_secs: None,
            end_secs: secs(to),
            scarce: if kind == Kind::Stopped { Some(Scarce::AcceptLoop) } else { scarce },
        }
    }
}

impl Drops {
    /// Records a drop; call it in order of time.
    pub fn note(&mut self, now: Nanos) {
        // One per millisecond is enough to know the first.
        if self.all.last().is_none_or(|last| now - last >= 1_000_000) {
            self.all.push(now);
        }
        if self.moments.last().is_none_or(|last| now - last >= nanos(DROPS_APART_SECS)) {
            self.moments.push(now);
        }
    }
}

/// Merges overloads of each kind and recurring drops, in order of time: those close to each other
/// become one, each with its first drop.
pub fn together(mut spans: Vec<Overload>, drops: &Drops, scarce: Option<Scarce>) -> Vec<Overload> {
    let moments = drops.moments.chunk_by(|a, b| b - a <= nanos(DROPS_WITHIN_SECS));
    for chain in moments.filter(|chain| chain.len() >= DROPS_MIN) {
        spans.push(Overload::new(Kind::Drops, (chain[0], chain[chain.len() - 1]), scarce));
    }
    spans.sort_by(|a, b| a.onset_secs.total_cmp(&b.onset_secs));
    let mut merged: Vec<Overload> = Vec::new();
    for span in spans {
        match merged.last_mut().filter(|last| span.onset_secs - last.end_secs <= APART_SECS) {
            Some(last) => {
                last.end_secs = last.end_secs.max(span.end_secs);
                last.stopped_secs = last.stopped_secs.or(span.stopped_secs);
            }
            None => merged.push(span),
        }
    }
    for overload in &mut merged {
        let within = |t: &f64| (overload.onset_secs..=overload.end_secs).contains(t);
        overload.overflow_secs =
            drops.all.iter().map(|t| *t as f64 / SECOND).find(within).map(rounded);
        overload.onset_secs = rounded(overload.onset_secs);
        overload.end_secs = rounded(overload.end_secs);
        overload.stopped_secs = overload.stopped_secs.map(rounded);
    }
    merged
}

/// Rounds to a millisecond.
fn rounded(secs: f64) -> f64 {
    (secs * 1e3).round() / 1e3
}
