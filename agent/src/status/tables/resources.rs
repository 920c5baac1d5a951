//! Limited resources: memory of the host and of limited cgroups, the open files of processes, and
//! every count that has a limit.

use std::sync::Arc;

use foldhash::HashMap;

use super::LimitSubject;
use crate::{
    detect::HostInfo,
    sense::{CountFact, CountedResource, Fact, ProcessId},
};

/// Share of its limit from which a process's open files are listed. A guess: with fewer it is far
/// from the end.
const FILES_SHARE_MIN: f64 = 0.1;

/// Maximum number of counts that are kept, and time after which one that is no longer read is gone,
/// in seconds: many times the period of any sensor.
const COUNTS_MAX: usize = 2_000;
const COUNT_KEPT_SECS: f64 = 60.0;

/// Resources with a limit.
#[derive(Debug)]
pub struct ResourceTable {
    mem_total_bytes: u64,
    mem_available_bytes: Option<u64>,
    /// Open files and their limit, of processes that use much of it.
    files: HashMap<ProcessId, (u64, u64)>,
    /// Names of these processes.
    names: HashMap<u32, Arc<str>>,
    counts: HashMap<(CountedResource, Arc<str>), LimitedCount>,
}

/// Last reading of a count.
#[derive(Debug)]
struct LimitedCount {
    t: f64,
    used: u64,
    limit: u64,
}

/// A limited resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceRow {
    /// Name: `memory`, `files`, or that of a count.
    pub resource: &'static str,
    /// Subject of the limit.
    pub subject: LimitSubject,
    /// Part in use.
    pub used: u64,
    /// Limit.
    pub limit: u64,
}

impl ResourceRow {
    fn share(&self) -> f64 {
        self.used as f64 / self.limit.max(1) as f64
    }
}

impl ResourceTable {
    /// Creates an empty table.
    pub fn new(host: HostInfo) -> Self {
        Self {
            mem_total_bytes: host.mem_total_bytes,
            mem_available_bytes: None,
            files: HashMap::default(),
            names: HashMap::default(),
            counts: HashMap::default(),
        }
    }

    /// Takes a scan of processes at `t`. Open files and counts are in one of several scans only,
    /// and stay until then.
    pub fn observe<'a>(&mut self, t: f64, facts: impl Iterator<Item = &'a Fact>) {
        let mut has_files = false;
        for fact in facts {
            match fact {
                Fact::Host(host) => self.mem_available_bytes = Some(host.mem_available_bytes),
                Fact::Exit(id) => drop(self.files.remove(id)),
                Fact::Handles(handles) => {
                    if !std::mem::replace(&mut has_files, true) {
                        self.files.clear();
                        self.names.clear();
                    }
                    let limit = handles
                        .fds_max
                        .filter(|limit| handles.fds as f64 >= *limit as f64 * FILES_SHARE_MIN);
                    if let Some(limit) = limit {
                        self.files.insert(handles.id, (handles.fds, limit));
                        self.names.insert(handles.id.pid, "".into());
                    }
                }
                Fact::Process(process) => {
                    if let Some(name) = self.names.get_mut(&process.id.pid) {
                        *name = process.comm.clone();
                    }
                }
                Fact::Count(count) => self.count(t, count),
                _ => {}
            }
        }
        self.counts.retain(|_, count| t - count.t <= COUNT_KEPT_SECS);
    }

    fn count(&mut self, t: f64, count: &CountFact) {
        let key = (count.resource.clone(), count.subject.clone());
        let has_room = self.counts.len() < COUNTS_MAX || self.counts.contains_key(&key);
        if let Some(limit) = count.limit.filter(|_| has_room) {
            self.counts.insert(key, LimitedCount { t, used: count.used, limit });
        }
    }

    /// Returns the fullest resources, with those of limited cgroups.
    pub fn rows<'a>(
        &self,
        max: usize,
        limited: impl Iterator<Item = (&'a Arc<str>, u64, u64)>,
    ) -> Vec<ResourceRow> {
        let host = self.mem_available_bytes.map(|available| ResourceRow {
            resource: "memory",
            subject: LimitSubject::Host,
            used: self.mem_total_bytes.saturating_sub(available),
            limit: self.mem_total_bytes,
        });
        let cgroups = limited.map(|(cgroup, used, limit)| ResourceRow {
            resource: "memory",
            subject: LimitSubject::Cgroup(cgroup.clone()),
            used,
            limit,
        });
        let files = self.files.iter().map(|(id, (used, limit))| ResourceRow {
            resource: "files",
            subject: LimitSubject::Process(
                id.pid,
                self.names.get(&id.pid).cloned().unwrap_or_default(),
            ),
            used: *used,
            limit: *limit,
        });
        let counts = self.counts.iter().map(|((resource, subject), count)| ResourceRow {
            resource: resource.metric_name(),
            subject: LimitSubject::Counted(subject.clone()),
            used: count.used,
            limit: count.limit,
        });
        let mut rows: Vec<_> = host.into_iter().chain(cgroups).chain(files).chain(counts).collect();
        rows.sort_by(|one, other| other.share().total_cmp(&one.share()));
        rows.truncate(max);
        rows
    }
}
