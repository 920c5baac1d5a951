//! Workloads: the memory of each cgroup's processes, and its growth over the last hour.

use std::{collections::VecDeque, sync::Arc};

use foldhash::HashMap;

use crate::{
    sense::{Fact, MemorySum, ProcessFact},
    spare_room,
};

/// Maximum number of workloads. One takes up to a kilobyte.
pub const WORKLOADS_MAX: usize = 2_000;

/// Time between two points of a workload's history, and the number of them: an hour.
const POINT_SECS: f64 = 60.0;
const POINTS_MAX: usize = 60;

/// Shortest history that has a pace.
const GROWTH_SECS_MIN: f64 = 120.0;

/// Time for which the history of a workload without processes is kept: a restart is shorter.
const GONE_SECS: f64 = 600.0;

/// Workloads by cgroup.
#[derive(Debug, Default)]
pub struct WorkloadTable {
    by_cgroup: HashMap<Arc<str>, WorkloadState>,
}

#[derive(Debug, Default)]
struct WorkloadState {
    processes: u64,
    memory: MemorySum,
    largest: Option<(u64, u32, Arc<str>)>,
    limit_bytes: Option<u64>,
    charged_bytes: Option<u64>,
    /// Time and memory, the oldest first.
    points: VecDeque<(f64, u64)>,
    seen_t: f64,
}

/// A workload.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadRow {
    /// Cgroup.
    pub cgroup: Arc<str>,
    /// Processes.
    pub processes: u64,
    /// Process id and name of the largest process.
    pub largest: (u32, Arc<str>),
    /// Memory of its processes, in bytes.
    pub memory_bytes: u64,
    /// Growth in bytes per second; `None` before there are two minutes of history.
    pub growth_bytes_per_sec: Option<f64>,
    /// Time over which the growth is measured.
    pub growth_secs: f64,
    /// Limit on its memory.
    pub limit_bytes: Option<u64>,
}

impl WorkloadState {
    fn add(&mut self, process: &ProcessFact) {
        let bytes = process.private_bytes();
        self.processes += 1;
        self.memory.add(process);
        if self.largest.as_ref().is_none_or(|(most, ..)| bytes > *most) {
            self.largest = Some((bytes, process.id.pid, process.comm.clone()));
        }
        self.limit_bytes = process.memory_max_bytes;
        self.charged_bytes = process.memory_charged_bytes;
    }

    /// Growth in bytes per second since the oldest point, and the time since then.
    fn growth(&self) -> (Option<f64>, f64) {
        let (Some((first_t, first)), Some((last_t, last))) =
            (self.points.front(), self.points.back())
        else {
            return (None, 0.0);
        };
        let secs = last_t - first_t;
        let pace = (*last as f64 - *first as f64) / secs;
        ((secs >= GROWTH_SECS_MIN).then_some(pace), secs)
    }
}

impl WorkloadTable {
    /// Takes a scan of processes at `t`. Kernel threads and others without memory of their own are
    /// no workload.
    pub fn observe<'a>(&mut self, t: f64, facts: impl Iterator<Item = &'a Fact>) {
        for workload in self.by_cgroup.values_mut() {
            (workload.processes, workload.memory) = (0, MemorySum::default());
            workload.largest = None;
        }
        let processes = facts.filter_map(|fact| match fact {
            Fact::Process(process) if process.private_bytes() > 0 => Some(process),
            _ => None,
        });
        for process in processes {
            if let Some(workload) = self.by_cgroup.get_mut(&process.cgroup) {
                workload.add(process);
            } else if self.by_cgroup.len() < WORKLOADS_MAX {
                self.by_cgroup.entry(process.cgroup.clone()).or_default().add(process);
            }
        }
        self.by_cgroup.retain(|_, workload| {
            if workload.processes == 0 {
                return t - workload.seen_t < GONE_SECS;
            }
            workload.seen_t = t;
            let memory_bytes = workload.memory.bytes();
            if workload.points.back().is_none_or(|(last_t, _)| t - last_t >= POINT_SECS) {
                if workload.points.len() == POINTS_MAX {
                    workload.points.pop_front();
                }
                workload.points.push_back((t, memory_bytes));
            }
            true
        });
        spare_room::of_map(&mut self.by_cgroup);
    }

    fn running(&self) -> impl Iterator<Item = (&Arc<str>, &WorkloadState)> {
        self.by_cgroup.iter().filter(|(_, workload)| workload.processes > 0)
    }

    /// Returns the workloads that grow fastest, then the largest, and the number of all.
    pub fn rows(&self, max: usize) -> (Vec<WorkloadRow>, usize) {
        let mut rows: Vec<_> =
            self.running().map(|(cgroup, workload)| row(cgroup, workload)).collect();
        let total = rows.len();
        let grows = |row: &WorkloadRow| row.growth_bytes_per_sec.unwrap_or(0.0).max(0.0);
        rows.sort_by(|one, other| {
            let by_growth = grows(other).total_cmp(&grows(one));
            by_growth.then_with(|| other.memory_bytes.cmp(&one.memory_bytes))
        });
        rows.truncate(max);
        (rows, total)
    }

    /// Returns the largest workloads, by cgroup and memory in bytes, and the memory of all others.
    pub fn largest(&self, max: usize) -> (Vec<(Arc<str>, u64)>, u64) {
        let mut all: Vec<_> = self
            .running()
            .map(|(cgroup, workload)| (cgroup.clone(), workload.memory.bytes()))
            .collect();
        all.sort_by(|(one, one_bytes), (other, other_bytes)| {
            other_bytes.cmp(one_bytes).then_with(|| one.cmp(other))
        });
        let others = all.split_off(max.min(all.len()));
        (all, others.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
    }

    /// Iterates over the workloads with a limit: cgroup, memory charged against it, and the limit.
    pub fn limited(&self) -> impl Iterator<Item = (&Arc<str>, u64, u64)> {
        self.running().filter_map(|(cgroup, workload)| {
            let charged = workload.charged_bytes.unwrap_or_else(|| workload.memory.bytes());
            Some((cgroup, charged, workload.limit_bytes?))
        })
    }
}

fn row(cgroup: &Arc<str>, workload: &WorkloadState) -> WorkloadRow {
    let (growth_bytes_per_sec, growth_secs) = workload.growth();
    let largest = workload.largest.as_ref();
    WorkloadRow {
        cgroup: cgroup.clone(),
        processes: workload.processes,
        largest: largest.map_or_else(|| (0, "".into()), |(_, pid, comm)| (*pid, comm.clone())),
        memory_bytes: workload.memory.bytes(),
        growth_bytes_per_sec,
        growth_secs,
        limit_bytes: workload.limit_bytes,
    }
}
