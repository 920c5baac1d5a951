//! A ramp from an event loop's full capacity to overload, as the live tests load nginx: the agent's
//! observations of it, and a queue depth sampled every two milliseconds.

use spillway_agent::{engine::HostInfo, sense::Observation};

use super::{
    line::Line,
    looks::Seen,
    plan::{Accepts, Looks, Plan, Scarce, Service, Shape, Socket, Source, Spacing},
    sim::Sim,
    socket::nanos,
};
use crate::corpus::rng::Rng;

/// Duration of the idle time at the start, and of the ramp.
const IDLE_SECS: f64 = 1.0;
const RAMP_SECS: f64 = 4.0;

/// Sample of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// Time in seconds.
    pub t: f64,
    /// Waiting connections.
    pub depth: u64,
    /// Connections that arrived so far.
    pub arrived: u64,
    /// Connections dropped so far for lack of room.
    pub overflows: u64,
}

/// Server of a fixed capacity under a load that grows linearly.
#[derive(Debug, Clone, Copy)]
pub struct Ramp {
    /// Capacity in connections per second.
    pub capacity_per_sec: f64,
    /// Load at the start and end of the ramp, as shares of the capacity.
    pub load: [f64; 2],
    /// Limit on waiting connections.
    pub backlog_max: u32,
    /// Share by which the server's speed fluctuates within fractions of a second, as that of a
    /// virtual CPU does.
    pub sways: f64,
    /// Seed of all randomness.
    pub seed: u64,
}

impl Ramp {
    /// Simulation of the loaded address.
    fn sim(self) -> Sim {
        let rate = self.load.map(|load| load * self.capacity_per_sec);
        let end = IDLE_SECS + RAMP_SECS;
        let rate = Line::through(vec![(IDLE_SECS, 0.0), (IDLE_SECS, rate[0]), (end, rate[1])]);
        let service =
            Service { mean_secs: 1.0 / self.capacity_per_sec, shape: Shape::LogNormal(0.2) };
        let mut socket = Socket::new(Accepts::Workers(1), service);
        let (mut rng, mut points) = (Rng::new("ramp's machine", self.seed), Vec::new());
        let mut t = 0.0;
        while t < end + 10.0 {
            points.push((t, 1.0 + self.sways * rng.range(-1.0, 1.0)));
            t += rng.range(0.2, 0.6);
        }
        socket.slow = Line::through(points);
        let plan = Plan {
            secs: end + 4.0,
            backlog_max: self.backlog_max,
            sources: vec![Source {
                rate,
                spacing: Spacing::Poisson,
                clump: [1, 1],
                spread_secs: 0.0,
            }],
            bursts: Vec::new(),
            loops: Vec::new(),
            patience_secs: None,
            sockets: vec![socket],
            scarce: Scarce::Cpu,
            runs_share: 1.0,
            // As on hosts where accept() cannot be tracked.
            looks: Looks { interval_secs: 0.1, late: (0.01, 0.03), gaps: Vec::new(), exact: false },
            counted_before: 0,
            keepalives: 0,
        };
        Sim::new(plan, Rng::new("ramp", self.seed))
    }

    /// The agent's observations, ten times a second.
    pub fn observations(self, host: HostInfo) -> impl Iterator<Item = Observation> {
        Seen::new(self.sim(), host, Rng::new("ramp's looks", self.seed))
    }

    /// Samples every two milliseconds.
    pub fn ticks(self) -> Vec<Tick> {
        let mut sim = self.sim();
        let ticks = (sim.plan.secs / 0.002) as u32;
        let tick = |n: u32| {
            let t = f64::from(n) * 0.002;
            sim.advance(nanos(t));
            let socket = &sim.sockets[0];
            let (arrived, overflows) = (socket.counts.arrived, socket.counts.dropped);
            Tick { t, depth: socket.queue.len() as u64, arrived, overflows }
        };
        (0..ticks).map(tick).collect()
    }
}
