//! Programs: a process's memory in parts, and the usual kinds of servers.
//!
//! A kind of server is drawn whole: its size, its allocator or collector, its load. The figures are
//! orders of magnitude from their manuals, and wide: nothing is fitted to a trace.

use super::shapes::{
    DAY, HOUR, KIB, Load, MIB, MINUTE, Pace, Shape, Teeth, boot, bursts, daily_load, decaying,
    flat_load, heaps, leak, retained, saturating, steady, with_load,
};
use crate::corpus::rng::Rng;

/// Sort of memory, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Anonymous, private to the process.
    Anon,
    /// Anonymous, but still shared with a parent that forked: counted with every process that maps
    /// it, charged once.
    Inherited,
    /// Mapped files, as far as resident.
    File,
    /// Shared memory that only this process maps.
    Shmem,
    /// Shared memory of which each process of the cgroup has touched some: charged once.
    Common,
    /// Swapped out.
    Swap,
}

/// One part of a process's memory.
pub(super) struct Part {
    pub(super) sort: Sort,
    pub(super) leaks: bool,
    pub(super) shape: Shape,
}

/// Memory that a process maps for writing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mapped {
    /// As much as it has touched, and a share more; mapped memory stays mapped.
    Grows(f64),
    /// At least so many bytes from its start: a pool or heap mapped as a whole.
    Whole(f64),
}

/// One life of a process.
pub(super) struct Program {
    pub(super) comm: String,
    pub(super) cgroup: String,
    /// Seconds since the agent started; negative for a process that is older.
    pub(super) born: f64,
    pub(super) dies: f64,
    /// Parent: 1, or another for workers of a pool.
    pub(super) ppid: u32,
    pub(super) load: Load,
    pub(super) parts: Vec<Part>,
    pub(super) mapped: Mapped,
    /// Open files without and per unit of load.
    pub(super) files: (f64, f64),
    pub(super) threads: (f64, f64),
    /// Open files and threads that leak with each byte.
    pub(super) leaks_too: (f64, f64),
    /// Bytes that the process may reach without a leak: hosts and limits are drawn above it.
    pub(super) bound: f64,
}

impl Program {
    /// Program without memory, under a flickering load.
    pub(super) fn new(rng: &mut Rng, comm: &str, cgroup: &str, born: f64) -> Self {
        Self {
            comm: comm.to_owned(),
            cgroup: cgroup.to_owned(),
            born,
            dies: f64::INFINITY,
            ppid: 1,
            load: flat_load(rng),
            parts: Vec::new(),
            mapped: Mapped::Grows(rng.range(0.02, 0.4)),
            files: (rng.log_range(6.0, 100.0), 0.0),
            threads: (rng.log_range(1.0, 60.0), 0.0),
            leaks_too: (0.0, 0.0),
            bound: 0.0,
        }
    }

    pub(super) fn with(mut self, sort: Sort, bound: f64, shape: Shape) -> Self {
        self.parts.push(Part { sort, leaks: false, shape });
        if !matches!(sort, Sort::File | Sort::Inherited) {
            self.bound += bound;
        }
        self
    }

    pub(super) fn anon(self, bound: f64, shape: Shape) -> Self {
        self.with(Sort::Anon, bound, shape)
    }

    pub(super) fn until(mut self, dies: f64) -> Self {
        self.dies = dies;
        self
    }

    pub(super) fn load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    pub(super) fn whole(mut self, bytes: f64) -> Self {
        self.mapped = Mapped::Whole(bytes);
        self
    }

    /// Adds a leak of this shape.
    pub(super) fn leaking(mut self, sort: Sort, shape: Shape) -> Self {
        self.parts.push(Part { sort, leaks: true, shape });
        self
    }

    /// Adds a leak, in the pieces of some allocator.
    pub(super) fn leaks(self, rng: &mut Rng, start: f64, rate: f64, pace: Pace) -> Self {
        self.leaks_as(rng, Sort::Anon, start, rate, pace)
    }

    pub(super) fn leaks_as(
        mut self,
        rng: &mut Rng,
        sort: Sort,
        start: f64,
        rate: f64,
        pace: Pace,
    ) -> Self {
        // A page, glibc's top pad, a thread's arena growing, a huge page, a span of Go. Not larger
        // than a minute's worth, or the leak would be stairs.
        let grain: f64 = rng.pick(&[4.0, 4.0, 132.0, 132.0, 1_024.0, 2_048.0, 4_096.0]);
        let grain = (grain * KIB).min((rate * MINUTE).max(4.0 * KIB));
        self.parts.push(Part { sort, leaks: true, shape: leak(rng, start, rate, pace, grain) });
        self
    }
}

/// Names and cgroups. A host runs its services under systemd, in containers or in pods.
pub(super) fn cgroup(rng: &mut Rng, name: &str) -> String {
    let id = rng.bits();
    match rng.below(4) {
        0 | 1 => format!("/system.slice/{name}.service"),
        2 => format!("/system.slice/docker-{id:016x}{:016x}.scope", rng.bits()),
        _ => format!("{}/cri-containerd-{id:016x}{:016x}.scope", pod(rng), rng.bits()),
    }
}

/// Cgroup of a pod, whose containers are below it.
pub(super) fn pod(rng: &mut Rng) -> String {
    let (a, b) = (rng.bits(), rng.bits());
    format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{:08x}_{:04x}_{:04x}.slice",
        a as u32,
        (a >> 32) as u16,
        b as u16
    )
}

/// Age of a process at the agent's start: a quarter of an hour to months.
pub(super) fn old(rng: &mut Rng) -> f64 {
    -rng.log_range(15.0 * MINUTE, 90.0 * DAY)
}

/// Kinds of servers.
pub(super) const KINDS: [Kind; 8] =
    [Kind::C, Kind::Cpp, Kind::Python, Kind::Node, Kind::Go, Kind::Java, Kind::Php, Kind::Ruby];

/// Kind of a server: what its memory does while nothing leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Small daemon: flat.
    C,
    /// glibc arenas of many threads: bursts are kept back, and returned by a trim at times.
    Cpp,
    /// Reference counts: close to flat, with bursts and a small cache.
    Python,
    /// Scavenges every few seconds, mark and sweep every few minutes.
    Node,
    /// GOGC: a saw between live and twice live; the scavenger smooths it.
    Go,
    /// Young collections by the second to the minute, mixed ones by the quarter of an hour.
    Java,
    /// Request memory is freed as a whole after each.
    Php,
    /// malloc with few arenas, grown to what the largest request needed.
    Ruby,
}

impl Kind {
    pub(super) fn comm(self, rng: &mut Rng) -> &'static str {
        match self {
            Self::C => rng.pick(&["collectd", "rsyslogd", "haproxy", "chrony-relay"]),
            Self::Cpp => rng.pick(&["mongod", "envoy", "clickhouse-serv", "engine"]),
            Self::Python => rng.pick(&["gunicorn", "uvicorn", "celery", "python3"]),
            Self::Node => rng.pick(&["node", "next-server", "MainThread"]),
            Self::Go => rng.pick(&["prometheus", "traefik", "api-go", "containerd"]),
            Self::Java => rng.pick(&["java", "kafka", "elasticsearch"]),
            Self::Php => "php-fpm",
            Self::Ruby => rng.pick(&["puma", "sidekiq"]),
        }
    }

    /// Usual sizes in bytes.
    pub(super) fn size(self, rng: &mut Rng) -> f64 {
        let (low, high) = match self {
            Self::C => (4.0, 80.0),
            Self::Cpp => (60.0, 12_000.0),
            Self::Python | Self::Ruby => (40.0, 900.0),
            Self::Node => (50.0, 1_200.0),
            Self::Go => (20.0, 3_000.0),
            Self::Java => (200.0, 16_000.0),
            Self::Php => (25.0, 200.0),
        };
        MIB * rng.log_range(low, high)
    }

    /// Process of that kind with this size; `swing` scales what comes and goes.
    pub(super) fn program(
        self,
        rng: &mut Rng,
        (cgroup, comm): (&str, &str),
        born: f64,
        bytes: f64,
        swing: f64,
    ) -> Program {
        let program = Program::new(rng, comm, cgroup, born);
        let libraries = MIB * rng.log_range(3.0, 90.0);
        let program = program.with(Sort::File, 0.0, steady(rng, libraries, 0.002));
        let boot_secs = rng.log_range(1.0, 60.0);
        let (rest, flicker) = (bytes, rng.log_range(0.000_02, 0.006));
        let still = {
            let mut grown = boot(1.0, boot_secs);
            let mut steady = steady(rng, rest, flicker);
            Box::new(move |now: &super::shapes::Now| grown(now) * steady(now)) as Shape
        };
        let program = program.anon(rest * (1.0 + 3.0 * flicker), still);
        let amount = swing * bytes;
        match self {
            Self::C => program,
            Self::Cpp => {
                let lasts = rng.log_range(1.0, 30.0);
                let asked = bursts(rng, 0.15 * amount, 40.0, lasts);
                let (trim, gives) = (rng.log_range(20.0, 600.0), rng.range(0.3, 1.0));
                program.anon(0.3 * amount, retained(rng, asked, trim, gives))
            }
            Self::Python => {
                let lasts = rng.log_range(0.5, 20.0);
                program.anon(0.2 * amount, bursts(rng, 0.1 * amount, 60.0, lasts))
            }
            Self::Node => {
                let (minor, major) = (rng.log_range(2.0, 20.0), rng.log_range(30.0, 300.0));
                let minor = Teeth {
                    bytes: 16.0 * MIB * swing,
                    secs: minor,
                    ragged: 0.3,
                    keeps: 0.0,
                    phase: None,
                };
                let major = Teeth {
                    bytes: 0.25 * amount,
                    secs: major,
                    ragged: 0.3,
                    keeps: 0.0,
                    phase: None,
                };
                let (minor, major) = (minor.shape(rng), major.shape(rng));
                program.anon(16.0 * MIB * swing, minor).anon(0.4 * amount, major)
            }
            Self::Go => {
                let secs = rng.log_range(2.0, 240.0);
                let saw =
                    Teeth { bytes: 0.7 * amount, secs, ragged: 0.15, keeps: 0.0, phase: None };
                let saw = saw.shape(rng);
                // The scavenger returns what stays free for some minutes.
                let slow = rng.log_range(30.0, 400.0);
                program.anon(amount, decaying(saw, slow))
            }
            Self::Java => {
                let (young, mixed) = (rng.log_range(3.0, 90.0), rng.log_range(120.0, 900.0));
                let (touched, old) = (rng.range(0.0, 0.1), rng.range(0.05, 0.3));
                let young = Teeth {
                    bytes: touched * amount,
                    secs: young,
                    ragged: 0.2,
                    keeps: 0.0,
                    phase: None,
                };
                let old = Teeth {
                    bytes: old * amount,
                    secs: mixed,
                    ragged: 0.25,
                    keeps: 0.02,
                    phase: None,
                };
                let (young, old) = (young.shape(rng), old.shape(rng));
                program.anon(0.15 * amount, young).anon(0.5 * amount, old)
            }
            Self::Php => {
                let lasts = rng.log_range(0.2, 4.0);
                program.anon(0.6 * amount, bursts(rng, 0.3 * amount, 15.0, lasts))
            }
            Self::Ruby => {
                let lasts = rng.log_range(0.5, 20.0);
                let asked = bursts(rng, 0.15 * amount, 90.0, lasts);
                let (trim, gives) = (rng.log_range(60.0, 2_000.0), rng.range(0.1, 0.6));
                program.anon(0.3 * amount, retained(rng, asked, trim, gives))
            }
        }
    }
}

/// Service that has long been settled, of any kind: what a leak may begin in.
pub(super) fn settled(rng: &mut Rng, name: &str) -> Program {
    let kind = rng.pick(&KINDS);
    let (group, bytes, born) = (cgroup(rng, name), kind.size(rng), old(rng));
    let comm = kind.comm(rng);
    let swing = rng.log_range(0.05, 0.6);
    kind.program(rng, (&group, comm), born, bytes, swing)
}

/// Healthy neighbours that every host has: small daemons, and a few that matter.
pub(super) fn neighbours(rng: &mut Rng, count: u64) -> Vec<Program> {
    (0..count)
        .map(|nth| {
            if rng.chance(0.5) {
                let daemon = rng.pick(&["systemd-journal", "sshd", "cron", "dbus-daemon", "snapd"]);
                let (born, bytes) =
                    (-rng.log_range(DAY, 200.0 * DAY), MIB * rng.log_range(1.0, 60.0));
                let group = format!("/system.slice/{daemon}{nth}.service");
                return Kind::C.program(rng, (&group, daemon), born, bytes, 0.0);
            }
            let neighbour = settled(rng, &format!("neighbour{nth}"));
            match rng.below(6) {
                // Under the load of people, in proportion.
                0 => {
                    let depth = rng.range(0.1, 0.6);
                    let bytes = 0.18 * neighbour.bound;
                    let load = daily_load(rng, depth);
                    let lag = rng.log_range(10.0, 900.0);
                    neighbour.load(load).anon(2.0 * bytes, with_load(bytes, lag))
                }
                // Caches that were filled hours ago, or still fill.
                1 => {
                    let (bytes, tau) = (0.22 * neighbour.bound, rng.log_range(600.0, 3.0 * HOUR));
                    neighbour.anon(bytes, saturating(bytes, tau))
                }
                2 => {
                    let (bytes, tau) = (0.22 * neighbour.bound, rng.log_range(60.0, HOUR));
                    let power = rng.range(0.6, 1.5);
                    neighbour.anon(bytes, heaps(bytes, tau, power))
                }
                _ => neighbour,
            }
        })
        .collect()
}
