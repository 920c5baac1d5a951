//! The agent's observations of a simulated address: the facts of its own sensors, at their pace.
//!
//! Readings come slightly late, as timers do. If accept() can be tracked, waits are exact.
//! Otherwise a socket alone on its address is known to have accepted the arrivals that no longer
//! wait; of several sockets that is unknown for each. Counters are 32 bits wide, like the kernel's,
//! and wrap.

use std::{collections::VecDeque, sync::Arc};

use spillway_agent::{
    engine::HostInfo,
    sense::{
        Fact, HostFact, ListenerFact, Observation, ProcessId, ProcessResourcesFact,
        ServicePressureFact,
    },
};

use super::{
    plan::{Accepts, Looks, Scarce},
    sim::Sim,
    socket::{Nanos, SECOND, nanos},
    truth::Overload,
};
use crate::corpus::rng::Rng;

/// Maximum delay of every timer.
const TIMER_SECS: f64 = 0.001;

/// Age of the queue's head from which the agent asks what the service is short of.
const STRAIN_FROM: Nanos = 1_000_000;

/// Share of readings that find the head of a queue just being accepted.
const MOVING_SHARE: f64 = 0.002;

const HANDLES_SECS: f64 = 10.0;

/// Observations of a run in order of time.
pub(super) struct Seen {
    sim: Sim,
    host: HostInfo,
    rng: Rng,
    addr: Arc<str>,
    cgroup: Arc<str>,
    pid: u32,
    readings: u64,
    t: Nanos,
    /// Counters at the last reading, by socket.
    last: Vec<Last>,
    /// Arrivals at closed sockets since listening began without a break, and arrivals before the
    /// agent started.
    arrived_before: u64,
    ready: VecDeque<Observation>,
    overloads: Option<Vec<Overload>>,
}

#[derive(Clone, Default)]
struct Last {
    t: Nanos,
    busy_total: u64,
    retransmits: u64,
    refused: u64,
    was_open: bool,
}

impl Seen {
    pub(super) fn new(sim: Sim, host: HostInfo, mut rng: Rng) -> Self {
        let name = rng.pick(&["api", "shop", "search", "mail", "orders"]);
        let port = rng.pick(&[80, 443, 3_000, 5_432, 8_080, 9_000]);
        Self {
            host,
            addr: if rng.chance(0.5) { format!("0.0.0.0:{port}") } else { format!("[::]:{port}") }
                .into(),
            cgroup: format!("/system.slice/{name}.service").into(),
            pid: 700 + rng.below(9_000) as u32,
            readings: 0,
            t: 0,
            last: vec![Last::default(); sim.sockets.len()],
            arrived_before: sim.plan.counted_before,
            ready: VecDeque::new(),
            overloads: None,
            sim,
            rng,
        }
    }

    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    pub(super) fn host(&self) -> HostInfo {
        self.host
    }

    /// Overloads of the run; empty before its end.
    pub(super) fn overloads(&self) -> &[Overload] {
        self.overloads.as_deref().unwrap_or_default()
    }

    /// Times of the run in which a claim is neither right nor wrong; complete after its end.
    pub(super) fn tolerated(&self) -> Vec<(f64, f64)> {
        self.sim.truth.tolerated()
    }

    pub(super) fn sim(&self) -> &Sim {
        &self.sim
    }

    /// Makes the next reading; returns false at the end of the run.
    fn read_next(&mut self) -> bool {
        let Looks { interval_secs, late, ref gaps, .. } = self.sim.plan.looks;
        let due = self.readings as f64 * interval_secs;
        self.readings += 1;
        if due > self.sim.plan.secs {
            self.end();
            return false;
        }
        let extra = if self.rng.chance(late.0) { self.rng.range(0.0, late.1) } else { 0.0 };
        let t = due + self.rng.range(0.05, 1.0) * TIMER_SECS + extra;
        if gaps.iter().any(|gap| (gap.0..gap.1).contains(&due)) || nanos(t) <= self.t {
            return true;
        }
        let before = self.t;
        self.t = nanos(t);
        self.sim.advance(self.t);
        let now = self.t;
        let crossed = |secs: f64| before == 0 || (now / nanos(secs)) > (before / nanos(secs));
        if crossed(1.0) {
            let host = self.host_fact();
            self.push(Fact::Host(host));
        }
        if self.sim.plan.keepalives > 0 && crossed(HANDLES_SECS) {
            let id = ProcessId { pid: self.pid, start_ticks: 4_711 };
            let fds = self.sim.plan.keepalives + 24;
            let handles = ProcessResourcesFact {
                id,
                fds,
                fds_max: Some(1 << 19),
                threads: 5,
                close_wait: Some(0),
            };
            self.push(Fact::Handles(handles));
        }
        for place in 0..self.sim.sockets.len() {
            self.socket(place);
        }
        true
    }

    fn push(&mut self, fact: Fact) {
        self.ready.push_back(Observation { t: self.t as f64 / SECOND, fact });
    }

    fn host_fact(&self) -> HostFact {
        let psi = self.stalls(Scarce::Memory).unwrap_or(0.0);
        HostFact {
            mem_available_bytes: self.host.mem_total_bytes / 2,
            psi_memory_some_avg10: Some((psi * 0.8).round()),
        }
    }

    /// Arrivals at all sockets since listening began without a break.
    fn arrived(&self) -> u64 {
        let open = self
            .sim
            .sockets
            .iter()
            .filter(|socket| socket.open)
            .map(|socket| socket.counts.arrived);
        self.arrived_before.wrapping_add(open.sum())
    }

    fn socket(&mut self, place: usize) {
        let (now, open) = (self.t, self.sim.sockets[place].open);
        if !open {
            if std::mem::take(&mut self.last[place].was_open) {
                self.arrived_before =
                    self.arrived_before.wrapping_add(self.sim.sockets[place].counts.arrived);
                if self.sim.sockets.iter().all(|socket| !socket.open) {
                    self.arrived_before = 0;
                }
            }
            return;
        }
        let sockets = self.sim.sockets.iter().filter(|socket| socket.open).count();
        let arrived = self.arrived();
        let began =
            if self.sim.sockets[place].plan.opens > 0.0 { 0 } else { self.sim.plan.counted_before };
        let narrow = |count: u64| u64::from(count as u32);
        let strain = self.strain(place);
        let moved = self.rng.chance(MOVING_SHARE);
        let exact = self.sim.plan.looks.exact;
        let socket = &mut self.sim.sockets[place];
        let backlog = socket.queue.len() as u32;
        let moving = moved && !socket.waits_us.is_empty();
        let waits = exact.then(|| waits(&mut socket.waits_us)).flatten();
        socket.waits_us.clear();
        let accepted_total = match (exact, sockets) {
            (true, _) => Some(narrow(began.wrapping_add(socket.counts.accepted))),
            (false, 1) => Some(narrow(arrived.wrapping_sub(u64::from(backlog)))),
            (false, _) => None,
        };
        let oldest_wait_us =
            socket.head_age(now).map_or(Some(0), |age| (!moving).then_some(age / 1_000));
        let fact = ListenerFact {
            netns: 4_026_531_840,
            addr: self.addr.clone(),
            socket: 0x5000 + 0x80 * (place as u64 + 1),
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid + place as u32),
            backlog,
            backlog_max: self.sim.plan.backlog_max,
            accepted_total,
            arrived_total: Some(narrow(arrived)),
            found_empty_us: socket
                .found_empty
                .filter(|_| sockets == 1)
                .map(|then| (now - then) / 1_000),
            overflows_total: Some(narrow(began.wrapping_add(socket.counts.dropped))),
            sojourn_min_us: waits.map(|waits| waits.0),
            sojourn_mean_us: waits.map(|waits| waits.1),
            sojourn_p99_us: waits.map(|waits| waits.2),
            oldest_wait_us,
            strain,
            ..ListenerFact::default()
        };
        self.push(Fact::Listener(Box::new(fact)));
    }

    /// Pressure on the service behind a socket since the last reading; `None` if hardly anything
    /// waits.
    fn strain(&mut self, place: usize) -> Option<ServicePressureFact> {
        let (now, runs_share) = (self.t, self.sim.plan.runs_share);
        let socket = &mut self.sim.sockets[place];
        socket.account(now);
        let latest = Last {
            t: now,
            busy_total: socket.busy_total,
            retransmits: self.sim.retransmits_total,
            refused: self.sim.refused_total,
            was_open: true,
        };
        let last = std::mem::replace(&mut self.last[place], latest.clone());
        let waits = socket.head_age(now).is_some_and(|age| age >= STRAIN_FROM);
        let nanos = (now - last.t.max(nanos(socket.plan.opens))).max(1) as f64;
        let busy = match socket.plan.accepts {
            // A service that hangs while its thread runs spins in a loop.
            _ if socket.stopped.is_some() => 1.0,
            Accepts::Workers(_) => {
                (latest.busy_total - last.busy_total) as f64 / nanos / f64::from(socket.workers())
            }
            Accepts::Turns { .. } => 1.0,
        };
        if !waits {
            return None;
        }
        let (cpu, memory) = (self.stalls(Scarce::Cpu), self.stalls(Scarce::Memory));
        // A stalled service does not run.
        let runs = busy.min(1.0) * runs_share * (1.0 - cpu.or(memory).unwrap_or(0.0) / 100.0);
        let mut blur =
            |percent: f64, by: f64| (percent + by * self.rng.unit()).clamp(0.0, 100.0).round();
        Some(ServicePressureFact {
            secs: nanos / SECOND,
            psi_cpu_some_percent: Some(blur(cpu.unwrap_or(0.0), 5.0)),
            psi_memory_some_percent: Some(blur(memory.unwrap_or(0.0), 1.0)),
            busiest_thread_percent: Some(blur(100.0 * runs, 3.0)),
            thread_waits_percent: Some(blur(cpu.unwrap_or(0.0), 3.0)),
            retransmits: Some(latest.retransmits - last.retransmits),
            refused: Some(latest.refused - last.refused),
        })
    }

    /// Percentage of time in which the first service waits for the scarce resource; `None` if it is
    /// another one.
    fn stalls(&self, scarce: Scarce) -> Option<f64> {
        let socket = self.sim.plan.sockets.first().filter(|_| self.sim.plan.scarce == scarce)?;
        let t = self.t as f64 / SECOND;
        Some(100.0 * (1.0 - socket.quota.at(t) / socket.slow.at(t)))
    }

    fn end(&mut self) {
        if self.overloads.is_none() {
            let end = nanos(self.sim.plan.secs);
            self.sim.advance(end.max(self.t));
            self.overloads = Some(self.sim.truth.finish(end));
        }
    }
}

/// Minimum, mean and 99th percentile.
fn waits(waits_us: &mut [u32]) -> Option<(u64, u64, u64)> {
    let count = waits_us.len();
    let least = *waits_us.iter().min()?;
    let mean = waits_us.iter().map(|wait| u64::from(*wait)).sum::<u64>() / count as u64;
    let (_, p99, _) = waits_us.select_nth_unstable(count - count / 100 - 1);
    Some((u64::from(least), mean, u64::from(*p99)))
}

impl Iterator for Seen {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        loop {
            if let Some(observation) = self.ready.pop_front() {
                return Some(observation);
            }
            if self.overloads.is_some() || !self.read_next() {
                return None;
            }
        }
    }
}
