//! What a run turned out to be: when it was overloaded, from what moment, until when, and when it
//! first dropped a connection.
//!
//! Nothing is asked of the family. Three things are an overload: a socket is offered more than it
//! can take for a second or more and its queue stands; its acceptor has stopped and a connection
//! waits; connections are dropped again and again. It begins at the moment from which that holds,
//! and ends once it no longer does and the queue has drained. What lies near is one.

use serde::{Deserialize, Serialize};

use super::{
    plan::{Plan, Scarce},
    socket::{Nanos, SECOND, Socket, nanos},
};

/// A head that has waited so long stands: the target that CoDel has, and the agent's default.
const STANDS: Nanos = 5_000_000;

/// Overloads this near to each other are one.
const APART_SECS: f64 = 10.0;

/// Drops recur where there are so many moments of them...
const DROPS_MIN: usize = 3;

/// ...at least so far apart each...
const DROPS_APART_SECS: f64 = 1.0;

/// ...and no farther than this. A guess: who is dropped once a minute calls it a fault of the
/// network.
const DROPS_WITHIN_SECS: f64 = 60.0;

/// One overload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overload {
    /// How it began.
    pub kind: Kind,
    /// From when it is one.
    pub onset_secs: f64,
    /// When its acceptor had stopped and a connection first waited; `None` where it goes on
    /// accepting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_secs: Option<f64>,
    /// When the first connection was dropped; `None` where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow_secs: Option<f64>,
    /// When it is over: the end of the run where it never is.
    pub end_secs: f64,
    /// What is short; `None` where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scarce: Option<Scarce>,
}

/// How an overload begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// More is offered than can be taken.
    Load,
    /// Nothing is accepted any more.
    Stopped,
    /// Connections are dropped again and again.
    Drops,
}

/// What is known so far.
pub(super) struct Truth {
    sockets: Vec<Watch>,
    spans: Vec<Overload>,
    drops: Drops,
    scarce: Scarce,
}

/// When connections were dropped.
#[derive(Debug, Default)]
pub struct Drops {
    /// Those within a second taken as one.
    moments: Vec<Nanos>,
    /// All of them, one a millisecond at the most.
    all: Vec<Nanos>,
}

struct Watch {
    excess: Vec<(Nanos, Nanos)>,
    /// Which of them is next or under way, and whether the queue has stood in it.
    place: usize,
    stood: bool,
    /// Since when a connection waits for an acceptor that has stopped.
    stopped: Option<Nanos>,
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
        };
        Self {
            sockets: plan.sockets.iter().map(watch).collect(),
            spans: Vec::new(),
            drops: Drops::default(),
            scarce: plan.scarce,
        }
    }

    pub(super) fn dropped(&mut self, now: Nanos) {
        self.drops.note(now);
    }

    fn found(&mut self, kind: Kind, from: Nanos, to: Nanos) {
        self.spans.push(Overload::new(kind, (from, to), Some(self.scarce)));
    }

    /// Looks at every socket.
    pub(super) fn poll(&mut self, now: Nanos, sockets: &[Socket]) {
        for (place, socket) in sockets.iter().enumerate() {
            let drained = |since: Nanos| socket.queue.is_empty() || socket.empty_t >= since;
            let watch = &mut self.sockets[place];
            let stands = socket.head_age(now).is_some_and(|age| age >= STANDS);
            let mut over = None;
            if let Some(&(from, to)) = watch.excess.get(watch.place).filter(|span| span.0 <= now) {
                watch.stood |= stands;
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
            if let Some((from, to)) = over {
                self.found(Kind::Load, from, to);
            }
            if let Some(since) = goes_on {
                self.found(Kind::Stopped, since, now);
            }
        }
    }

    /// All overloads, once the run is over.
    pub(super) fn finish(&mut self, now: Nanos) -> Vec<Overload> {
        for watch in std::mem::take(&mut self.sockets) {
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
    /// One from here to there, of which no drop is known yet.
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
    /// One now; told in order of time.
    pub fn note(&mut self, now: Nanos) {
        // One a millisecond says when the first was.
        if self.all.last().is_none_or(|last| now - last >= 1_000_000) {
            self.all.push(now);
        }
        if self.moments.last().is_none_or(|last| now - last >= nanos(DROPS_APART_SECS)) {
            self.moments.push(now);
        }
    }
}

/// Overloads of each kind, and those that drops are by recurring, in order of time: those near each
/// other as one, each with its first drop.
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

/// To a millisecond.
fn rounded(secs: f64) -> f64 {
    (secs * 1e3).round() / 1e3
}
