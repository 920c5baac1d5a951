//! A simulated host: processes that are born and die, memory that adds up, and scans of it as the
//! agent makes them.
//!
//! Sensor errors are simulated: whole pages, counters that are off by a few pages per CPU, scans
//! that are slightly late or lost. The kernel's sums are consistent: `MemAvailable` is what all
//! processes leave, and a cgroup's use is the sum over its processes. Page cache counts for
//! neither, because it is reclaimed before memory runs out.

use std::{collections::BTreeMap, sync::Arc};

use spillway_agent::{
    engine::HostInfo,
    sense::{
        CgroupFact, Fact, HostFact, Observation, ProcessFact, ProcessId, ProcessResourcesFact,
    },
};

use super::{
    curve::{Curve, flat},
    rng::unit_at,
};

const PAGE: f64 = 4_096.0;

/// Interval at which open files and threads are counted, as in the agent.
const HANDLES_SECS: f64 = 10.0;

/// Interval at which the charge of a cgroup is read, as in the agent.
const CHARGES_SECS: f64 = 10.0;

/// Sizes in which allocators map memory: glibc's arenas, V8's and CPython's chunks, extents of Go
/// and jemalloc, regions of a JVM.
const ALLOCATORS: [f64; 5] = [132.0 * 1_024.0, 262_144.0, 1_048_576.0, 4_194_304.0, 8_388_608.0];

/// Evaluations of the time before the agent, from which a peak is known.
const PAST_EVALUATIONS: u32 = 2_000;

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
    /// False if another process was charged for its shared memory, all of which it maps, too.
    pub(super) shmem_charged: bool,
    /// Share of anonymous memory that is swapped out.
    pub(super) swapped: Curve,
    /// Anonymous bytes still shared with the parent: resident twice, charged once.
    pub(super) shared: Curve,
    /// Memory charged to its cgroup that no process holds: files in a tmpfs, and the kernel's. The
    /// charges of cgroups are reported only in runs with such memory.
    pub(super) beside: Option<Beside>,
    /// Size in which the allocator maps memory.
    pub(super) mapped_by_bytes: f64,
    /// Maximum mapped so far; set it for memory that is mapped at the start and touched later.
    pub(super) mapped_bytes: f64,
    /// Open files: a few, plus one per connection.
    pub(super) fds: Curve,
    pub(super) threads: Curve,
    /// Highest resident size so far.
    peak_bytes: f64,
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
            shmem_charged: true,
            swapped: flat(0.0),
            shared: flat(0.0),
            beside: None,
            mapped_by_bytes: ALLOCATORS[pid as usize % ALLOCATORS.len()],
            mapped_bytes: 0.0,
            fds: flat(8.0 + f64::from(pid % 24)),
            threads: flat(1.0 + f64::from(pid % 7)),
            peak_bytes: 0.0,
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

    /// Lets a process have run for so long before the agent: its peak is of that time, too.
    pub(super) fn remembering(mut self, past_secs: f64) -> Self {
        for step in 0..PAST_EVALUATIONS {
            let t = -past_secs * f64::from(PAST_EVALUATIONS - step) / f64::from(PAST_EVALUATIONS);
            self.peak_bytes = self.peak_bytes.max((self.anon)(t) + (self.file)(t));
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
        let own = (anon - (self.shared)(t)).max(0.0) * (1.0 - swapped);
        let (files, kernel) = self
            .beside
            .as_mut()
            .map_or((0.0, 0.0), |beside| ((beside.files)(t), (beside.kernel)(t)));
        let charged = own + if self.shmem_charged { shmem } else { 0.0 } + files + kernel;
        Memory { anon: anon.max(0.0), swapped, shmem, files, kernel, charged }
    }
}

/// Memory charged to a cgroup beside that of its processes.
pub(super) struct Beside {
    pub(super) files: Curve,
    pub(super) kernel: Curve,
}

/// Charge of a cgroup, in bytes.
#[derive(Default)]
struct Charge {
    anon: f64,
    shmem: f64,
    kernel: f64,
    max_bytes: Option<u64>,
}

/// Memory of a process, in bytes.
struct Memory {
    /// Anonymous memory, resident or swapped out.
    anon: f64,
    /// Share of it that is swapped out.
    swapped: f64,
    shmem: f64,
    files: f64,
    kernel: f64,
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
    /// True if the kernel's record of a process's peak is known.
    pub(super) peaks: bool,
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
        let reports = self.actors.iter().any(|actor| actor.beside.is_some());
        let charged_t = reports.then_some(f64::NEG_INFINITY);
        Scans {
            sim: self,
            scan: 0,
            counted_t: 0.0,
            charged_t,
            alive: Vec::new(),
            present: Vec::new(),
            charged: Vec::new(),
        }
    }
}

/// Scans of a simulated host.
pub(super) struct Scans {
    sim: Sim,
    scan: i64,
    counted_t: f64,
    /// Time at which the charges of cgroups were last read; `None` if they are not.
    charged_t: Option<f64>,
    /// Liveness of each actor at the last scan; empty before the first.
    alive: Vec<bool>,
    /// Actors that live at this scan, by place, and their memory.
    present: Vec<Present>,
    /// Charge of each cgroup with a limit at this scan.
    charged: Vec<(Arc<str>, f64)>,
}

/// Actor that lives at a scan.
struct Present {
    place: usize,
    was_alive: bool,
    memory: Memory,
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
        self.present.clear();
        self.charged.clear();
        let mut charges: BTreeMap<Arc<str>, Charge> = BTreeMap::new();
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
                // The sum that the agent reads leaves out the kernel's memory.
                let bytes = memory.charged - memory.kernel;
                match self.charged.iter_mut().find(|(cgroup, _)| *cgroup == actor.cgroup) {
                    Some((_, sum)) => *sum += bytes,
                    None => self.charged.push((actor.cgroup.clone(), bytes)),
                }
            }
            if self.charged_t.is_some() {
                let charge = charges.entry(actor.cgroup.clone()).or_default();
                let shmem = if actor.shmem_charged { memory.shmem } else { 0.0 };
                charge.anon += memory.charged - shmem - memory.files - memory.kernel;
                // Every process maps the same shared memory.
                charge.shmem = charge.shmem.max(memory.shmem) + memory.files;
                charge.kernel += memory.kernel;
                charge.max_bytes = actor.memory_max_bytes;
            }
            self.present.push(Present { place, was_alive, memory });
        }
        let blur = (unit_at(seed ^ 1, index) - 0.5) * 0.000_5 * sim.host.mem_total_bytes as f64;
        let available = (sim.host.mem_total_bytes as f64 - all + blur).max(0.0) as u64;
        let host =
            HostFact { mem_available_bytes: available & !4_095, psi_memory_some_avg10: Some(0.0) };
        scan.push(Observation { t, fact: Fact::Host(host) });
        for Present { place, was_alive, memory } in &self.present {
            let actor = &mut sim.actors[*place];
            let noise = |bits: u32| unit_at(seed ^ ((*place as u64 + 3) << bits), index);
            let mut fact = fact(actor, t, memory, (noise(20) - 0.5) * 2.0 * sim.blur_pages * PAGE);
            let rss_bytes = fact.anon_bytes + fact.file_bytes + fact.shmem_bytes;
            actor.peak_bytes = actor.peak_bytes.max(rss_bytes as f64);
            fact.peak_rss_bytes = sim.peaks.then_some(actor.peak_bytes as u64 & !4_095);
            let charged = self.charged.iter().find(|(cgroup, _)| *cgroup == fact.cgroup);
            fact.memory_charged_bytes = charged.map(|(_, bytes)| *bytes as u64 & !4_095);
            if !was_alive && !first && actor.execs {
                scan.push(Observation { t, fact: Fact::Exec(fact.id) });
            }
            if noise(40) < sim.loss {
                continue;
            }
            scan.push(Observation { t, fact: Fact::Process(fact) });
            if counts {
                scan.push(Observation { t, fact: Fact::Handles(handles(actor, t)) });
            }
        }
        if self.charged_t.is_some_and(|before| t - before >= CHARGES_SECS - 0.1) {
            self.charged_t = Some(t);
            let blur = (unit_at(seed ^ 5, index) - 0.5) * 2.0 * sim.blur_pages * PAGE;
            scan.extend(charges.into_iter().map(|(cgroup, charge)| {
                let bytes = |bytes: f64| Some((bytes + blur).max(0.0) as u64 & !4_095);
                Observation {
                    t,
                    fact: Fact::Cgroup(CgroupFact {
                        cgroup,
                        current_bytes: None,
                        anon_bytes: bytes(charge.anon),
                        shmem_bytes: bytes(charge.shmem),
                        kernel_bytes: bytes(charge.kernel),
                        max_bytes: charge.max_bytes,
                        oom_kills_total: Some(0),
                    }),
                }
            }));
        }
        scan
    }
}

/// Returns a process's open files and threads.
fn handles(actor: &mut Actor, t: f64) -> ProcessResourcesFact {
    ProcessResourcesFact {
        id: actor.id,
        fds: (actor.fds)(t).max(0.0) as u64,
        fds_max: Some(FDS_MAX),
        threads: (actor.threads)(t).max(1.0) as u64,
        close_wait: Some(0),
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
