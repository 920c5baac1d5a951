//! Lives of workloads that ended near their limit, for the picture of another one of the same
//! workload.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{explained::Life, series::Thinned};
use crate::sense::{ProcessFact, ProcessId, kubepods};

/// Maximum points kept of one life: many are drawn side by side.
const POINTS_MAX: usize = 256;

/// Maximum number of lives kept of a workload, the latest ones, and of workloads.
const LIVES_MAX: usize = 50;
const WORKLOADS_MAX: usize = 256;

/// Share of its limit that a process has used when it is last seen, if it ends near it.
const NEAR_SHARE: f64 = 0.7;

/// Program in a cgroup, or in a pod, whose restarted containers have other cgroups.
type Lineage = (Arc<str>, Arc<str>);

/// Running processes, and those that ended near their limit.
#[derive(Default)]
pub(super) struct LivesAtLimit {
    running: HashMap<u32, Running>,
    ended: HashMap<Lineage, VecDeque<(ProcessId, Thinned)>>,
}

struct Running {
    id: ProcessId,
    lineage: Lineage,
    is_near: bool,
    memory: Thinned,
}

impl LivesAtLimit {
    /// Takes a process at one scan.
    pub(super) fn see(&mut self, t: f64, fact: &ProcessFact) {
        if self.running.get(&fact.id.pid).is_some_and(|running| running.id != fact.id) {
            self.end_pid(fact.id.pid);
        }
        let running = self.running.entry(fact.id.pid).or_insert_with(|| Running {
            id: fact.id,
            lineage: lineage(&fact.cgroup, &fact.comm),
            is_near: false,
            memory: Thinned::with_at_most(POINTS_MAX),
        });
        let used = fact.memory_charged_bytes.unwrap_or_else(|| fact.private_bytes());
        let limit = fact.memory_max_bytes.filter(|limit| *limit > 0);
        running.is_near = limit.is_some_and(|limit| used as f64 >= NEAR_SHARE * limit as f64);
        if *running.lineage.1 != *fact.comm {
            running.lineage = lineage(&fact.cgroup, &fact.comm);
        }
        running.memory.push(t, fact.private_bytes());
    }

    /// Takes the end of a process.
    pub(super) fn end(&mut self, id: ProcessId) {
        if self.running.get(&id.pid).is_some_and(|running| running.id == id) {
            self.end_pid(id.pid);
        }
    }

    fn end_pid(&mut self, pid: u32) {
        let Some(Running { id, lineage, is_near, memory }) = self.running.remove(&pid) else {
            return;
        };
        if !is_near || (self.ended.len() >= WORKLOADS_MAX && !self.ended.contains_key(&lineage)) {
            return;
        }
        let lives = self.ended.entry(lineage).or_default();
        if lives.len() >= LIVES_MAX {
            lives.pop_front();
        }
        lives.push_back((id, memory));
    }

    /// Returns the other lives of the same workload as this life of a pid.
    pub(super) fn of(mut self, life: &Life, pid: u32) -> Vec<Thinned> {
        let lives = self.ended.remove(&lineage(&life.cgroup, &life.comm)).unwrap_or_default();
        lives.into_iter().filter(|(id, _)| id.pid != pid).map(|(_, memory)| memory).collect()
    }
}

fn lineage(cgroup: &str, comm: &Arc<str>) -> Lineage {
    (kubepods::outlasting(cgroup).into(), comm.clone())
}
