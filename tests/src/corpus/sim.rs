//! A simulated host: processes that are born and die, memory that adds up, and scans of it as the
//! agent makes them.
//!
//! Sensor errors are simulated: whole pages, counters that are off by a few pages per CPU, scans
//! that are slightly late or lost. The kernel's sums are consistent: `MemAvailable` is what all
//! processes leave, and a cgroup's use is the sum over its processes. Page cache counts for
//! neither, because it is reclaimed before memory runs out.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use spillway_agent::{
    engine::HostInfo,
    sense::{Fact, HostFact, Observation, ProcessFact, ProcessId, ProcessResourcesFact},
};

use super::{
    curve::{Curve, flat},
    rng::unit_at,
};

const PAGE: f64 = 4_096.0;

/// Interval at which open files and threads are counted, as in the agent.
const HANDLES_SECS: f64 = 10.0;

/// Sizes in which allocators map memory: glibc's arenas, V8's and CPython's chunks, extents of Go
/// and jemalloc, regions of a JVM.
const ALLOCATORS: [f64; 5] = [132.0 * 1_024.0, 262_144.0, 1_048_576.0, 4_194_304.0, 8_388_608.0];

/// Usual limit on open files.
const FDS_MAX: u64 = 1_024 * 512;

/// Simulated process.
pub(super) struct Actor {
    pub(super) id: ProcessId,
    pub(super) ppid: u32,
    pub(super) comm: Arc<str>,
    pub(super) cgroup: Arc<str>,
    pub(super) memory_max_bytes: Option<u64>,
    pub(super) born: f64,
    pub(super) dies: f64,
    /// True if it executes a program when it is born; workers of a prefork server only fork.
    pub(super) execs: bool,
    pub(super) anon: Curve,
    pub(super) file: Curve,
    pub(super) shmem: Curve,
    /// Share of anonymous memory that is swapped out.
    pub(super) swapped: Curve,
    /// Anonymous bytes still shared with the parent: resident twice, charged once.
    pub(super) shared: Curve,
    /// Size in which the allocator maps memory.
    pub(super) mapped_by_bytes: f64,
    /// Maximum mapped so far; set it for memory that is mapped at the start and touched later.
    pub(super) mapped_bytes: f64,
    /// Open files: a few, plus one per connection.
    pub(super) fds: Curve,
    pub(super) threads: Curve,
}

impl Actor {
    pub(super) fn new(pid: u32, comm: &str, cgroup: &str, anon: Curve) -> Self {
        Self {
            id: ProcessId { pid, start_ticks: u64::from(pid) * 3 },
            ppid: 1,
            comm: comm.into(),
            cgroup: cgroup.into(),
            memory_max_bytes: None,
            born: f64::NEG_INFINITY,
            dies: f64::INFINITY,
            execs: true,
            anon,
            file: flat(12.0 * 1_048_576.0),
            shmem: flat(0.0),
            swapped: flat(0.0),
            shared: flat(0.0),
            mapped_by_bytes: ALLOCATORS[pid as usize % ALLOCATORS.len()],
            mapped_bytes: 0.0,
            fds: flat(8.0 + f64::from(pid % 24)),
            threads: flat(1.0 + f64::from(pid % 7)),
        }
    }

    /// Sets times of birth and death; ticks are hundredths of a second since a boot ten days ago.
    pub(super) fn living(mut self, born: f64, dies: f64) -> Self {
        (self.born, self.dies) = (born, dies);
        if born.is_finite() {
            self.id.start_ticks = ((864_000.0 + born) * 100.0) as u64;
        }
        self
    }

    pub(super) fn file(mut self, file: Curve) -> Self {
        self.file = file;
        self
    }

    fn lives_at(&self, t: f64) -> bool {
        self.born <= t && t < self.dies
    }

    /// Bytes charged against a limit.
    pub(super) fn charged(&mut self, t: f64) -> f64 {
        if !self.lives_at(t) {
            return 0.0;
        }
        let own = ((self.anon)(t) - (self.shared)(t)).max(0.0);
        own * (1.0 - (self.swapped)(t)) + (self.shmem)(t)
    }
}

/// Simulated host and how it is watched.
pub(super) struct Sim {
    pub(super) host: HostInfo,
    pub(super) actors: Vec<Actor>,
    /// Memory held by the kernel and unwatched processes.
    pub(super) other_bytes: f64,
    pub(super) secs: f64,
    pub(super) interval_secs: f64,
    /// Spans without observations: the host sleeps.
    pub(super) gaps: Vec<(f64, f64)>,
    /// Share of scans that are lost, and of single facts in the others.
    pub(super) loss: f64,
    /// Maximum error of a counter, in pages.
    pub(super) blur_pages: f64,
    pub(super) seed: u64,
}

impl Sim {
    /// Headroom of the workload in `cgroup`: to its limit or the host's, whichever is nearer.
    pub(super) fn headroom(&mut self, t: f64, cgroup: &str) -> f64 {
        let (mut all, mut own, mut limit) = (self.other_bytes, 0.0, f64::INFINITY);
        for actor in &mut self.actors {
            let charged = actor.charged(t);
            all += charged;
            if *actor.cgroup == *cgroup {
                own += charged;
                limit = limit.min(actor.memory_max_bytes.map_or(f64::INFINITY, |max| max as f64));
            }
        }
        (self.host.mem_total_bytes as f64 - all).min(limit - own)
    }

    pub(super) fn observations(self) -> Observations {
        Observations {
            sim: self,
            scan: 0,
            counted_t: 0.0,
            alive: Vec::new(),
            ready: VecDeque::new(),
        }
    }
}

/// Scans of a simulated host, fact by fact.
pub(super) struct Observations {
    sim: Sim,
    scan: i64,
    counted_t: f64,
    /// Liveness of each actor at the last scan; empty before the first.
    alive: Vec<bool>,
    ready: VecDeque<Observation>,
}

impl Observations {
    fn scan(&mut self) {
        let sim = &mut self.sim;
        let (index, seed) = (self.scan, sim.seed);
        self.scan += 1;
        // Scans are late by up to a fiftieth of an interval.
        let t = (index as f64 + unit_at(seed, index) / 50.0) * sim.interval_secs;
        let t = (t * 1e3).round() / 1e3;
        let asleep = sim.gaps.iter().any(|(from, to)| (*from..*to).contains(&t));
        if asleep || unit_at(seed ^ 2, index) < sim.loss {
            return;
        }
        let counts = (t / HANDLES_SECS) as i64 > (self.counted_t / HANDLES_SECS) as i64
            || self.alive.is_empty();
        if counts {
            self.counted_t = t;
        }
        let first = self.alive.is_empty();
        self.alive.resize(sim.actors.len(), false);
        let mut all = sim.other_bytes;
        let mut facts = Vec::with_capacity(sim.actors.len());
        let mut charged: HashMap<Arc<str>, f64> = HashMap::new();
        for (place, actor) in sim.actors.iter_mut().enumerate() {
            let alive = actor.lives_at(t);
            let was_alive = std::mem::replace(&mut self.alive[place], alive);
            if was_alive && !alive {
                self.ready.push_back(Observation { t, fact: Fact::Exit(actor.id) });
            }
            if !alive {
                continue;
            }
            let fact =
                blurred_fact(actor, t, sim.blur_pages, seed ^ ((place as u64 + 3) << 20), index);
            let own = actor.charged(t);
            all += own;
            if actor.memory_max_bytes.is_some() {
                *charged.entry(actor.cgroup.clone()).or_default() += own;
            }
            let handles = counts.then(|| ProcessResourcesFact {
                id: actor.id,
                fds: (actor.fds)(t).max(0.0) as u64,
                fds_max: Some(FDS_MAX),
                threads: (actor.threads)(t).max(1.0) as u64,
                close_wait: Some(0),
            });
            let lost = unit_at(seed ^ ((place as u64 + 3) << 40), index) < sim.loss;
            facts.push((!was_alive && !first && actor.execs, lost, fact, handles));
        }
        let blur = (unit_at(seed ^ 1, index) - 0.5) * 0.000_5 * sim.host.mem_total_bytes as f64;
        let available = (sim.host.mem_total_bytes as f64 - all + blur).max(0.0) as u64;
        let host =
            HostFact { mem_available_bytes: available & !4_095, psi_memory_some_avg10: Some(0.0) };
        self.ready.push_back(Observation { t, fact: Fact::Host(host) });
        for (execs, lost, mut fact, handles) in facts {
            fact.memory_charged_bytes =
                charged.get(&fact.cgroup).map(|bytes| *bytes as u64 & !4_095);
            if execs {
                self.ready.push_back(Observation { t, fact: Fact::Exec(fact.id) });
            }
            if !lost {
                self.ready.push_back(Observation { t, fact: Fact::Process(fact) });
                self.ready
                    .extend(handles.map(|handles| Observation { t, fact: Fact::Handles(handles) }));
            }
        }
    }
}

fn blurred_fact(actor: &mut Actor, t: f64, blur_pages: f64, seed: u64, index: i64) -> ProcessFact {
    let blur = (unit_at(seed, index) - 0.5) * 2.0 * blur_pages * PAGE;
    let pages = |bytes: f64| (bytes.max(0.0) / PAGE) as u64 * 4_096;
    let (total, swapped) = ((actor.anon)(t).max(0.0), (actor.swapped)(t));
    actor.mapped_bytes =
        actor.mapped_bytes.max((total / actor.mapped_by_bytes).ceil() * actor.mapped_by_bytes);
    ProcessFact {
        id: actor.id,
        ppid: actor.ppid,
        comm: actor.comm.clone(),
        cgroup: actor.cgroup.clone(),
        anon_bytes: pages(total * (1.0 - swapped) + blur),
        file_bytes: pages((actor.file)(t)),
        shmem_bytes: pages((actor.shmem)(t)),
        swap_bytes: pages(total * swapped),
        memory_max_bytes: actor.memory_max_bytes,
        memory_charged_bytes: None,
        faulted_bytes_total: None,
        mapped_bytes: Some(actor.mapped_bytes as u64),
    }
}

impl Iterator for Observations {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        loop {
            if let Some(observation) = self.ready.pop_front() {
                return Some(observation);
            }
            if self.scan as f64 * self.sim.interval_secs > self.sim.secs {
                return None;
            }
            self.scan();
        }
    }
}
