//! N−1 meter: whether a group could lose a node, a zone or a region now, and by what margin.
//!
//! Pure. For each node, zone and region the load of its nodes in rotation is compared with the
//! proven headroom of all others; the worst of each kind is reported. A domain without others has
//! the margin 0: its loss is the loss of everything.

use std::collections::BTreeSet;

use super::{
    capacity::Room,
    report::NodeReport,
    snapshot::{Member, Snapshot},
};
use crate::fleet::capacity::Unit;

/// Kind of what may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// One node.
    Node,
    /// All nodes of a zone.
    Zone,
    /// All nodes of a region.
    Region,
}

/// Margin for the loss of one node, zone or region.
#[derive(Debug, Clone, PartialEq)]
pub struct Margin {
    /// Name of what is lost.
    pub name: String,
    /// Headroom of the others as a multiple of its load: below 1 the group cannot carry its loss.
    pub ratio: f64,
    /// Unit in which that is worst.
    pub unit: Unit,
    /// Its load in that unit.
    pub load: f64,
    /// Headroom of the others in that unit.
    pub headroom: f64,
}

/// Smallest margins of a group: of a node, and of a zone and a region if it has several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Margins {
    /// Loss of the node that is hardest to lose; `None` if none is in rotation.
    pub node: Option<Margin>,
    /// Loss of the zone that is hardest to lose.
    pub zone: Option<Margin>,
    /// Loss of the region that is hardest to lose.
    pub region: Option<Margin>,
}

impl Domain {
    /// Name in output and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Zone => "zone",
            Self::Region => "region",
        }
    }

    fn of(self, report: &NodeReport) -> &str {
        match self {
            Self::Node => &report.node,
            Self::Zone => &report.zone,
            Self::Region => &report.region,
        }
    }
}

impl Margins {
    /// Margins of a group.
    pub fn of(snapshot: &Snapshot) -> Self {
        let [node, zone, region] =
            [Domain::Node, Domain::Zone, Domain::Region].map(|domain| worst(snapshot, domain));
        Self { node, zone, region }
    }

    /// Iterates over the margins that there are.
    pub fn iter(&self) -> impl Iterator<Item = (Domain, &Margin)> {
        let all = [
            (Domain::Node, &self.node),
            (Domain::Zone, &self.zone),
            (Domain::Region, &self.region),
        ];
        all.into_iter().filter_map(|(domain, margin)| Some((domain, margin.as_ref()?)))
    }
}

fn worst(snapshot: &Snapshot, domain: Domain) -> Option<Margin> {
    let in_rotation = || {
        let members = snapshot.members.iter().filter(|member| member.is_in_rotation());
        members.filter_map(Member::live_report)
    };
    let names: BTreeSet<&str> = in_rotation().map(|report| domain.of(report)).collect();
    if domain != Domain::Node && names.len() < 2 {
        return None;
    }
    let margins = names.into_iter().filter_map(|name| {
        let leave = in_rotation().filter(|report| domain.of(report) == name);
        let stay = snapshot
            .members
            .iter()
            .filter(|member| member.report.as_ref().is_ok_and(|report| domain.of(report) != name));
        let rooms = Room::of(leave, stay);
        let room = rooms.into_iter().min_by(|a, b| a.ratio().total_cmp(&b.ratio()))?;
        let Room { unit, load, headroom, .. } = room;
        Some(Margin { name: name.to_owned(), ratio: room.ratio(), unit, load, headroom })
    });
    margins.min_by(|a, b| a.ratio.total_cmp(&b.ratio))
}
