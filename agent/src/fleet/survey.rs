//! Survey of a group: what a person wants to know of it, on one page.
//!
//! Pure. Counts the nodes by state, and says what the group could lose, which nodes need a turn,
//! and whether this node could leave now.

use serde::Serialize;

use super::{
    grant::grant,
    limits::GroupLimits,
    margins::Margins,
    report::NodeState,
    snapshot::{Member, Snapshot},
    turns::{self, Outlook},
};
use crate::units::rounded;

/// Survey of a group at one moment, as `spillway fleet --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    /// Name of the group.
    pub group: String,
    /// Name of this node.
    pub node: String,
    /// Nodes, by name.
    pub nodes: Vec<SurveyedNode>,
    /// Margins for the loss of a node, a zone and a region.
    pub margins: Vec<SurveyedMargin>,
    /// Nodes that need a turn, and whether each gets one in time.
    pub turns: Outlook,
    /// Reason for which this node could not leave now; `None` if it could.
    pub refused: Option<String>,
}

/// One node of a survey.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyedNode {
    /// Name.
    pub node: String,
    /// Zone; empty if there is one.
    pub zone: String,
    /// State: `serving`, `unwell`, `waiting`, `out`, `out_by_operator`, `silent` or `unreadable`.
    pub state: &'static str,
    /// CPUs in use now, and proven.
    pub cpus: Option<[f64; 2]>,
    /// Requests answered per second now, and proven; `None` if unknown.
    pub requests: Option<[f64; 2]>,
    /// Seconds until its forecast end, from its report; `None` without one.
    pub end_secs: Option<f64>,
    /// Reason for which its report cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Margin of a survey.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyedMargin {
    /// `node`, `zone` or `region`.
    pub domain: &'static str,
    /// Name of the one that is hardest to lose.
    pub name: String,
    /// Headroom of the others as a multiple of its load; `None` if it has no load.
    pub ratio: Option<f64>,
    /// Set if the others can carry its load, with the margin that a drain needs.
    pub can_be_lost: bool,
    /// Load of that one.
    pub load: f64,
    /// Headroom of the others.
    pub headroom: f64,
    /// Unit of the loads.
    pub unit: String,
}

impl Survey {
    /// Surveys a group, for the node `own` of the group `group`. A turn takes `turn_secs`.
    pub fn of(
        snapshot: &Snapshot,
        group: &str,
        own: &str,
        now_ms: u64,
        limits: &GroupLimits,
        turn_secs: f64,
    ) -> Self {
        // The run of the node's agent is not known here, and whoever else has its name shows in the
        // agent's log.
        let run = snapshot.member(own).and_then(Member::live_report).map_or(0, |report| report.run);
        let margins = Margins::of(snapshot);
        let margins = margins.iter().map(|(domain, margin)| SurveyedMargin {
            domain: domain.name(),
            name: margin.name.clone(),
            ratio: margin.ratio.is_finite().then(|| rounded(margin.ratio, 2)),
            can_be_lost: margin.ratio >= limits.margin,
            load: rounded(margin.load, 2),
            headroom: rounded(margin.headroom, 2),
            unit: margin.unit.to_string(),
        });
        let queue = turns::queue(snapshot, now_ms, limits.silent_after_secs);
        let ends: Vec<_> = queue.iter().map(|turn| turn.end_secs).collect();
        let refused = grant(snapshot, own, run, now_ms, limits).err();
        Self {
            group: group.to_owned(),
            node: own.to_owned(),
            nodes: snapshot.members.iter().map(SurveyedNode::of).collect(),
            margins: margins.collect(),
            turns: turns::outlook(&ends, limits.slots, turn_secs),
            refused: refused.map(|refusal| refusal.to_string()),
        }
    }

    /// Returns how many nodes are in rotation.
    pub fn in_rotation(&self) -> usize {
        let is_in = |node: &&SurveyedNode| matches!(node.state, "serving" | "unwell" | "waiting");
        self.nodes.iter().filter(is_in).count()
    }
}

impl SurveyedNode {
    fn of(member: &Member) -> Self {
        let report = member.report.as_ref().ok();
        let state = match report {
            None => "unreadable",
            Some(_) if !member.is_alive => "silent",
            Some(report) => match report.state {
                NodeState::Out => "out",
                NodeState::OutByOperator => "out_by_operator",
                _ if member.has_slot => "out",
                NodeState::Unwell => "unwell",
                NodeState::Serving if report.waits => "waiting",
                NodeState::Serving => "serving",
            },
        };
        let loads = |load: super::Load| [load.now, load.proven].map(|load| rounded(load, 2));
        Self {
            node: member.node.clone(),
            zone: report.map(|report| report.zone.clone()).unwrap_or_default(),
            state,
            cpus: report.map(|report| loads(report.cpus)),
            requests: report.and_then(|report| report.requests).map(loads),
            end_secs: report.and_then(|report| report.end.as_ref()).map(|end| end.secs.round()),
            problem: member.report.as_ref().err().cloned(),
        }
    }
}
