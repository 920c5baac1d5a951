//! Workloads: what leaks is a program in a cgroup, whatever pids carry it and however many do.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::sense::ProcessFact;

/// A program in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) cgroup: Arc<str>,
    pub(super) comm: Arc<str>,
}

impl Workload {
    pub(super) fn of(fact: &ProcessFact) -> Self {
        Self { cgroup: fact.cgroup.clone(), comm: fact.comm.clone() }
    }

    pub(super) fn is_of(&self, fact: &ProcessFact) -> bool {
        self.comm == fact.comm && self.cgroup == fact.cgroup
    }
}

/// Which processes are watched of each workload.
#[derive(Default)]
pub(super) struct Members(HashMap<Arc<Workload>, Vec<u32>>);

impl Members {
    /// Puts a process into its workload; returns the workload's one copy.
    pub(super) fn join(&mut self, fact: &ProcessFact) -> Arc<Workload> {
        let entry = self.0.entry(Arc::new(Workload::of(fact)));
        let workload = entry.key().clone();
        entry.or_default().push(fact.id.pid);
        workload
    }

    /// Takes a process out, and the workload with its last.
    pub(super) fn leave(&mut self, workload: &Arc<Workload>, pid: u32) {
        let Entry::Occupied(mut entry) = self.0.entry(workload.clone()) else { return };
        entry.get_mut().retain(|member| *member != pid);
        if entry.get().is_empty() {
            entry.remove();
        }
    }

    /// The processes of a workload.
    pub(super) fn pids(&self, workload: &Workload) -> &[u32] {
        self.0.get(workload).map_or(&[], Vec::as_slice)
    }
}
