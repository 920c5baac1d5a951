//! Virtual host: a service with an accept queue, and the memory of two processes.
//!
//! The queue is a fluid: requests are amounts, not individuals. A host serves so many a second;
//! one that waits for longer than its client's patience is served in vain.

use spillway_agent::sense::ProcessId;

use super::scenarios::Scenario;
use crate::corpus::rng::unit_at;

/// Servers of a host, each of which keeps one CPU busy.
pub const SERVERS: f64 = 8.0;

/// Processor time of a request, in seconds.
pub const SERVICE_SECS: f64 = 0.05;

/// Requests that a host serves in a second.
pub const CAPACITY: f64 = SERVERS / SERVICE_SECS;

/// Patience of clients, in seconds.
pub const TIMEOUT_SECS: f64 = 2.0;

/// Length of the accept queue: nginx's default.
pub const QUEUE_MAX: u32 = 511;

/// Wait in the queue above which a host is overloaded, in seconds.
pub const OVERLOADED_SECS: f64 = 1.0;

/// Memory of a host, of its kernel, of a request in progress, and at the start of both processes.
pub const MEMORY: f64 = 16.0 * GIB;
const KERNEL: f64 = 1.0 * GIB;
const REQUEST: f64 = 0.5 * MIB;
const SERVICE: f64 = 5.0 * GIB;
const COLLECTOR: f64 = 96.0 * MIB;
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_024.0 * MIB;

/// Share of the service's memory that follows its load, and that its caches fill up to, in so many
/// seconds.
const WITH_LOAD: f64 = 0.1;
const CACHES: f64 = 0.3;
const CACHES_SECS: f64 = 2_400.0;

/// Memory left below which reclaim halves what the host can do, and below which it dies.
const SLOW: f64 = 0.03 * MEMORY;
const DEAD: f64 = 0.004 * MEMORY;

/// Process that leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaker {
    /// Agent that ships logs or figures, beside the service.
    Collector,
    /// Service that answers requests.
    Service,
}

/// Results of the requests that reach a host in a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Handled {
    /// Answered in time.
    pub served: f64,
    /// Refused at once.
    pub refused: f64,
    /// Given up by the client.
    pub late: f64,
}

/// Process of a host.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub id: ProcessId,
    pub bytes: f64,
    /// Time at which it starts.
    pub born: f64,
    leaked: f64,
}

/// Virtual host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Requests that wait.
    pub queue: f64,
    /// Length of the accept queue.
    pub bound: u32,
    /// Requests served in the last second.
    pub done: f64,
    /// Total of requests taken from the queue and refused, for the control of shedding.
    pub accepted: f64,
    pub refused: f64,
    /// Time at which the host is up again; it is down until then.
    pub down_until: f64,
    pub service: Process,
    pub collector: Process,
    /// Memory available, in bytes.
    pub available: f64,
    seed: u64,
    pids: u32,
    load: f64,
}

impl Host {
    /// Host that has run for a day, in zone `nth` modulo three.
    pub fn new(seed: u64, nth: usize) -> Self {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(nth as u64);
        let process = |pid: u32, bytes: f64| Process {
            id: ProcessId { pid, start_ticks: u64::from(pid) },
            bytes,
            born: -86_400.0,
            leaked: 0.0,
        };
        Self {
            queue: 0.0,
            bound: QUEUE_MAX,
            done: 0.0,
            accepted: 0.0,
            refused: 0.0,
            down_until: f64::NEG_INFINITY,
            service: process(400, SERVICE),
            collector: process(401, COLLECTOR),
            available: MEMORY - KERNEL - SERVICE - COLLECTOR,
            seed,
            pids: 401,
            load: 0.0,
        }
    }

    /// Returns whether the host is up.
    pub fn is_up(&self, t: f64) -> bool {
        t >= self.down_until
    }

    /// Requests that it serves in a second: fewer while memory is reclaimed all the time.
    pub fn capacity(&self) -> f64 {
        if self.available < SLOW { CAPACITY / 2.0 } else { CAPACITY }
    }

    /// Returns whether memory is reclaimed all the time.
    pub fn is_slow(&self) -> bool {
        self.available < SLOW
    }

    /// Wait of a request that arrives now, in seconds.
    pub fn wait_secs(&self) -> f64 {
        self.queue / self.capacity()
    }

    /// Most that [`Host::by_chance`] makes of a mean.
    pub fn at_most(mean: f64) -> f64 {
        mean + (6.0 * mean).sqrt()
    }

    /// Number that differs by chance from the mean, as that of arrivals in a second does.
    pub fn by_chance(&self, mean: f64, second: i64) -> f64 {
        // The sum of two uniform numbers is near enough to a normal one.
        let at = |nth: i64| unit_at(self.seed, second * 2 + nth);
        let normal = (at(0) + at(1) - 1.0) * 6_f64.sqrt();
        (mean + normal * mean.sqrt()).max(0.0)
    }

    /// Takes the requests of a second.
    pub fn serve(&mut self, arriving: f64) -> Handled {
        let capacity = self.capacity();
        let before = self.queue;
        let room = (f64::from(self.bound) + capacity - before).max(0.0);
        let admitted = arriving.min(room);
        let after = (before + admitted - capacity).max(0.0);
        let patient = (TIMEOUT_SECS - SERVICE_SECS) * capacity;
        let (low, high) = (before.min(after), before.max(after));
        let in_time = if high <= patient {
            1.0
        } else if low >= patient {
            0.0
        } else {
            (patient - low) / (high - low)
        };
        self.queue = after;
        self.done = before + admitted - after;
        self.accepted += self.done;
        self.refused += arriving - admitted;
        let served = admitted * in_time;
        Handled { served, refused: arriving - admitted, late: admitted - served }
    }

    /// Passes `secs` of time for the memory. Returns whether the host has run out of it.
    pub fn age(&mut self, t: f64, secs: f64, scenario: &Scenario, nth: usize, of: usize) -> bool {
        self.load += (self.done / CAPACITY - self.load) * (secs / 60.0).min(1.0);
        if let Some(rate) = self.leak_rate(t, scenario, nth, of) {
            let process = match scenario.leak.map(|leak| leak.of) {
                Some(Leaker::Collector) => &mut self.collector,
                _ => &mut self.service,
            };
            if t >= process.born {
                process.leaked += rate * secs;
            }
        }
        let filled = 1.0 - libm::exp((self.service.born - t).min(0.0) / CACHES_SECS);
        let noise = 1.0 + 0.002 * unit_at(self.seed ^ 0xa5a5, t as i64);
        let share = 1.0 - WITH_LOAD - CACHES + WITH_LOAD * self.load + CACHES * filled;
        self.service.bytes = SERVICE * share * noise + self.service.leaked;
        self.collector.bytes = COLLECTOR + self.collector.leaked;
        let requests = (self.queue + self.done * SERVICE_SECS) * REQUEST;
        self.available = MEMORY - KERNEL - self.service.bytes - self.collector.bytes - requests;
        self.available < DEAD
    }

    /// Bytes that the host leaks a second; `None` if it does not.
    fn leak_rate(&self, t: f64, scenario: &Scenario, nth: usize, of: usize) -> Option<f64> {
        let leak = scenario.leak?;
        let chosen = unit_at(self.seed ^ 0x77, 1) < leak.share;
        let later = leak.spread_secs * nth as f64 / of as f64;
        let room = MEMORY - KERNEL - SERVICE - COLLECTOR - DEAD;
        let rate = 1.0 + leak.rates * (unit_at(self.seed, 0) - 0.5);
        let leaks = chosen && (leak.from + later..leak.until + later).contains(&t);
        leaks.then_some(rate * room / leak.lasts_secs)
    }

    /// Ends the process that leaks, or the service, and starts it anew at `t`. Returns the ended one.
    pub fn restart(&mut self, t: f64, process: Leaker) -> ProcessId {
        self.pids += 1;
        let id = ProcessId { pid: self.pids, start_ticks: (t * 100.0) as u64 + 100_000 };
        let (process, bytes) = match process {
            Leaker::Collector => (&mut self.collector, COLLECTOR),
            Leaker::Service => (&mut self.service, SERVICE * (1.0 - CACHES)),
        };
        let ended = process.id;
        *process = Process { id, bytes, born: t, leaked: 0.0 };
        ended
    }

    /// Takes the host down until a time. Returns the requests that were in progress and in time.
    pub fn go_down(&mut self, until: f64) -> f64 {
        let patient = TIMEOUT_SECS * self.capacity();
        let lost = self.queue.min(patient) + self.done * SERVICE_SECS;
        (self.queue, self.done, self.bound) = (0.0, 0.0, QUEUE_MAX);
        self.down_until = until;
        self.restart(until, Leaker::Collector);
        self.restart(until, Leaker::Service);
        lost
    }
}
