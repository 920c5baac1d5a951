//! Limits of a group: how many of its nodes may be out, and how much room has to be left.

use crate::config::{FleetConfig, Reach};

/// Headroom of the others that is needed, as a multiple of a leaving node's load.
const MARGIN: f64 = 1.2;

/// Limits of a group. All its nodes should have the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupLimits {
    /// Nodes that the agents may take out together.
    pub slots: usize,
    /// Share of the members that may be out, silent or unreadable; one always may.
    pub out_share_max: f64,
    /// Headroom that is needed, as a multiple of the load of the node that leaves.
    pub margin: f64,
    /// Nodes that a balancer gives the load of a node that leaves.
    pub reach: Reach,
    /// Time after which a node that stopped renewing counts as silent.
    pub silent_after_secs: f64,
}

impl GroupLimits {
    /// Limits that a configuration sets.
    pub fn of(config: &FleetConfig) -> Self {
        Self {
            slots: config.slots as usize,
            out_share_max: f64::from(config.max_percent) / 100.0,
            margin: MARGIN,
            reach: config.balances_within,
            silent_after_secs: config.silent_after.as_secs_f64(),
        }
    }

    /// Members out of so many that may be out, silent or unreadable.
    pub fn out_max(&self, members: usize) -> usize {
        ((members as f64 * self.out_share_max) as usize).max(1)
    }
}
