//! Workloads: a program in a cgroup, whichever and however many processes run it. Leaks are theirs.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::sense::{ProcessFact, kubepods};

/// A program in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
        let outlasting = kubepods::outlasting(&self.cgroup);
        if outlasting == &*self.cgroup {
            return self.clone();
        }
        Self { cgroup: outlasting.into(), ..self.clone() }
    }

    pub(super) fn is_of(&self, fact: &ProcessFact) -> bool {
        self.comm == fact.comm && self.cgroup == fact.cgroup
    }
}

/// Fewest processes of a workload that recycles them: one alone that ends is a restart.
const POOL_MIN: usize = 3;

/// Watched processes of each workload.
#[derive(Default)]
pub(super) struct Members(HashMap<Arc<Workload>, Pool>);

/// Processes of one workload.
#[derive(Default)]
struct Pool {
    /// In order, so that tens of thousands that end together cost little each.
    pids: BTreeSet<u32>,
    /// Sizes at which the last two ended by themselves, the latest first, in KiB; 0 if none did.
    ended_kib: [u32; 2],
}

impl Members {
    /// Adds a process to its workload, and returns the one copy of the workload.
    pub(super) fn join(&mut self, fact: &ProcessFact) -> Arc<Workload> {
        let entry = self.0.entry(Arc::new(Workload::of(fact)));
        let workload = entry.key().clone();
        entry.or_default().pids.insert(fact.id.pid);
        workload
    }

    /// Adds a process that was read from a file, and gives it the one copy of its workload.
    pub(super) fn join_again(&mut self, pid: u32, workload: &mut Arc<Workload>) {
        let entry = self.0.entry(workload.clone());
        *workload = entry.key().clone();
        entry.or_default().pids.insert(pid);
    }

    /// Removes a process, and the workload with its last.
    pub(super) fn leave(&mut self, workload: &Arc<Workload>, pid: u32) {
        let Entry::Occupied(mut entry) = self.0.entry(workload.clone()) else { return };
        entry.get_mut().pids.remove(&pid);
        if entry.get().pids.is_empty() {
            entry.remove();
        }
    }

    /// Takes the size at which a process of a pool ended by itself, far from its limit.
    pub(super) fn end(&mut self, workload: &Workload, kib: u32) {
        if let Some(pool) = self.0.get_mut(workload).filter(|pool| pool.pids.len() >= POOL_MIN) {
            pool.ended_kib = [kib, pool.ended_kib[0]];
        }
    }

    /// Size up to which a workload's processes grow before they are replaced, as two of them show;
    /// 0 if unknown.
    pub(super) fn recycled_kib(&self, workload: &Workload) -> u32 {
        self.0.get(workload).map_or(0, |pool| pool.ended_kib[0].min(pool.ended_kib[1]))
    }

    /// Pools of which processes have ended by themselves, and the sizes of the last two.
    pub(super) fn ended(&self) -> Vec<(&Workload, [u32; 2])> {
        let ended = self.0.iter().filter(|(_, pool)| pool.ended_kib != [0, 0]);
        ended.map(|(workload, pool)| (&**workload, pool.ended_kib)).collect()
    }

    /// Takes over what [`Self::ended`] returned before a restart, of workloads that still run.
    pub(super) fn end_again(&mut self, ended: Vec<(Workload, [u32; 2])>) {
        for (workload, ended_kib) in ended {
            if let Some(pool) = self.0.get_mut(&workload) {
                pool.ended_kib = ended_kib;
            }
        }
    }

    /// Returns the processes of a workload, if it has any.
    pub(super) fn pids(&self, workload: &Workload) -> Option<&BTreeSet<u32>> {
        self.0.get(workload).map(|pool| &pool.pids)
    }
}
