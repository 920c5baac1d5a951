//! Tables of the status: workloads by growth, listeners by wait, and resources by what is left.
//!
//! Kept from the observations that the detectors get, whatever they claim about them, so that a
//! person sees what is normal here too. Pure. Cold start: empty; growth is known after two minutes.
//! Bounded: 2,000 workloads and as many listeners; the rest is left out.

pub(super) mod entries;
mod listeners;
mod resources;
mod workloads;

use std::sync::Arc;

pub use listeners::{ListenerRow, ListenerTable};
pub use resources::{ResourceRow, ResourceTable};
pub use workloads::{WorkloadRow, WorkloadTable};

use crate::{detect::HostInfo, scan_loop::ScanKind, sense::Observation};

/// Rows of a table that are listed. A guess: more than a person reads.
const ROWS_MAX: usize = 100;

/// Workloads that have a metric of their own: a guess at what a dashboard can show.
const LARGEST_MAX: usize = 20;

/// Tables of this host.
#[derive(Debug)]
pub struct HostTables {
    workloads: WorkloadTable,
    listeners: ListenerTable,
    resources: ResourceTable,
    /// Set if the next scan of listeners is taken: one for each scan of processes is enough for a
    /// person.
    takes_listeners: bool,
}

/// Rows of the tables at one time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableRows {
    /// Workloads, and the number of all in the table.
    pub workloads: (Vec<WorkloadRow>, usize),
    /// Listeners, and the number of all in the table.
    pub listeners: (Vec<ListenerRow>, usize),
    /// Resources.
    pub resources: Vec<ResourceRow>,
}

/// Subject of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitSubject {
    /// The whole host.
    Host,
    /// A cgroup.
    Cgroup(Arc<str>),
    /// A process, with its name.
    Process(u32, Arc<str>),
    /// Subject of a count, by its name, such as a mount point.
    Counted(Arc<str>),
}

impl HostTables {
    /// Creates empty tables.
    pub fn new(host: HostInfo) -> Self {
        Self {
            workloads: WorkloadTable::default(),
            listeners: ListenerTable::default(),
            resources: ResourceTable::new(host),
            takes_listeners: false,
        }
    }

    /// Takes the observations of one read at `t`.
    pub fn observe(&mut self, read: ScanKind, t: f64, observations: &[Observation]) {
        let facts = || observations.iter().map(|observation| &observation.fact);
        match read {
            ScanKind::Processes => {
                self.workloads.observe(t, facts());
                self.resources.observe(t, facts());
                self.takes_listeners = true;
            }
            ScanKind::Listeners if self.takes_listeners => {
                self.listeners.observe(t, facts());
                self.takes_listeners = false;
            }
            ScanKind::Listeners => {}
        }
    }

    /// Returns the largest workloads, by cgroup and memory in bytes, and the memory of all others.
    pub fn largest_workloads(&self) -> (Vec<(Arc<str>, u64)>, u64) {
        self.workloads.largest(LARGEST_MAX)
    }

    /// Returns the rows that are listed.
    pub fn rows(&self) -> TableRows {
        let workloads = self.workloads.rows(ROWS_MAX);
        let resources = self.resources.rows(ROWS_MAX, self.workloads.limited());
        TableRows { workloads, listeners: self.listeners.rows(ROWS_MAX), resources }
    }
}

#[cfg(test)]
mod tests;
