//! Processes without a free file descriptor: why a service stops accepting although it runs.
//!
//! Each connection takes a descriptor, and without one accept() fails. A process counts while the
//! last reading shows that hardly one is free; readings come every ten seconds. It belongs to a
//! service if it is the listener's owner, or a child of the owner in its cgroup: a worker of it. A
//! cgroup alone proves nothing, because a session or a supervisor runs many services in one.
//! Bounded by [`PROCESSES_MAX`]. Cold start: nothing is exhausted.

use std::sync::Arc;

use foldhash::HashMap;

use super::claim::ExhaustedFiles;
use crate::sense::{ProcessFact, ProcessResourcesFact};

/// Processes that are remembered.
const PROCESSES_MAX: usize = 256;

/// Share of the limit that may still be free: a server that cannot accept goes on to close and to
/// open files.
const FREE_SHARE: f64 = 0.02;

/// Time after which a reading is too old: two and a half times the sensor's interval.
const STALE_SECS: f64 = 25.0;

/// Processes that have opened as many files as they may.
#[derive(Debug, Default)]
pub(super) struct ExhaustedProcesses {
    processes: HashMap<u32, Exhausted>,
}

#[derive(Debug)]
struct Exhausted {
    t: f64,
    files: ExhaustedFiles,
    /// Parent's pid, and the cgroup; 0 and empty until they are known.
    ppid: u32,
    cgroup: Arc<str>,
}

impl ExhaustedProcesses {
    /// Takes the number of open files of a process.
    pub(super) fn observe(&mut self, t: f64, fact: &ProcessResourcesFact) {
        let pid = fact.id.pid;
        let limit = fact.fds_max.filter(|max| {
            *max > 0 && fact.fds as f64 >= (*max as f64 * (1.0 - FREE_SHARE)).max(1.0)
        });
        let Some(files_max) = limit else {
            self.processes.remove(&pid);
            return;
        };
        let files = ExhaustedFiles { files_pid: pid, files: fact.fds, files_max };
        if let Some(known) = self.processes.get_mut(&pid) {
            (known.t, known.files) = (t, files);
        } else if self.processes.len() < PROCESSES_MAX {
            self.processes.insert(pid, Exhausted { t, files, ppid: 0, cgroup: Arc::from("") });
        }
    }

    /// Takes the parent and cgroup of a process, if it is one of them.
    pub(super) fn locate(&mut self, fact: &ProcessFact) {
        if let Some(known) = self.processes.get_mut(&fact.id.pid) {
            (known.ppid, known.cgroup) = (fact.ppid, fact.cgroup.clone());
        }
    }

    /// Forgets processes whose last reading is old.
    pub(super) fn prune(&mut self, t: f64) {
        self.processes.retain(|_, known| t - known.t <= STALE_SECS);
    }

    /// Returns the process of a service that is exhausted: the owner of its listener, or the first
    /// of its children in its cgroup.
    pub(super) fn of(&self, t: f64, owner: Option<u32>, cgroup: &str) -> Option<ExhaustedFiles> {
        let owner = owner?;
        let is_fresh = |known: &&Exhausted| t - known.t <= STALE_SECS;
        let own = self.processes.get(&owner).filter(is_fresh);
        let child = || {
            let fresh = self.processes.values().filter(is_fresh);
            let children = fresh.filter(|known| known.ppid == owner && *known.cgroup == *cgroup);
            children.min_by_key(|known| known.files.files_pid)
        };
        own.or_else(child).map(|known| known.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::ProcessId;

    fn opened(pid: u32, fds: u64, fds_max: Option<u64>) -> ProcessResourcesFact {
        let id = ProcessId { pid, start_ticks: 1 };
        ProcessResourcesFact { id, fds, fds_max, threads: 1, close_wait: None }
    }

    #[test]
    fn process_counts_while_hardly_a_descriptor_is_free() {
        let mut processes = ExhaustedProcesses::default();
        let files = |processes: &ExhaustedProcesses, t| {
            processes.of(t, Some(7), "").map(|known| (known.files, known.files_max))
        };
        processes.observe(0.0, &opened(7, 39, Some(40)));
        assert_eq!(files(&processes, 0.0), None);
        processes.observe(10.0, &opened(7, 40, Some(40)));
        assert_eq!(files(&processes, 10.0), Some((40, 40)));
        assert_eq!(files(&processes, 36.0), None, "the reading is old");
        processes.observe(20.0, &opened(7, 1_010, Some(1_024)));
        assert_eq!(files(&processes, 20.0), Some((1_010, 1_024)));
        processes.observe(30.0, &opened(7, 400, Some(1_024)));
        assert_eq!(files(&processes, 30.0), None);
        processes.observe(40.0, &opened(7, 1 << 20, None));
        assert_eq!(files(&processes, 40.0), None, "without a limit");
    }

    #[test]
    fn child_of_the_owner_in_its_cgroup_is_named() {
        let mut processes = ExhaustedProcesses::default();
        processes.observe(0.0, &opened(12, 40, Some(40)));
        let pid = |processes: &ExhaustedProcesses, owner, cgroup| {
            processes.of(1.0, owner, cgroup).map(|known| known.files_pid)
        };
        assert_eq!(pid(&processes, Some(7), "/app"), None, "its parent is unknown");
        let fact: ProcessFact = serde_json::from_str(
            r#"{"pid":12,"start_ticks":1,"ppid":7,"comm":"worker","cgroup":"/app",
                "anon_bytes":0,"file_bytes":0,"shmem_bytes":0,"swap_bytes":0}"#,
        )
        .expect("it is a process");
        processes.locate(&fact);
        assert_eq!(pid(&processes, Some(7), "/app"), Some(12));
        assert_eq!(pid(&processes, Some(7), "/other"), None);
        // Another service of the same session.
        assert_eq!(pid(&processes, Some(8), "/app"), None);
        assert_eq!(pid(&processes, None, "/app"), None);
    }

    #[test]
    fn exhausted_processes_are_bounded_and_forgotten() {
        let mut processes = ExhaustedProcesses::default();
        for pid in 0..2 * PROCESSES_MAX as u32 {
            processes.observe(0.0, &opened(pid, 40, Some(40)));
        }
        assert_eq!(processes.processes.len(), PROCESSES_MAX);
        processes.prune(STALE_SECS + 1.0);
        assert!(processes.processes.is_empty());
    }
}
