//! Pressure on the service behind a queue: CPU, memory, or neither.
//!
//! A service is read only while connections wait at it, or more rarely while requests do, so that a
//! host without queues pays nothing, and at most [`READS_MAX`] are read in one scan: with more
//! queues, each is read less often. A fact is the difference to the previous reading; one older
//! than [`BASELINE_SECS`] does not count, and the first gives no fact. Failure: a value that cannot
//! be read is left out; processes and cgroups come and go. The sensor writes nothing and enters no
//! namespace. Cost: some 80 µs a reading of a service with one process, measured on a 6.18 host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use foldhash::{HashMap, HashMapExt as _};
use procfs::process::Process;

use super::{Hierarchy, ServicePressureFact};

/// Maximum number of readings in one scan: a millisecond or so, a hundredth of the default
/// interval.
const READS_MAX: usize = 16;

/// Time between two readings of a service.
const EVERY_SECS: f64 = 0.1;

/// Interval while only requests wait, as they do at many healthy services: a fifth of the cost.
const EVERY_SECS_OF_REQUESTS: f64 = 0.5;

/// Maximum age of a reading to compare with: a queue that comes and goes is measured in its current
/// state.
const BASELINE_SECS: f64 = 2.0;

/// Tolerance for timers that fire early or late, so that no turn is skipped.
const SLACK_SECS: f64 = 0.02;

/// Reads the pressure on services.
pub(super) struct ServicePressureSensor {
    unified: Hierarchy,
    readings: HashMap<u32, ServiceReading>,
    /// Services that were read in this scan, and those that could have been.
    reads: usize,
    wanted: usize,
    every_secs: f64,
}

/// Kind of work that waits at a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingAt {
    Connections,
    Requests,
}

/// Last reading of a service.
struct ServiceReading {
    t: f64,
    /// Time at which something last waited.
    wanted_t: f64,
    cgroup: Option<PathBuf>,
    totals: Totals,
}

/// Cumulative counts; `None` if they cannot be read.
#[derive(Debug, Default)]
struct Totals {
    cpu_stall_us: Option<u64>,
    memory_stall_us: Option<u64>,
    /// Pid, nanoseconds that its main thread ran, and nanoseconds that it waited for a CPU.
    threads: Vec<(u32, u64, u64)>,
    retransmits: Option<u64>,
    refused: Option<u64>,
}

impl ServicePressureSensor {
    /// Creates a sensor for the unified hierarchy.
    pub(super) fn new(unified: Hierarchy) -> Self {
        Self { unified, readings: HashMap::new(), reads: 0, wanted: 0, every_secs: EVERY_SECS }
    }

    /// Reads the service of `pid`, whose socket `holders` hold; `None` the first time, and if it is
    /// not its turn. `now` is in seconds on any monotonic clock.
    pub(super) fn read(
        &mut self,
        now: f64,
        waiting: WaitingAt,
        pid: u32,
        holders: &[u32],
    ) -> Option<ServicePressureFact> {
        self.wanted += 1;
        let every_secs = match waiting {
            WaitingAt::Connections => self.every_secs,
            WaitingAt::Requests => self.every_secs.max(EVERY_SECS_OF_REQUESTS),
        };
        let last = self.readings.get_mut(&pid);
        let is_due = last.is_none_or(|last| {
            last.wanted_t = now;
            now - last.t + SLACK_SECS >= every_secs
        });
        if !is_due || self.reads >= READS_MAX {
            return None;
        }
        self.reads += 1;
        let before = self.readings.remove(&pid);
        let cgroup = match &before {
            Some(before) => before.cgroup.clone(),
            None => own_cgroup(&self.unified, pid),
        };
        let totals = Totals::read(pid, holders, cgroup.as_deref());
        let baseline_secs = BASELINE_SECS.max(2.0 * self.every_secs);
        let fact = before
            .filter(|before| now > before.t && now - before.t <= baseline_secs)
            .map(|before| totals.since(&before.totals, now - before.t));
        self.readings.insert(pid, ServiceReading { t: now, wanted_t: now, cgroup, totals });
        fact
    }

    /// Ends a scan: drops services at which nothing waits, and reads each less often if there
    /// are many.
    pub(super) fn end_scan(&mut self, now: f64) {
        self.every_secs = EVERY_SECS * self.wanted.div_ceil(READS_MAX).max(1) as f64;
        let baseline_secs = BASELINE_SECS.max(2.0 * self.every_secs);
        self.readings.retain(|_, reading| now - reading.wanted_t <= baseline_secs);
        (self.reads, self.wanted) = (0, 0);
    }
}

impl Totals {
    fn read(pid: u32, holders: &[u32], cgroup: Option<&Path>) -> Self {
        let stall_us = |path: PathBuf| stall_us(&fs::read_to_string(path).ok()?);
        let thread = |&pid: &u32| {
            let stat = Process::new(pid as i32).and_then(|process| process.schedstat()).ok()?;
            Some((pid, stat.sum_exec_runtime, stat.run_delay))
        };
        let network = Process::new(pid as i32).and_then(|process| process.snmp()).ok();
        Self {
            cpu_stall_us: cgroup.and_then(|cgroup| stall_us(cgroup.join("cpu.pressure"))),
            memory_stall_us: cgroup
                .and_then(|cgroup| stall_us(cgroup.join("memory.pressure")))
                .or_else(|| stall_us(PathBuf::from("/proc/pressure/memory"))),
            threads: holders.iter().filter_map(thread).collect(),
            retransmits: network.as_ref().map(|network| network.tcp_retrans_segs),
            refused: network.as_ref().map(|network| network.tcp_attempt_fails),
        }
    }

    fn since(&self, before: &Self, secs: f64) -> ServicePressureFact {
        let rise = |now: Option<u64>, then: Option<u64>| now?.checked_sub(then?);
        let percent =
            |rise: u64, units_per_sec: f64| (rise as f64 / units_per_sec / secs * 100.0).min(100.0);
        let threads = || {
            self.threads.iter().filter_map(|now| {
                let then = before.threads.iter().find(|then| then.0 == now.0)?;
                Some((now.1.checked_sub(then.1)?, now.2.checked_sub(then.2)?))
            })
        };
        ServicePressureFact {
            secs,
            psi_cpu_some_percent: rise(self.cpu_stall_us, before.cpu_stall_us)
                .map(|us| percent(us, 1e6)),
            psi_memory_some_percent: rise(self.memory_stall_us, before.memory_stall_us)
                .map(|us| percent(us, 1e6)),
            busiest_thread_percent: threads().map(|(ran, _)| ran).max().map(|ns| percent(ns, 1e9)),
            thread_waits_percent: threads()
                .map(|(_, waited)| waited)
                .max()
                .map(|ns| percent(ns, 1e9)),
            retransmits: rise(self.retransmits, before.retransmits),
            refused: rise(self.refused, before.refused),
        }
    }
}

/// Returns the cgroup of a process in the unified hierarchy; `None` for the root, which stands for
/// the host.
fn own_cgroup(unified: &Hierarchy, pid: u32) -> Option<PathBuf> {
    let (mount, path) = unified.mount().zip(unified.path_of(pid))?;
    let below = path.strip_prefix("/").ok()?;
    (!below.as_os_str().is_empty()).then(|| mount.join(below))
}

/// Parses the total of a pressure file's `some` line, in microseconds. Before 5.13 `cpu` has no
/// other line.
pub(super) fn stall_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{WaitingAt::Connections, *};

    #[test]
    fn pressure_file_is_parsed_or_rejected() {
        let both = "some avg10=49.32 avg60=48.60 avg300=64.39 total=9869\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(stall_us(both), Some(9_869));
        assert_eq!(stall_us("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"), Some(5));
        for text in [
            "",
            "some",
            "some total=",
            "some total=-1",
            "full total=3",
            "sometotal=3",
            "some avg10=1",
            "\0",
            "some total=1x",
        ] {
            assert_eq!(stall_us(text), None, "{text:?}");
        }
    }

    #[test]
    fn fact_is_the_difference_and_at_most_the_whole_time() {
        let before = Totals {
            cpu_stall_us: Some(1_000_000),
            memory_stall_us: None,
            threads: vec![(7, 0, 0), (8, 500_000_000, 0), (9, 9, 9)],
            retransmits: Some(3),
            refused: Some(9),
        };
        let now = Totals {
            cpu_stall_us: Some(1_050_000),
            memory_stall_us: Some(5),
            // The second ran longer than the time that passed; the third reuses a pid.
            threads: vec![(7, 40_000_000, 30_000_000), (8, 900_000_000, 0), (9, 1, 1)],
            retransmits: Some(5),
            refused: Some(2),
        };
        let fact = now.since(&before, 0.1);
        assert_eq!(fact.psi_cpu_some_percent, Some(50.0));
        assert_eq!(fact.psi_memory_some_percent, None);
        assert_eq!(
            (fact.busiest_thread_percent, fact.thread_waits_percent),
            (Some(100.0), Some(30.0))
        );
        assert_eq!((fact.retransmits, fact.refused), (Some(2), None));
    }

    #[test]
    fn ended_process_has_no_values() {
        let mut sensor = ServicePressureSensor::new(Hierarchy::None);
        let pid = std::process::id();
        assert_eq!(sensor.read(0.0, Connections, pid, &[pid]), None, "there is no earlier reading");
        sensor.end_scan(0.0);
        assert_eq!(sensor.read(0.05, Connections, pid, &[pid]), None, "it is not its turn");
        sensor.end_scan(0.05);
        let fact = sensor.read(0.1, Connections, pid, &[pid]).expect("it is read");
        assert!(fact.busiest_thread_percent.is_some() && fact.retransmits.is_some(), "{fact:?}");
        sensor.end_scan(0.1);
        assert_eq!(
            sensor.read(5.0, Connections, pid, &[pid]),
            None,
            "the last reading is too old to compare with"
        );
        // No pid is so large.
        assert_eq!(sensor.read(5.0, Connections, u32::MAX >> 1, &[]), None);
        let gone = sensor.read(5.1, Connections, u32::MAX >> 1, &[]).expect("it is due");
        assert_eq!((gone.busiest_thread_percent, gone.retransmits), (None, None));
        sensor.end_scan(20.0);
        assert!(sensor.readings.is_empty());
    }

    #[test]
    fn service_at_which_only_requests_wait_is_read_more_rarely() {
        let mut sensor = ServicePressureSensor::new(Hierarchy::None);
        let pid = std::process::id();
        let mut read = Vec::new();
        for scan in 0..=10 {
            let now = f64::from(scan) / 10.0;
            if sensor.read(now, WaitingAt::Requests, pid, &[pid]).is_some() {
                read.push(scan);
            }
            sensor.end_scan(now);
        }
        assert_eq!(read, [5, 10]);
    }

    #[test]
    fn many_services_take_turns() {
        let mut sensor = ServicePressureSensor::new(Hierarchy::None);
        let mut read = std::collections::HashSet::new();
        for scan in 0..6 {
            let now = f64::from(scan) / 10.0;
            for pid in 0..64 {
                // There are no such processes, which does not matter for turns.
                sensor.read(now, Connections, (u32::MAX >> 1) - pid, &[]);
            }
            assert!(sensor.reads <= READS_MAX);
            read.extend(sensor.readings.keys().copied());
            sensor.end_scan(now);
        }
        assert_eq!(read.len(), 64);
    }
}
