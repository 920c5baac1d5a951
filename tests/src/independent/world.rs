//! Host of a run: programs live and die on it, cgroups charge them, the kernel kills at limits, and
//! a sensor looks every second or two.
//!
//! The time before the agent's start is simulated too, coarsely, so that peaks, caches and cycles are
//! met wherever they happen to be.

use spillway_agent::{
    engine::HostInfo,
    sense::{Observation, ProcessId},
};

use super::{
    facts::{SeenCgroup, SeenHost, SeenProcess, Sight},
    programs::{Mapped, Program},
    shapes::{DAY, GIB, MIB, MINUTE, Now, Shape, fork, noise},
    truth::Ledger,
};
use crate::corpus::{manifest::Subject, rng::Rng};

/// Clock ticks a second of start times.
const TICKS: f64 = 100.0;

/// Pages of anonymous memory between two samples of page faults.
const FAULT_SAMPLE_BYTES: f64 = 262_144.0;

/// Time between two reads of open files and threads.
const HANDLES_SECS: f64 = 10.0;

/// Longest time before the agent's start that is simulated, and the steps it takes.
const BEFORE_SECS: f64 = 3.0 * DAY;
const BEFORE_STEPS: u32 = 600;

/// Time in which a cgroup's page cache piles up.
const CACHE_SECS: f64 = 2_400.0;

/// Usual sizes of memory.
const HOST_GIB: [f64; 13] =
    [2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0];

/// Cgroup with something of its own: a limit, files, kernel memory.
pub(super) struct Group {
    pub(super) path: String,
    pub(super) max: Option<f64>,
    /// Files in memory (tmpfs, /dev/shm, memfds) that no process maps.
    pub(super) files: Option<Shape>,
    /// Kernel memory beyond the usual share: sockets, dentries, page tables.
    pub(super) kernel: Option<Shape>,
    /// True if `files` or `kernel` are a leak.
    pub(super) leaks: bool,
    /// Page cache that the cgroup would like to keep: reclaimed before anything is killed.
    pub(super) cache: f64,
}

impl Group {
    pub(super) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            max: None,
            files: None,
            kernel: None,
            leaks: false,
            cache: 0.0,
        }
    }
}

/// Facts without which an observer of a run has no chance. Runs that need nothing lack some of
/// it at random, as hosts do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) peak: bool,
    pub(super) mapped: bool,
    pub(super) handles: bool,
    pub(super) cgroups: bool,
}

/// Next life of a workload that was killed: of a number of lives so far and the time of birth.
pub(super) type Rebirth = Box<dyn FnMut(&mut Rng, usize, f64) -> (f64, Program)>;

/// Content of a run.
pub(super) struct Scene {
    pub(super) subject: Subject,
    pub(super) programs: Vec<Program>,
    pub(super) groups: Vec<Group>,
    /// Start of the leak; before 0 if it was not seen. `None` if nothing leaks.
    pub(super) leak_start: Option<f64>,
    /// True if the subject is killed at its limit again and again.
    pub(super) loops: bool,
    /// Life after a kill.
    pub(super) rebirth: Option<Rebirth>,
    /// Length of a healthy run, and the longest of a leaking one.
    pub(super) secs: f64,
    /// Seconds between scans; every one or two at random if `None`.
    pub(super) interval: Option<f64>,
    /// Bytes that the leak may take before it is due, for the size of the host.
    pub(super) room: f64,
    pub(super) needs: Needs,
    /// True if what leaks is measured against the whole workload.
    pub(super) size_of_all: bool,
    /// True if no observer can tell this from a leak before it ends.
    pub(super) untellable: bool,
    /// Memory of the host; any usual size that fits if `None`.
    pub(super) total: Option<f64>,
}

impl Scene {
    /// Healthy scene about one program.
    pub(super) fn healthy(program: Program, secs: f64) -> Self {
        let subject = Subject { cgroup: program.cgroup.clone(), comm: program.comm.clone() };
        Self {
            subject,
            programs: vec![program],
            groups: Vec::new(),
            leak_start: None,
            loops: false,
            rebirth: None,
            secs,
            interval: None,
            room: 0.0,
            needs: Needs::default(),
            size_of_all: false,
            untellable: false,
            total: None,
        }
    }

    /// Scene about one leaking program.
    pub(super) fn leaking(program: Program, start: f64) -> Self {
        let room = 2.0 * (64.0 * MIB).max(0.5 * program.bound);
        let scene = Self::healthy(program, 26.0 * 3_600.0);
        Self { leak_start: Some(start), room, ..scene }
    }

    pub(super) fn and(mut self, programs: impl IntoIterator<Item = Program>) -> Self {
        self.programs.extend(programs);
        self
    }
}

/// Life in progress.
struct Life {
    program: Program,
    id: ProcessId,
    ppid: u32,
    peak: f64,
    mapped: f64,
    faulted: f64,
    last_anon: f64,
    threads: f64,
    files: f64,
    group: usize,
    /// Error of the plain counter.
    blur: f64,
    mem: [f64; 6],
    leaked: f64,
    comm: std::sync::Arc<str>,
    asked: f64,
}

struct Charge {
    group: Group,
    name: std::sync::Arc<str>,
    anon: f64,
    shmem: f64,
    common: f64,
    kernel: f64,
    files: f64,
    leaked: f64,
    kills: u64,
    /// Anonymous and shared memory when the limit was read last.
    read: f64,
    processes: u32,
}

impl Charge {
    fn unreclaimable(&self) -> f64 {
        self.anon + self.shmem + self.common + self.files + self.kernel
    }
}

/// Simulated host.
pub(super) struct World {
    pub(super) info: HostInfo,
    pub(super) interval: f64,
    pub(super) t: f64,
    waiting: Vec<Program>,
    living: Vec<Life>,
    groups: Vec<Charge>,
    rebirth: Option<Rebirth>,
    subject: Subject,
    rng: Rng,
    rest: f64,
    rest_noise: Box<dyn FnMut(f64) -> f64>,
    cache_noise: Box<dyn FnMut(f64) -> f64>,
    strangers: Vec<(f64, f64)>,
    sees: Sees,
    uptime: f64,
    size_of_all: bool,
    next_pid: u32,
    scans: u64,
    handles_at: f64,
    lives: usize,
    ledger: Ledger,
    pub(super) exhausted: bool,
}

/// Facts that the sensors of this host give.
struct Sees {
    peak: bool,
    mapped: bool,
    handles: bool,
    cgroups: bool,
    faults: bool,
    psi: bool,
    blur: f64,
    cgroups_every: u64,
}

impl World {
    pub(super) fn new(rng: &mut Rng, scene: Scene) -> Self {
        let wanted = scene.programs.iter().map(|program| program.bound).sum::<f64>()
            + scene.room
            + scene.groups.iter().map(|group| group.cache.min(GIB)).sum::<f64>();
        let least = 1.35 * wanted + 0.4 * GIB;
        let fitting: Vec<f64> =
            HOST_GIB.iter().map(|gib| gib * GIB).filter(|bytes| *bytes >= least).collect();
        let total = if let Some(total) = scene.total {
            total
        } else if fitting.is_empty() {
            libm::ceil(least / GIB) * GIB
        } else {
            // Any that fits, and the tightest as often as all others.
            if rng.chance(0.5) { fitting[0] } else { rng.pick(&fitting) }
        };
        // The kernel keeps a little of what is built in.
        let total = total * rng.range(0.955, 0.985);
        let needs = scene.needs;
        let sees = Sees {
            peak: needs.peak || rng.chance(0.8),
            mapped: needs.mapped || rng.chance(0.9),
            handles: needs.handles || rng.chance(0.9),
            cgroups: needs.cgroups || rng.chance(0.8),
            faults: rng.chance(0.6),
            psi: rng.chance(0.8),
            blur: rng.pick(&[0.0, 8.0, 31.0, 63.0]),
            cgroups_every: rng.pick(&[1, 2, 5, 10]),
        };
        let rest_noise = {
            let (sd, memory) =
                (total * rng.log_range(0.000_2, 0.004), rng.log_range(20.0, 3_000.0));
            Box::new(noise(rng, sd, memory))
        };
        let cache_noise = {
            let (sd, memory) = (total * rng.log_range(0.000_5, 0.006), rng.log_range(2.0, 60.0));
            Box::new(noise(rng, sd, memory))
        };
        let mut waiting = scene.programs;
        waiting.sort_by(|a, b| b.born.total_cmp(&a.born));
        let oldest = waiting.last().map_or(0.0, |program| program.born.min(0.0));
        let mut world = Self {
            info: HostInfo {
                mem_total_bytes: total as u64,
                cpus: rng.pick(&[2, 4, 8, 16, 32, 64]),
            },
            interval: scene.interval.unwrap_or(1.0),
            t: 0.0,
            waiting,
            living: Vec::new(),
            groups: Vec::new(),
            rebirth: scene.rebirth,
            subject: scene.subject,
            rest: total * rng.range(0.02, 0.05),
            rest_noise,
            cache_noise,
            strangers: Vec::new(),
            sees,
            uptime: rng.log_range(MINUTE, 10.0 * DAY) - oldest,
            size_of_all: scene.size_of_all,
            next_pid: 300 + rng.below(30_000) as u32,
            scans: 0,
            handles_at: rng.range(0.0, HANDLES_SECS),
            lives: 0,
            ledger: Ledger::default(),
            exhausted: false,
            rng: fork(rng),
        };
        for group in scene.groups {
            world.add_group(group);
        }
        world.before(oldest);
        world
    }

    fn add_group(&mut self, group: Group) -> usize {
        self.groups.push(Charge {
            name: group.path.as_str().into(),
            group,
            anon: 0.0,
            shmem: 0.0,
            common: 0.0,
            kernel: 0.0,
            files: 0.0,
            leaked: 0.0,
            kills: 0,
            read: 0.0,
            processes: 0,
        });
        self.groups.len() - 1
    }

    /// Lets the past go by: nobody looks yet.
    fn before(&mut self, oldest: f64) {
        let from = oldest.max(-BEFORE_SECS);
        if from >= 0.0 {
            return;
        }
        let step = -from / f64::from(BEFORE_STEPS);
        for nth in 0..BEFORE_STEPS {
            let t = from + f64::from(nth) * step;
            self.live(t, step, &mut Vec::new());
        }
        // The last minutes in finer steps, so that short cycles have a past too.
        let fine = step.min(60.0) / 30.0;
        for nth in 1..30 {
            self.live(-fine * f64::from(30 - nth), fine, &mut Vec::new());
        }
    }

    /// Begins a life.
    fn bear(&mut self, program: Program) -> ProcessId {
        self.next_pid += 1 + self.rng.below(40) as u32;
        if self.next_pid > 4_000_000 {
            self.next_pid = 300;
        }
        let ticks = (self.uptime + program.born).max(0.0) * TICKS;
        let id = ProcessId { pid: self.next_pid, start_ticks: ticks as u64 };
        let group = self
            .groups
            .iter()
            .position(|charge| charge.group.path == program.cgroup)
            .unwrap_or_else(|| self.add_group(Group::new(&program.cgroup)));
        let is_subject = self.is_subject(&program);
        self.lives += usize::from(is_subject && program.born >= 0.0);
        self.living.push(Life {
            id,
            ppid: program.ppid,
            peak: 0.0,
            mapped: 0.0,
            faulted: 0.0,
            last_anon: 0.0,
            threads: 1.0,
            files: 3.0,
            group,
            blur: 0.0,
            mem: [0.0; 6],
            leaked: 0.0,
            comm: program.comm.as_str().into(),
            asked: program.born,
            program,
        });
        id
    }

    fn is_subject(&self, program: &Program) -> bool {
        program.cgroup.starts_with(&self.subject.cgroup)
            && (self.subject.comm.is_empty() || program.comm == self.subject.comm)
    }

    /// Births, deaths and memory until `t`; returns exec and exit events in `seen`.
    fn live(&mut self, t: f64, dt: f64, seen: &mut Vec<Sight>) {
        // Events reach the agent with its next look at the ring buffer, ten times a second.
        let noticed = |at: f64| (libm::ceil(at * 10.0) / 10.0).min(t);
        while self.waiting.last().is_some_and(|program| program.born <= t) {
            let Some(program) = self.waiting.pop() else { break };
            // A life before the simulated past, or between two of its steps.
            if program.dies <= t - dt && t <= 0.0 {
                continue;
            }
            let at = program.born;
            let id = self.bear(program);
            seen.push(Sight::Exec(noticed(at), id));
        }
        let mut place = 0;
        while place < self.living.len() {
            let dies = self.living[place].program.dies;
            if dies <= t {
                let life = self.living.swap_remove(place);
                seen.push(Sight::Exit(noticed(dies), life.id));
            } else {
                place += 1;
            }
        }
        self.weigh(t, dt);
        self.kill(t, seen);
        seen.sort_by(|a, b| a.t().total_cmp(&b.t()));
    }

    /// Asks all shapes.
    fn weigh(&mut self, t: f64, dt: f64) {
        for charge in &mut self.groups {
            (charge.anon, charge.shmem, charge.common, charge.leaked) = (0.0, 0.0, 0.0, 0.0);
            charge.processes = 0;
        }
        for life in &mut self.living {
            let step = (t - life.asked).max(0.0);
            life.asked = t;
            let load = (life.program.load)(t, step);
            let now = Now { t, age: t - life.program.born, dt: step, load };
            life.mem = [0.0; 6];
            life.leaked = 0.0;
            for part in &mut life.program.parts {
                let bytes = (part.shape)(&now).max(0.0);
                life.mem[part.sort as usize] += bytes;
                if part.leaks {
                    life.leaked += bytes;
                }
            }
            let [anon, inherited, file, shmem, common, swap] = life.mem;
            life.peak = life.peak.max(anon + inherited + file + shmem + common);
            life.faulted += (anon + shmem - life.last_anon).max(0.0);
            life.last_anon = anon + shmem;
            let maps = match life.program.mapped {
                Mapped::Grows(more) => (anon + swap + inherited) * (1.0 + more) + 4.0 * MIB,
                Mapped::Whole(bytes) => bytes.max(anon + swap) * 1.01 + 8.0 * MIB,
            };
            life.mapped = life.mapped.max(maps);
            let (still, each) = life.program.files;
            let (leaked_files, leaked_threads) = life.program.leaks_too;
            life.files = still + each * load + leaked_files * life.leaked;
            let (still, each) = life.program.threads;
            life.threads = still + each * load + leaked_threads * life.leaked;
            let charge = &mut self.groups[life.group];
            charge.anon += anon;
            charge.shmem += shmem;
            charge.common = charge.common.max(common);
            charge.processes += 1;
        }
        for charge in &mut self.groups {
            let now = Now { t, age: t, dt, load: 1.0 };
            let files = charge.group.files.as_mut().map_or(0.0, |shape| shape(&now));
            let kernel = charge.group.kernel.as_mut().map_or(0.0, |shape| shape(&now));
            charge.files = files.max(0.0);
            charge.kernel = kernel.max(0.0)
                + 0.004 * (charge.anon + charge.shmem)
                + f64::from(charge.processes) * 0.4 * MIB;
            if charge.group.leaks {
                charge.leaked = charge.files + kernel.max(0.0);
            }
        }
    }

    /// Kills at the limits of cgroups: the largest process there, as the kernel does, and everything
    /// in the cgroup with it, as Kubernetes and systemd do.
    fn kill(&mut self, t: f64, seen: &mut Vec<Sight>) {
        for place in 0..self.groups.len() {
            let charge = &self.groups[place];
            if charge.group.max.is_none_or(|max| charge.unreclaimable() < max) {
                continue;
            }
            let mut found = false;
            let mut at = 0;
            while at < self.living.len() {
                if self.living[at].group != place {
                    at += 1;
                    continue;
                }
                let life = self.living.swap_remove(at);
                seen.push(Sight::Exit(t, life.id));
                found |= self.is_subject(&life.program);
            }
            self.groups[place].kills += 1;
            (self.groups[place].anon, self.groups[place].shmem) = (0.0, 0.0);
            if let (true, Some(rebirth)) = (found, self.rebirth.as_mut()) {
                self.ledger.ended += 1;
                let (born, program) = rebirth(&mut self.rng, self.ledger.ended, t);
                let max = self.groups[place].group.max;
                if program.cgroup != self.groups[place].group.path {
                    // The new container has a cgroup of its own; the old one is removed.
                    let group = Group { max, ..Group::new(&program.cgroup) };
                    self.add_group(group);
                }
                let behind = self.waiting.iter().rposition(|one| one.born >= born);
                self.waiting.insert(behind.map_or(0, |behind| behind + 1), program);
            } else if found {
                self.exhausted = true;
            }
        }
    }

    /// Truth at this moment.
    pub(super) fn ledger(&mut self) -> Ledger {
        let (mut leaked, mut size) = (0.0, 0.0);
        for life in &self.living {
            let [anon, inherited, _, shmem, common, swap] = life.mem;
            let counts = self.size_of_all && self.is_subject(&life.program);
            if counts || life.program.parts.iter().any(|part| part.leaks) {
                leaked += life.leaked;
                size += anon + inherited + shmem + common + swap - life.leaked;
            }
        }
        for charge in self.groups.iter().filter(|charge| charge.group.leaks) {
            leaked += charge.leaked;
            size += charge.unreclaimable() - charge.leaked;
        }
        self.ledger.leaked = leaked;
        self.ledger.healthy = size;
        self.ledger.lives = self.lives;
        self.ledger
    }

    /// Memory in use that the kernel could not drop.
    pub(super) fn used(&self) -> f64 {
        let charged: f64 = self.groups.iter().map(Charge::unreclaimable).sum();
        charged + self.rest + self.strangers.iter().map(|stranger| stranger.1).sum::<f64>()
    }

    /// Next look of the agent, with the events before it.
    pub(super) fn scan(&mut self) -> Vec<Sight> {
        // Timers are a little late, and now and then much.
        let late = if self.rng.chance(0.001) { self.rng.exponential() } else { 0.0 };
        let t = self.t + 0.002 * self.rng.unit() + late.min(0.4 * self.interval);
        self.t += self.interval;
        self.scans += 1;
        let mut seen = Vec::with_capacity(self.living.len() + 4);
        self.live(t, self.interval, &mut seen);
        self.come_and_go(t);
        let total = self.info.mem_total_bytes as f64;
        let wobble = (self.rest_noise)(self.interval) + (self.cache_noise)(self.interval);
        let used = self.used();
        let available = (total - used - wobble.max(-0.5 * self.rest)).clamp(0.0, total);
        // The kernel kills something on the host before the last page is gone.
        self.exhausted |= total - used < 0.01 * total;
        let tight = 1.0 - available / (0.06 * total);
        let pressure = if tight > 0.0 { 60.0 * tight * self.rng.unit() } else { 0.0 };
        seen.push(Sight::Host(
            t,
            SeenHost {
                available_bytes: page(available),
                psi_some_avg10: self.sees.psi.then_some(libm::round(pressure * 100.0) / 100.0),
            },
        ));
        self.look(t, &mut seen);
        seen
    }

    /// Processes too small and short to be listed one by one: the host's own comings and goings.
    fn come_and_go(&mut self, t: f64) {
        self.strangers.retain(|stranger| stranger.0 > t);
        if self.rng.chance(self.interval / 90.0) {
            let spare = self.info.mem_total_bytes as f64 - self.used();
            let bytes = (MIB * self.rng.log_range(1.0, 60.0)).min(0.05 * spare);
            self.strangers.push((t + self.rng.log_range(0.5, 600.0), bytes.max(0.0)));
        }
    }

    fn look(&mut self, t: f64, seen: &mut Vec<Sight>) {
        let reads_cgroups =
            self.scans % self.sees.cgroups_every == 1 || self.sees.cgroups_every == 1;
        for charge in &mut self.groups {
            if reads_cgroups {
                charge.read = charge.anon + charge.shmem + charge.common + charge.files;
            }
        }
        let handles = self.sees.handles && t >= self.handles_at;
        for life in &mut self.living {
            let charge = &self.groups[life.group];
            let [anon, inherited, file, shmem, common, swap] = life.mem;
            // Counters kept per CPU are off by what their slots hold: it changes as tasks move.
            if self.rng.chance(0.03) {
                life.blur = self.sees.blur * 4_096.0 * (2.0 * self.rng.unit() - 1.0);
            }
            let blur = life.blur;
            seen.push(Sight::Process(
                t,
                SeenProcess {
                    id: life.id,
                    ppid: life.ppid,
                    comm: life.comm.clone(),
                    cgroup: charge.name.clone(),
                    anon_bytes: page(anon + inherited + blur.max(-0.2 * anon)),
                    file_bytes: page(file),
                    shmem_bytes: page(shmem + common),
                    swap_bytes: page(swap),
                    max_bytes: charge.group.max.map(page),
                    charged_bytes: charge.group.max.map(|_| page(charge.read)),
                    faulted_bytes: self.sees.faults.then(|| {
                        (libm::floor(life.faulted / FAULT_SAMPLE_BYTES) * FAULT_SAMPLE_BYTES) as u64
                    }),
                    mapped_bytes: self.sees.mapped.then(|| page(life.mapped)),
                    peak_rss_bytes: self.sees.peak.then(|| page(life.peak)),
                },
            ));
        }
        if handles {
            self.handles_at += HANDLES_SECS;
            for life in &self.living {
                let (files, threads) = (life.files as u64, life.threads as u64);
                seen.push(Sight::Handles(t, life.id, files, threads.max(1)));
            }
        }
        if !(self.sees.cgroups && reads_cgroups) {
            return;
        }
        for charge in self.groups.iter().filter(|charge| charge.processes > 0) {
            let used = charge.unreclaimable();
            // Page cache piles up with what is read, until the limit or until the cgroup has it all.
            let wanted = charge.group.cache * (1.0 - libm::exp(-(t + CACHE_SECS) / CACHE_SECS));
            let room = charge.group.max.map_or(f64::INFINITY, |max| (max - used).max(0.0));
            let cache = wanted.min(room);
            seen.push(Sight::Cgroup(
                t,
                SeenCgroup {
                    cgroup: charge.name.clone(),
                    current_bytes: page(used + cache),
                    anon_bytes: page(charge.anon),
                    shmem_bytes: page(charge.shmem + charge.common + charge.files),
                    kernel_bytes: page(charge.kernel),
                    max_bytes: charge.group.max.map(page),
                    oom_kills_total: charge.kills,
                },
            ));
        }
    }
}

fn page(bytes: f64) -> u64 {
    (bytes.max(0.0) / 4_096.0) as u64 * 4_096
}

/// Observations of a scan, as the agent's types carry them.
pub(super) fn observations(seen: &[Sight]) -> impl Iterator<Item = Observation> + '_ {
    seen.iter().map(Sight::observation)
}
