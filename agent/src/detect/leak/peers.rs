//! Growth that a process shares with others: its workload's, and its limit's.

use std::collections::HashMap;

use super::{
    super::{growth::Surroundings, window::Horizons},
    limit_history::LimitHistory,
    process::Process,
    process_scan::ProcessScan,
    workload::Members,
};
/// Processes of a workload whose growth is added up; of more, so many stand for all. Otherwise a
/// workload of thousands that all grow would cost their number squared.
const OTHERS_MAX: usize = 64;

/// Shared growth at one scan.
pub(super) struct Peers<'a> {
    pub(super) scan: &'a ProcessScan<'a>,
    pub(super) processes: &'a HashMap<u32, Process>,
    pub(super) members: &'a Members,
    pub(super) limits: &'a LimitHistory,
    pub(super) horizons: &'a Horizons,
}

impl Surroundings for Peers<'_> {
    fn headroom_bytes(&self) -> f64 {
        self.scan.headroom.bytes
    }

    fn shmem_bytes(&self) -> f64 {
        self.scan.fact.shmem_bytes as f64
    }

    fn others_grew_kib(&self, horizon: usize, buckets: usize) -> f64 {
        let pid = self.scan.fact.id.pid;
        let Some(own) = self.processes.get(&pid) else { return 0.0 };
        let Some(pids) = self.members.pids(&own.workload) else { return 0.0 };
        let others = pids.iter().take(OTHERS_MAX).filter(|other| **other != pid);
        // Processes that this scan has not shown yet are a bucket behind.
        let rise_kib =
            |other: &Process| other.window.rise_kib(horizon, buckets - 2).unwrap_or(0.0).max(0.0);
        let share = (buckets - 1) as f64 / (buckets - 2) as f64
            * (pids.len() as f64 / OTHERS_MAX as f64).max(1.0);
        others.filter_map(|other| self.processes.get(other)).map(rise_kib).sum::<f64>() * share
    }

    fn recycled_kib(&self) -> u32 {
        let own = self.processes.get(&self.scan.fact.id.pid);
        own.map_or(0, |own| self.members.recycled_kib(&own.workload))
    }

    fn limit_rose_kib(&self, secs: f64) -> Option<f64> {
        self.limits.rose_kib(&self.scan.headroom, &self.scan.fact.cgroup, secs, self.horizons)
    }
}
