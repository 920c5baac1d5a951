//! Workloads: a program in a cgroup, whichever and however many processes run it. Leaks are theirs.

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

    /// Workload that outlives a container: of a pod's container, whose cgroup each restart changes,
    /// the pod's.
    pub(super) fn lineage(&self) -> Self {
        let parent = self.cgroup.rsplit_once('/').map(|(parent, _)| parent);
        let pod = parent.filter(|parent| {
            let name = parent.rsplit('/').next().unwrap_or_default();
            self.cgroup.contains("kubepods") && name.contains("pod")
        });
        Self { cgroup: pod.map_or_else(|| self.cgroup.clone(), Arc::from), ..self.clone() }
    }

    pub(super) fn is_of(&self, fact: &ProcessFact) -> bool {
        self.comm == fact.comm && self.cgroup == fact.cgroup
    }
}

/// Watched processes of each workload.
#[derive(Default)]
pub(super) struct Members(HashMap<Arc<Workload>, Vec<u32>>);

impl Members {
    /// Adds a process to its workload, and returns the one copy of the workload.
    pub(super) fn join(&mut self, fact: &ProcessFact) -> Arc<Workload> {
        let entry = self.0.entry(Arc::new(Workload::of(fact)));
        let workload = entry.key().clone();
        entry.or_default().push(fact.id.pid);
        workload
    }

    /// Removes a process, and the workload with its last.
    pub(super) fn leave(&mut self, workload: &Arc<Workload>, pid: u32) {
        let Entry::Occupied(mut entry) = self.0.entry(workload.clone()) else { return };
        entry.get_mut().retain(|member| *member != pid);
        if entry.get().is_empty() {
            entry.remove();
        }
    }

    /// Returns the processes of a workload.
    pub(super) fn pids(&self, workload: &Workload) -> &[u32] {
        self.0.get(workload).map_or(&[], Vec::as_slice)
    }
}
