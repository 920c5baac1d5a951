//! Risks of a group of nodes, by name.

use serde::Serialize;

/// Risk of a group of nodes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FleetSign {
    /// Nodes will end before their turn to leave.
    FleetLate,
    /// So many nodes are unwell, or see their load surge, that none may leave.
    FleetStorm,
}

impl FleetSign {
    /// Name as printed.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
