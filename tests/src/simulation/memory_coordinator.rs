//! Coordinator in memory: reports with a time to live, slots that expire with them, and a
//! compare-and-swap on the revision of the last grant, as etcd has it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use spillway_agent::fleet::{
    Acquired, Coordinator, CoordinatorError, Member, NodeReport, NodeState, Snapshot,
};

/// Time after which a report that is not renewed counts as silent, and its slot is free.
pub const TTL_SECS: f64 = 45.0;

/// Reports and slots of a group. Members keep their place.
#[derive(Debug, Default)]
pub struct Store {
    snapshot: Snapshot,
    /// Time at which each report was renewed last.
    renewed: Vec<f64>,
    /// Run that holds each node's slot, and the time at which it was renewed last.
    slots: Vec<Option<(u64, f64)>>,
}

impl Store {
    /// Creates a store in which these nodes have reported at `t`.
    pub fn new(reports: Vec<NodeReport>, t: f64) -> Self {
        let (renewed, slots) = (vec![t; reports.len()], vec![None; reports.len()]);
        let member = |report: NodeReport| Member {
            node: report.node.clone(),
            is_alive: true,
            has_slot: false,
            report: Ok(report),
        };
        let members = reports.into_iter().map(member).collect();
        Self { snapshot: Snapshot { members, grant_revision: 0 }, renewed, slots }
    }

    /// Renews the report of a node, and the slot of this run.
    pub fn renew(&mut self, nth: usize, run: u64, t: f64) {
        self.expire(nth, t);
        self.renewed[nth] = t;
        self.snapshot.members[nth].is_alive = true;
        if let Some((holder, renewed)) = &mut self.slots[nth]
            && *holder == run
        {
            *renewed = t;
        }
    }

    /// Takes a report, and renews it. A node that is out has its slot back.
    pub fn publish(&mut self, nth: usize, report: &NodeReport, t: f64) {
        self.renew(nth, report.run, t);
        if report.state == NodeState::Out {
            self.slots[nth] = Some((report.run, t));
            self.snapshot.members[nth].has_slot = true;
        }
        if let Ok(kept) = &mut self.snapshot.members[nth].report {
            copy(kept, report);
        } else {
            self.snapshot.members[nth].report = Ok(report.clone());
        }
    }

    /// Lets time pass until `t`.
    pub fn advance(&mut self, t: f64) {
        for nth in 0..self.renewed.len() {
            self.expire(nth, t);
        }
    }

    /// Group as of the last time.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn expire(&mut self, nth: usize, t: f64) {
        if t - self.renewed[nth] > TTL_SECS {
            self.snapshot.members[nth].is_alive = false;
        }
        if self.slots[nth].take_if(|(_, renewed)| t - *renewed > TTL_SECS).is_some() {
            self.snapshot.members[nth].has_slot = false;
        }
    }

    /// Time at which the slot of a node was renewed last; `None` if it holds none.
    pub fn slot_renewed_at(&self, nth: usize) -> Option<f64> {
        self.slots[nth].map(|(_, renewed)| renewed)
    }

    /// Gives a slot to a node, if none was given since the revision.
    pub fn acquire(&mut self, nth: usize, revision: i64, slots: usize, t: f64) -> Acquired {
        self.advance(t);
        let group = &self.snapshot;
        if group.members[nth].has_slot {
            return Acquired::Taken;
        }
        if group.grant_revision != revision || !group.members[nth].is_alive {
            return Acquired::Stale;
        }
        if group.members.iter().filter(|member| member.has_slot).count() >= slots {
            return Acquired::Denied("all slots are taken".to_owned());
        }
        let run = self.snapshot.members[nth].report.as_ref().map_or(0, |report| report.run);
        self.slots[nth] = Some((run, t));
        self.snapshot.members[nth].has_slot = true;
        self.snapshot.grant_revision += 1;
        Acquired::Taken
    }

    /// Takes a node's slot back.
    pub fn release(&mut self, nth: usize) {
        self.slots[nth] = None;
        self.snapshot.members[nth].has_slot = false;
    }
}

/// Copies a report into the place of the last one of the same node, whose names never change.
fn copy(kept: &mut NodeReport, report: &NodeReport) {
    *kept = NodeReport {
        node: mem::take(&mut kept.node),
        group: mem::take(&mut kept.group),
        zone: mem::take(&mut kept.zone),
        region: mem::take(&mut kept.region),
        end: report.end.clone(),
        ..*report
    };
}

/// Connection of one node to a store that all nodes share. Its clones are one connection.
#[derive(Debug, Clone)]
pub struct MemoryCoordinator {
    store: Arc<Mutex<Store>>,
    nth: usize,
    slots: usize,
    /// Time, and set if this node cannot reach the store.
    now: Arc<Mutex<(f64, bool)>>,
    /// Set while this connection has a slot, and once that has expired.
    took_slot: bool,
    lost_slot: bool,
}

impl MemoryCoordinator {
    /// Connects the node in this place of the store.
    pub fn new(store: Arc<Mutex<Store>>, nth: usize, slots: usize) -> Self {
        let now = Arc::new(Mutex::new((0.0, false)));
        Self { store, nth, slots, now, took_slot: false, lost_slot: false }
    }

    /// Sets the time, and whether this node is cut off from the store.
    pub fn set(&self, now: f64, is_cut_off: bool) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (now, is_cut_off);
    }

    fn store(&self) -> Result<(f64, MutexGuard<'_, Store>), CoordinatorError> {
        let (now, is_cut_off) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if is_cut_off {
            return Err(CoordinatorError::Unreachable {
                coordinator: "memory",
                address: "the store".to_owned(),
                why: "this node is cut off".to_owned(),
            });
        }
        Ok((now, self.store.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Coordinator for MemoryCoordinator {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError> {
        let (now, mut store) = self.store()?;
        store.publish(self.nth, report, now);
        let has_slot = store.slot_renewed_at(self.nth).is_some();
        drop(store);
        self.took_slot |= report.state == NodeState::Out;
        self.lost_slot = self.took_slot && !has_slot;
        Ok(())
    }

    fn has_lost_slot(&self) -> bool {
        self.lost_slot
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        let (now, mut store) = self.store()?;
        store.advance(now);
        Ok(Some(store.snapshot().clone()))
    }

    fn acquire(&mut self, since: Option<&Snapshot>) -> Result<Acquired, CoordinatorError> {
        let revision = since.map_or(-1, |snapshot| snapshot.grant_revision);
        let (now, mut store) = self.store()?;
        let acquired = store.acquire(self.nth, revision, self.slots, now);
        drop(store);
        self.took_slot |= acquired == Acquired::Taken;
        Ok(acquired)
    }

    fn release(&mut self) -> Result<(), CoordinatorError> {
        self.store()?.1.release(self.nth);
        (self.took_slot, self.lost_slot) = (false, false);
        Ok(())
    }
}
