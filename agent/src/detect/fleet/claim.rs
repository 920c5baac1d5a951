//! Claim that a group of nodes is about to fail together.

use std::sync::{Arc, LazyLock};

use serde::Serialize;

use super::sign::FleetSign;
use crate::{
    detect::{
        claim::{Assessment, ClaimDetails, Severity},
        incident_id::IncidentId,
    },
    sense::FleetFact,
    units::Span,
};

/// Time until the first end from which a person has to act now, in seconds. A guess: a release is
/// rolled back in less.
const NEAR_SECS: f64 = 3_600.0;

/// A group of nodes that is about to fail together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetRiskClaim {
    /// Risk.
    pub sign: FleetSign,
    /// Name of the group.
    pub group: Arc<str>,
    /// Nodes of the group.
    pub nodes: u32,
    /// Nodes that need a turn to leave.
    pub need_turn: u32,
    /// Nodes among them whose turn would come after their end.
    pub late: u32,
    /// Smallest `fleet.slots` with which none is late; `None` if no number helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots_needed: Option<u32>,
    /// Reason for the storm; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Arc<str>>,
}

impl FleetRiskClaim {
    /// Claims a risk that a fact shows.
    pub(super) fn new(sign: FleetSign, fact: &FleetFact) -> Self {
        let FleetFact { group, nodes, need_turn, late, slots_needed, storm, .. } = fact;
        Self {
            sign,
            group: group.clone(),
            nodes: *nodes,
            need_turn: *need_turn,
            late: *late,
            slots_needed: *slots_needed,
            storm: storm.clone().filter(|_| sign == FleetSign::FleetStorm),
        }
    }

    /// Describes the risk in a sentence without a full stop.
    fn sentence(&self) -> String {
        let Self { group, nodes, need_turn, late, .. } = self;
        match (&self.sign, &self.storm) {
            (FleetSign::FleetStorm, storm) => format!(
                "group {group}: {}, so that no node is drained",
                storm.as_deref().unwrap_or("many nodes are unwell")
            ),
            (FleetSign::FleetLate, _) => format!(
                "group {group}: {need_turn} of {nodes} nodes have to leave before they run out, \
                 and {late} would not get their turn in time"
            ),
        }
    }
}

impl ClaimDetails for FleetRiskClaim {
    fn id(&self) -> IncidentId {
        IncidentId::Fleet { sign: self.sign, group: self.group.clone() }
    }

    fn resource(&self) -> &'static str {
        "fleet"
    }

    fn cgroup(&self) -> &Arc<str> {
        static ROOT: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        &ROOT
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        let is_near = assessment.exhaustion_secs.is_none_or(|secs| secs <= NEAR_SECS);
        let severity = if is_near { Severity::Critical } else { Severity::Warning };
        (severity, "the nodes of a group fail together".to_owned())
    }

    fn label(&self) -> String {
        format!("fleet {}", self.group)
    }

    fn component(&self) -> String {
        format!("group {}", self.group)
    }

    fn class(&self) -> String {
        "cascade risk".to_owned()
    }

    fn headline(&self, _host: &str, exhaustion_secs: Option<f64>) -> String {
        let when = exhaustion_secs.map(|secs| format!("; the first ends in {}", Span(secs)));
        self.sentence() + &when.unwrap_or_default()
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        match (self.sign, self.slots_needed) {
            (FleetSign::FleetStorm, _) => {
                "look for one cause of all: a dependency, a release, or the load; `spillway fleet` \
                 lists the nodes"
                    .to_owned()
            }
            (FleetSign::FleetLate, Some(slots)) => format!(
                "roll back what leaks, or set fleet.slots = {slots} if the others can carry the \
                 load of as many; `spillway fleet` lists the nodes"
            ),
            (FleetSign::FleetLate, None) => {
                "roll back what leaks on all of them now: no order of drains is fast enough"
                    .to_owned()
            }
        }
    }
}
