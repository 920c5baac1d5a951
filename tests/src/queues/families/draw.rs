//! Random draws for families: servers of every speed, sufficient limits, and the agent's readings.

use super::super::{
    line::Line,
    plan::{Accepts, Looks, Plan, Scarce, Service, Shape, Socket, Source, Spacing},
};
use crate::corpus::rng::Rng;

/// Connections per second: from a serial server that takes 50 ms each to one that does almost no
/// work.
const CAPACITIES: [f64; 7] = [20.0, 20.0, 200.0, 200.0, 1_000.0, 1_000.0, 20_000.0];

/// Usual limits of servers: 1 and 5 (Python's `http.server`), 16, 128 (the old `SOMAXCONN`), 511
/// (nginx, node, redis), 4096 (Go).
const BACKLOGS: [u32; 6] = [1, 5, 16, 128, 511, 4_096];

/// Limit on simulated connections in a run, and the minimum length of a healthy one regardless.
const CONNECTIONS: f64 = 300_000.0;
const HEALTHY_SECS: [f64; 2] = [60.0, 5_400.0];

/// Probability that a healthy run overflows by chance alone.
const OVERFLOWS: f64 = 1e-4;

/// Server of some speed.
#[derive(Clone, Copy)]
pub(super) struct Server {
    /// Connections per second.
    pub(super) capacity: f64,
    pub(super) workers: u32,
    pub(super) shape: Shape,
}

impl Server {
    pub(super) fn new(rng: &mut Rng, workers: u32, shape: Shape) -> Self {
        Self { capacity: rng.pick(&CAPACITIES), workers, shape }
    }

    /// Single thread that does everything.
    pub(super) fn event_loop(rng: &mut Rng) -> Self {
        let shape = rng.pick(&[Shape::Exponential, Shape::LogNormal(0.5), Shape::Fixed]);
        Self::new(rng, 1, shape)
    }

    /// Pool of workers; a slow one has few, so that no service takes longer than half a second.
    pub(super) fn pool(rng: &mut Rng) -> Self {
        let shape = rng.pick(&[Shape::Exponential, Shape::LogNormal(0.5), Shape::LogNormal(1.0)]);
        let mut server = Self::new(rng, 1, shape);
        let most = (server.capacity / 2.0).min(32.0);
        server.workers = rng.log_range(2.0, most + 1.0) as u32;
        server
    }

    pub(super) fn of(mut self, capacity: f64) -> Self {
        self.capacity = capacity;
        self
    }

    pub(super) fn socket(&self) -> Socket {
        let service =
            Service { mean_secs: f64::from(self.workers) / self.capacity, shape: self.shape };
        Socket::new(Accepts::Workers(self.workers), service)
    }

    /// Depth that the queue may reach by chance alone at this load, over this time and with
    /// connections in clumps.
    pub(super) fn depth(&self, load: f64, secs: f64, clump: f64) -> f64 {
        let spread = match self.shape {
            Shape::Fixed | Shape::Exponential => 1.0,
            Shape::LogNormal(sigma) => f64::midpoint(1.0, libm::exp(sigma * sigma)).max(1.0),
        };
        let times = self.capacity * load * secs / OVERFLOWS;
        (libm::log(times) / -libm::log(load)) * spread * clump + clump
    }
}

/// Limit that holds `holds` connections: the smallest such one or any larger.
pub(super) fn backlog(rng: &mut Rng, holds: f64) -> u32 {
    let fits: Vec<u32> =
        BACKLOGS.iter().copied().filter(|limit| f64::from(*limit) >= holds).collect();
    if fits.is_empty() { 4_096 } else { rng.pick(&fits) }
}

/// Length of a healthy run at this rate.
pub(super) fn healthy_secs(rate: f64) -> f64 {
    (CONNECTIONS / rate).clamp(HEALTHY_SECS[0], HEALTHY_SECS[1]).floor()
}

/// Single connections at random times.
pub(super) fn poisson(rate: Line) -> Source {
    Source { rate, spacing: Spacing::Poisson, clump: [1, 1], spread_secs: 0.0 }
}

/// Single connections, evenly spaced within a tenth.
pub(super) fn regular(rate: Line) -> Source {
    Source { rate, spacing: Spacing::Regular(0.1), clump: [1, 1], spread_secs: 0.0 }
}

/// Readings as the agent makes them: usually every tenth of a second, and with exact waits in half
/// of the runs.
pub(super) fn looks(rng: &mut Rng) -> Looks {
    let interval_secs = rng.pick(&[0.1, 0.1, 0.1, 0.2]);
    Looks { interval_secs, late: (0.01, 0.03), gaps: Vec::new(), exact: rng.chance(0.5) }
}

/// Plan of one socket with one source.
pub(super) fn plan(
    rng: &mut Rng,
    socket: Socket,
    source: Source,
    secs: f64,
    backlog_max: u32,
) -> Plan {
    let looks = looks(rng);
    // In every fourth run the kernel's counters are about to wrap.
    let counted_before =
        if rng.chance(0.25) { (1 << 32) - 1 - rng.below(2_000) } else { rng.below(1 << 20) };
    Plan {
        secs,
        backlog_max,
        sources: vec![source],
        bursts: Vec::new(),
        loops: Vec::new(),
        patience_secs: None,
        scarce: if matches!(socket.accepts, Accepts::Workers(2..)) {
            Scarce::Workers
        } else {
            Scarce::Cpu
        },
        runs_share: if matches!(socket.accepts, Accepts::Workers(2..)) { 0.3 } else { 1.0 },
        sockets: vec![socket],
        looks,
        counted_before,
        keepalives: 0,
    }
}

/// Consecutive pauses until `secs`, given their length and the interval between their beginnings.
pub(super) fn pauses(
    rng: &mut Rng,
    secs: f64,
    lasts: [f64; 2],
    apart: [f64; 2],
) -> Vec<(f64, f64)> {
    let (mut t, mut pauses) = (rng.range(0.0, apart[1]), Vec::new());
    while t < secs {
        pauses.push((t, t + rng.range(lasts[0], lasts[1])));
        t += rng.range(apart[0], apart[1]);
    }
    pauses
}
