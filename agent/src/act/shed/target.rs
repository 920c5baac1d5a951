//! A listener at which load is to be shed, as the loop passes it on to the thread that acts.

use std::{collections::BTreeSet, sync::Arc};

use super::control::QueueReading;
use crate::decide::IncidentId;

/// A listener at which load is to be shed.
#[derive(Debug, Clone)]
pub struct ShedTarget {
    /// Incident.
    pub id: IncidentId,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Address.
    pub addr: Arc<str>,
    /// Cgroup of the overloaded service.
    pub cgroup: Arc<str>,
    /// Processes that hold its sockets.
    pub pids: BTreeSet<u32>,
    /// Rate at which connections are accepted, if it is known.
    pub accepts_per_sec: Option<f64>,
    /// First reading.
    pub first: QueueReading,
}
