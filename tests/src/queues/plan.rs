//! What a family says about one run: who connects, who accepts, and how the agent looks.
//!
//! Times are seconds on the run's clock, rates connections a second. Nothing here says what is an
//! overload: that follows from it.

use serde::{Deserialize, Serialize};

use super::line::Line;
use crate::corpus::rng::Rng;

/// One listener address and everything around it.
pub(super) struct Plan {
    pub(super) secs: f64,
    /// The limit of each accept queue.
    pub(super) backlog_max: u32,
    pub(super) sources: Vec<Source>,
    pub(super) bursts: Vec<Burst>,
    pub(super) loops: Vec<Loop>,
    /// Seconds after which clients of the sources that have no answer give up and connect anew, at
    /// once.
    pub(super) patience_secs: Option<f64>,
    /// One socket each; those open at the same time share the address (SO_REUSEPORT).
    pub(super) sockets: Vec<Socket>,
    /// What an overload of this run is short of.
    pub(super) scarce: Scarce,
    /// Share of the time of a service in which its thread runs.
    pub(super) runs_share: f64,
    pub(super) looks: Looks,
    /// Where the kernel's counters of drops, and the counts of arrivals, begin.
    pub(super) counted_before: u64,
    /// Connections that are open all along without a word.
    pub(super) keepalives: u64,
}

/// What a service runs short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scarce {
    /// Time on a CPU.
    Cpu,
    /// Memory: it stalls on reclaim or swap.
    Memory,
    /// Turns of the one thread that accepts.
    AcceptLoop,
    /// Room in the accept queue.
    Backlog,
    /// Free workers.
    Workers,
    /// Answers of another service.
    Dependency,
}

/// Clients that do not know of each other.
pub(super) struct Source {
    /// Connections a second, clumps counted in full.
    pub(super) rate: Line,
    pub(super) spacing: Spacing,
    /// Fewest and most connections that come together...
    pub(super) clump: [u32; 2],
    /// ...within so long.
    pub(super) spread_secs: f64,
}

#[derive(Clone, Copy)]
pub(super) enum Spacing {
    Poisson,
    /// As paced by a balancer; each gap is off by up to this share.
    Regular(f64),
}

/// So many connections at once.
#[derive(Clone, Copy)]
pub(super) struct Burst {
    pub(super) t: f64,
    pub(super) count: u32,
    pub(super) spread_secs: f64,
}

/// Clients that each wait for an answer, think, and connect again.
pub(super) struct Loop {
    pub(super) clients: u32,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Mean of an exponential distribution; 0 for clients that never rest.
    pub(super) think_secs: f64,
}

/// One listening socket and the process behind it.
#[derive(Clone)]
pub(super) struct Socket {
    pub(super) opens: f64,
    pub(super) closes: f64,
    pub(super) accepts: Accepts,
    pub(super) service: Service,
    /// By how much service takes longer than that.
    pub(super) slow: Line,
    /// Share of each tenth of a second in which its cgroup may run (CFS quota).
    pub(super) quota: Line,
    /// Spans in which nothing runs, in order: collections, or for good.
    pub(super) pauses: Vec<(f64, f64)>,
    /// From when on one more worker never comes back from what it serves, in order.
    pub(super) lost_workers: Vec<f64>,
}

#[derive(Clone, Copy)]
pub(super) enum Accepts {
    /// Workers that take one connection each, serve it, and come back. An event loop is one worker.
    Workers(u32),
    /// Whoever waits is accepted at the turn of a loop, at most so many; turns are so many seconds
    /// apart.
    Turns { secs: [f64; 2], most: u32 },
}

#[derive(Clone, Copy)]
pub(super) struct Service {
    pub(super) mean_secs: f64,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy)]
pub(super) enum Shape {
    Fixed,
    Exponential,
    /// With this standard deviation of the logarithm.
    LogNormal(f64),
}

/// How the agent looks.
pub(super) struct Looks {
    pub(super) interval_secs: f64,
    /// Share of looks that come late, and by how much at most.
    pub(super) late: (f64, f64),
    /// Spans without any look.
    pub(super) gaps: Vec<(f64, f64)>,
    /// Whether accept() can be followed.
    pub(super) exact: bool,
}

impl Source {
    /// When the next clump comes, after `t`.
    pub(super) fn next(&self, t: f64, rng: &mut Rng) -> Option<f64> {
        let share = match self.spacing {
            Spacing::Poisson => rng.exponential(),
            Spacing::Regular(off) => rng.range(1.0 - off, 1.0 + off),
        };
        self.rate
            .filled(t, share * f64::midpoint(f64::from(self.clump[0]), f64::from(self.clump[1])))
    }
}

impl Service {
    pub(super) fn draw(&self, rng: &mut Rng) -> f64 {
        self.mean_secs
            * match self.shape {
                Shape::Fixed => 1.0,
                Shape::Exponential => rng.exponential(),
                Shape::LogNormal(sigma) => libm::exp(sigma * rng.normal() - sigma * sigma / 2.0),
            }
    }
}

/// A pause that lasts so long is no collection: the acceptor has stopped.
pub(super) const STOP_SECS: f64 = 1.0;

impl Socket {
    pub(super) fn new(accepts: Accepts, service: Service) -> Self {
        Self {
            opens: 0.0,
            closes: f64::INFINITY,
            accepts,
            service,
            slow: Line::flat(1.0),
            quota: Line::flat(1.0),
            pauses: Vec::new(),
            lost_workers: Vec::new(),
        }
    }

    /// Connections a second that it can take at `t`, as a mean over its collections; 0 while it has
    /// stopped.
    pub(super) fn capacity(&self, t: f64) -> f64 {
        let stops = |pause: &&(f64, f64)| pause.1 - pause.0 >= STOP_SECS;
        if self.pauses.iter().filter(stops).any(|pause| (pause.0..pause.1).contains(&t)) {
            return 0.0;
        }
        let lived =
            |pauses: &[(f64, f64)]| pauses.last().map_or(0.0, |last| last.1 - self.opens.max(0.0));
        let short: Vec<_> = self.pauses.iter().filter(|pause| !stops(pause)).copied().collect();
        let paused: f64 = short.iter().map(|pause| pause.1 - pause.0).sum();
        let awake = if short.is_empty() { 1.0 } else { 1.0 - paused / lived(&short) };
        awake
            * match self.accepts {
                Accepts::Workers(workers) => {
                    let lost = self.lost_workers.partition_point(|lost| *lost <= t);
                    let left = (workers as usize).saturating_sub(lost) as f64;
                    left / (self.service.mean_secs * self.slow.at(t)) * self.quota.at(t)
                }
                Accepts::Turns { secs, most } => f64::from(most) / f64::midpoint(secs[0], secs[1]),
            }
    }

    fn is_open(&self, t: f64) -> bool {
        self.opens <= t && t < self.closes
    }
}

impl Plan {
    /// Connections a second that one open socket is offered at `t`, bursts aside.
    pub(super) fn offered(&self, t: f64) -> f64 {
        let open = self.sockets.iter().filter(|socket| socket.is_open(t)).count().max(1);
        let service = &self.sockets[0];
        let served_secs = service.service.mean_secs * service.slow.at(t);
        let loops = self.loops.iter().filter(|one| (one.from..one.to).contains(&t));
        let looped: f64 =
            loops.map(|one| f64::from(one.clients) / (one.think_secs + served_secs)).sum();
        (self.sources.iter().map(|source| source.rate.at(t)).sum::<f64>() + looped) / open as f64
    }

    /// Spans in which a socket that has not stopped is offered more than it can take.
    pub(super) fn excess(&self, socket: &Socket) -> Vec<(f64, f64)> {
        let exceeds = |t: f64| {
            let capacity = socket.capacity(t);
            socket.is_open(t) && capacity > 0.0 && self.offered(t) > capacity
        };
        let mut breaks: Vec<f64> = [0.0, self.secs, socket.opens, socket.closes].into();
        self.sources.iter().for_each(|source| breaks.extend(source.rate.breaks()));
        self.loops.iter().for_each(|one| breaks.extend([one.from, one.to]));
        breaks.extend(self.sockets.iter().flat_map(|other| [other.opens, other.closes]));
        breaks.extend(socket.slow.breaks().chain(socket.quota.breaks()));
        breaks.extend(
            socket.pauses.iter().filter(|p| p.1 - p.0 >= STOP_SECS).flat_map(|p| [p.0, p.1]),
        );
        breaks.extend(&socket.lost_workers);
        breaks.retain(|t| (0.0..=self.secs).contains(t));
        breaks.sort_by(f64::total_cmp);
        breaks.dedup();
        let mut spans: Vec<(f64, f64)> = Vec::new();
        for piece in breaks.windows(2) {
            // Between two breaks both sides are smooth: a few looks find where they cross.
            let (mut from, step) = (piece[0], (piece[1] - piece[0]) / PIECES);
            let mut was = exceeds(from);
            for look in 1..=PIECES as u32 {
                let to = (piece[0] + f64::from(look) * step).min(piece[1].next_down());
                let is = exceeds(to);
                let crossing = if was == is { to } else { cross(&exceeds, from, to) };
                let span = if was { (from, crossing) } else { (crossing, to) };
                if (was || is) && span.1 > span.0 {
                    match spans.last_mut().filter(|last| span.0 - last.1 < 1e-6) {
                        Some(last) => last.1 = span.1,
                        None => spans.push(span),
                    }
                }
                (from, was) = (to, is);
            }
        }
        spans.retain(|span| span.1 - span.0 >= EXCESS_SECS_MIN);
        spans
    }
}

/// Looks between two breaks.
const PIECES: f64 = 16.0;

/// Shorter excess is a burst.
const EXCESS_SECS_MIN: f64 = 1.0;

/// Where a condition changes between two times, to a microsecond or so.
fn cross(holds: &dyn Fn(f64) -> bool, mut from: f64, mut to: f64) -> f64 {
    let was = holds(from);
    for _ in 0..32 {
        let middle = f64::midpoint(from, to);
        if holds(middle) == was { from = middle } else { to = middle }
    }
    to
}
