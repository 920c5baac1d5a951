//! A simulated host: processes that are born and die, memory that adds up, and scans of it as the
//! agent makes them.
//!
//! Sensor errors are simulated: whole pages, counters that are off by a few pages per CPU, scans
//! that are slightly late or lost. The kernel's sums are consistent: `MemAvailable` is what all
//! processes leave, and a cgroup's use is the sum over its processes. Page cache counts for
//! neither, because it is reclaimed before memory runs out.

use std::{collections::HashMap, sync::Arc};

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
        if self.lives_at(t) { self.memory(t).charged } else { 0.0 }
    }

    /// Memory at this time, if it lives.
    fn memory(&mut self, t: f64) -> Memory {
        let (anon, swapped, shmem) = ((self.anon)(t), (self.swapped)(t), (self.shmem)(t));
        let own = (anon - (self.shared)(t)).max(0.0);
        Memory { anon: anon.max(0.0), swapped, shmem, charged: own * (1.0 - swapped) + shmem }
    }
}

/// Memory of a process, in bytes.
struct Memory {
    /// Anonymous memory, resident or swapped out.
    anon: f64,
    /// Share of it that is swapped out.
    swapped: f64,
    shmem: f64,
    /// Bytes charged against a limit.
    charged: f64,
}

/// Simulated host and how it is watched.
pub(super) struct Sim {
    pub(super) host: HostInfo,
    pub(super) actors: Vec<Actor>,
    /// Memory held by the kernel and unwatched processes.
    pub(super) other_bytes: f64,
    /// Memory that this adds or takes over time.
    pub(super) restless: Curve,
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

    pub(super) fn scans(self) -> Scans {
        Scans { sim: self, scan: 0, counted_t: 0.0, alive: Vec::new() }
    }
}

/// Scans of a simulated host.
pub(super) struct Scans {
    sim: Sim,
    scan: i64,
    counted_t: f64,
    /// Liveness of each actor at the last scan; empty before the first.
    alive: Vec<bool>,
}

impl Scans {
    /// Returns the facts of the next scan; none if it is lost.
    fn scan(&mut self) -> Vec<Observation> {
        let sim = &mut self.sim;
        let (index, seed) = (self.scan, sim.seed);
        self.scan += 1;
        // Scans are late by up to a fiftieth of an interval.
        let t = (index as f64 + unit_at(seed, index) / 50.0) * sim.interval_secs;
        let t = (t * 1e3).round() / 1e3;
        let asleep = sim.gaps.iter().any(|(from, to)| (*from..*to).contains(&t));
        if asleep || unit_at(seed ^ 2, index) < sim.loss {
            return Vec::new();
        }
        let counts = (t / HANDLES_SECS) as i64 > (self.counted_t / HANDLES_SECS) as i64
            || self.alive.is_empty();
        if counts {
            self.counted_t = t;
        }
        let first = self.alive.is_empty();
        self.alive.resize(sim.actors.len(), false);
        let mut all = sim.other_bytes + (sim.restless)(t);
        let mut scan = Vec::with_capacity(1 + sim.actors.len());
        let mut facts = Vec::with_capacity(sim.actors.len());
        let mut charged: HashMap<Arc<str>, f64> = HashMap::new();
        for (place, actor) in sim.actors.iter_mut().enumerate() {
            let alive = actor.lives_at(t);
            let was_alive = std::mem::replace(&mut self.alive[place], alive);
            if was_alive && !alive {
                scan.push(Observation { t, fact: Fact::Exit(actor.id) });
            }
            if !alive {
                continue;
            }
            let memory = actor.memory(t);
            all += memory.charged;
            if actor.memory_max_bytes.is_some() {
                *charged.entry(actor.cgroup.clone()).or_default() += memory.charged;
            }
            let blur = unit_at(seed ^ ((place as u64 + 3) << 20), index) - 0.5;
            let fact = fact(actor, t, &memory, blur * 2.0 * sim.blur_pages * PAGE);
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
        scan.push(Observation { t, fact: Fact::Host(host) });
        for (execs, lost, mut fact, handles) in facts {
            fact.memory_charged_bytes =
                charged.get(&fact.cgroup).map(|bytes| *bytes as u64 & !4_095);
            if execs {
                scan.push(Observation { t, fact: Fact::Exec(fact.id) });
            }
            if !lost {
                scan.push(Observation { t, fact: Fact::Process(fact) });
                scan.extend(handles.map(|handles| Observation { t, fact: Fact::Handles(handles) }));
            }
        }
        scan
    }
}

/// Returns a process's fact; `blur` is the error of its counters in bytes.
fn fact(actor: &mut Actor, t: f64, memory: &Memory, blur: f64) -> ProcessFact {
    let pages = |bytes: f64| (bytes.max(0.0) / PAGE) as u64 * 4_096;
    actor.mapped_bytes = actor
        .mapped_bytes
        .max((memory.anon / actor.mapped_by_bytes).ceil() * actor.mapped_by_bytes);
    ProcessFact {
        id: actor.id,
        ppid: actor.ppid,
        comm: actor.comm.clone(),
        cgroup: actor.cgroup.clone(),
        anon_bytes: pages(memory.anon * (1.0 - memory.swapped) + blur),
        file_bytes: pages((actor.file)(t)),
        shmem_bytes: pages(memory.shmem),
        swap_bytes: pages(memory.anon * memory.swapped),
        memory_max_bytes: actor.memory_max_bytes,
        memory_charged_bytes: None,
        faulted_bytes_total: None,
        mapped_bytes: Some(actor.mapped_bytes as u64),
        peak_rss_bytes: None,
    }
}

impl Iterator for Scans {
    type Item = Vec<Observation>;

    fn next(&mut self) -> Option<Vec<Observation>> {
        (self.scan as f64 * self.sim.interval_secs <= self.sim.secs).then(|| self.scan())
    }
}
