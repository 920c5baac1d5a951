//! Snapshot of a group: its nodes as the coordinator knows them at one moment.
//!
//! A node is a member as long as the coordinator remembers it, for an hour after its last report.
//! It is alive while it renews; afterwards it is silent, and counts as gone.

use super::report::{NodeReport, NodeState};

/// All nodes of a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Members, by name.
    pub members: Vec<Member>,
    /// Revision of the last grant in the group, in the coordinator's terms: another grant since the
    /// snapshot makes it stale.
    pub grant_revision: i64,
}

/// Node of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Name.
    pub node: String,
    /// Set while the node renews its report.
    pub is_alive: bool,
    /// Set while the node holds a slot.
    pub has_slot: bool,
    /// Last report, or the reason for which it cannot be read.
    pub report: Result<NodeReport, String>,
}

impl Member {
    /// Report of a node that is alive.
    pub fn live_report(&self) -> Option<&NodeReport> {
        self.report.as_ref().ok().filter(|_| self.is_alive)
    }

    /// Returns whether the node is in rotation, as far as the others know.
    pub fn is_in_rotation(&self) -> bool {
        !self.has_slot && self.live_report().is_some_and(|report| report.state.is_in_rotation())
    }

    /// Returns whether the node can take load in addition.
    pub fn is_serving(&self) -> bool {
        !self.has_slot
            && self.live_report().is_some_and(|report| report.state == NodeState::Serving)
    }

    /// Returns whether the node waits for its turn.
    pub fn waits(&self) -> bool {
        self.is_in_rotation() && self.live_report().is_some_and(|report| report.waits)
    }
}

impl Snapshot {
    /// Returns the member with this name.
    pub fn member(&self, node: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }
}
