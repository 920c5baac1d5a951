//! Definition of one run by its family: clients, acceptors, and readings by the agent.
//!
//! Times are seconds on the run's clock, rates are connections per second. Overloads are not
//! defined here: they follow from it.

use serde::{Deserialize, Serialize};

use super::line::Line;
use crate::corpus::rng::Rng;

/// Listener address with its clients and servers.
pub(super) struct Plan {
    pub(super) secs: f64,
    /// Limit of each accept queue.
    pub(super) backlog_max: u32,
    pub(super) sources: Vec<Source>,
    pub(super) bursts: Vec<Burst>,
    pub(super) loops: Vec<Loop>,
    /// Seconds after which clients of sources give up without a response and reconnect at once.
    pub(super) patience_secs: Option<f64>,
    /// Sockets; those open at the same time share the address (SO_REUSEPORT).
    pub(super) sockets: Vec<Socket>,
    /// Resource that is scarce in an overload of this run.
    pub(super) scarce: Scarce,
    /// Share of its service time in which a service's thread runs.
    pub(super) runs_share: f64,
    pub(super) looks: Looks,
    /// Start value of the kernel's counters of drops and of the counts of arrivals.
    pub(super) counted_before: u64,
    /// Idle connections that are open throughout.
    pub(super) keepalives: u64,
}

/// Resource that a service runs short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scarce {
    /// CPU time.
    Cpu,
    /// Memory: it stalls on reclaim or swap.
    Memory,
    /// Turns of the only thread that accepts.
    AcceptLoop,
    /// Room in the accept queue.
    Backlog,
    /// Free workers.
    Workers,
    /// Answers of another service.
    Dependency,
}

/// Independent clients.
pub(super) struct Source {
    /// Connections per second, counting each connection of a clump.
    pub(super) rate: Line,
    pub(super) spacing: Spacing,
    /// Minimum and maximum number of connections that arrive together...
    pub(super) clump: [u32; 2],
    /// ...within this time.
    pub(super) spread_secs: f64,
}

#[derive(Clone, Copy)]
pub(super) enum Spacing {
    Poisson,
    /// Evenly spaced by a balancer, with jitter of up to this share of a gap.
    Regular(f64),
}

/// Many connections at once.
#[derive(Clone, Copy)]
pub(super) struct Burst {
    pub(super) t: f64,
    pub(super) count: u32,
    pub(super) spread_secs: f64,
}

/// Clients that each wait for a response, think, and reconnect.
pub(super) struct Loop {
    pub(super) clients: u32,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Mean of an exponential distribution; 0 for clients that never pause.
    pub(super) think_secs: f64,
}

/// Listening socket and the process behind it.
#[derive(Clone)]
pub(super) struct Socket {
    pub(super) opens: f64,
    pub(super) closes: f64,
    pub(super) accepts: Accepts,
    pub(super) service: Service,
    /// Factor by which service is slowed down.
    pub(super) slow: Line,
    /// Share of each tenth of a second in which its cgroup may run (CFS quota).
    pub(super) quota: Line,
    /// Spans in which nothing runs, in order: collections, or a permanent stop.
    pub(super) pauses: Vec<(f64, f64)>,
    /// Times from which one more worker never returns from its current connection, in order.
    pub(super) lost_workers: Vec<f64>,
}

#[derive(Clone, Copy)]
pub(super) enum Accepts {
    /// Workers that accept one connection each, serve it and return. An event loop is one worker.
    Workers(u32),
    /// Accept loop that takes at most `most` waiting connections per turn; `secs` is the range of
    /// the interval between turns.
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
    /// Log-normal, with this standard deviation of the logarithm.
    LogNormal(f64),
}

/// Timing of the agent's readings.
pub(super) struct Looks {
    pub(super) interval_secs: f64,
    /// Share of late readings and their maximum delay.
    pub(super) late: (f64, f64),
    /// Spans without any reading.
    pub(super) gaps: Vec<(f64, f64)>,
    /// True if accept() can be tracked.
    pub(super) exact: bool,
}

impl Source {
    /// Time of the next clump after `t`.
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

/// Minimum length of a pause that counts as a stopped acceptor and not as a collection.
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

    /// Capacity in connections per second at `t`, averaged over its collections; 0 while it is
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
    /// Connections per second offered to one open socket at `t`, without bursts.
    pub(super) fn offered(&self, t: f64) -> f64 {
        let open = self.sockets.iter().filter(|socket| socket.is_open(t)).count().max(1);
        let service = &self.sockets[0];
        let served_secs = service.service.mean_secs * service.slow.at(t);
        let loops = self.loops.iter().filter(|one| (one.from..one.to).contains(&t));
        let looped: f64 =
            loops.map(|one| f64::from(one.clients) / (one.think_secs + served_secs)).sum();
        (self.sources.iter().map(|source| source.rate.at(t)).sum::<f64>() + looped) / open as f64
    }

    /// Spans in which a socket that has not stopped is offered more than its capacity.
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
            // Both sides are smooth between two breaks: a few samples find where they cross.
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

/// Samples between two breaks.
const PIECES: f64 = 16.0;

/// Minimum length of an excess; a shorter one is a burst.
const EXCESS_SECS_MIN: f64 = 1.0;

/// Time between two others at which a condition changes, to about a microsecond.
fn cross(holds: &dyn Fn(f64) -> bool, mut from: f64, mut to: f64) -> f64 {
    let was = holds(from);
    for _ in 0..32 {
        let middle = f64::midpoint(from, to);
        if holds(middle) == was { from = middle } else { to = middle }
    }
    to
}
