//! N−1 meter: whether a group could lose a node, a zone or a region now, and by what margin.
//!
//! Pure. For each node, zone and region the load of its nodes in rotation is compared with the
//! proven headroom of all others; the worst of each kind is reported. A domain without others has
//! the margin 0: its loss is the loss of everything.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    capacity::{Room, Tally, Unit},
    report::NodeReport,
    snapshot::{Member, Snapshot},
};

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
    /// Load in that unit.
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

/// Returns the margin of the domain that is hardest to lose. Loads are added up once: a group has
/// thousands of nodes, and each of them may be lost.
fn worst(snapshot: &Snapshot, domain: Domain) -> Option<Margin> {
    let in_rotation = snapshot.members.iter().filter(|member| member.is_in_rotation());
    let names: BTreeSet<&str> =
        in_rotation.filter_map(Member::live_report).map(|report| domain.of(report)).collect();
    if domain != Domain::Node && names.len() < 2 {
        return None;
    }
    let margins =
        Unit::ALL.into_iter().flat_map(|unit| rooms(snapshot, domain, unit)).map(|(name, room)| {
            let Room { unit, load, headroom, .. } = room;
            Margin { name: name.to_owned(), ratio: room.ratio(), unit, load, headroom }
        });
    margins.min_by(|a, b| a.ratio.total_cmp(&b.ratio).then_with(|| a.name.cmp(&b.name)))
}

/// Room at all others for the load of each domain that has a node in rotation which knows it.
fn rooms(snapshot: &Snapshot, domain: Domain, unit: Unit) -> Vec<(&str, Room)> {
    let (mut domains, mut all) = (BTreeMap::<&str, (Option<f64>, Tally)>::new(), Tally::default());
    for member in &snapshot.members {
        let Ok(report) = &member.report else { continue };
        let (load, tally) = domains.entry(domain.of(report)).or_default();
        tally.add(unit, member);
        all.add(unit, member);
        if let Some(known) = unit.load(report).filter(|_| member.is_in_rotation()) {
            *load = Some(load.unwrap_or(0.0) + known.now);
        }
    }
    let known = domains.into_iter().filter_map(|(name, (load, tally))| Some((name, load?, tally)));
    known.map(|(name, load, tally)| (name, Room::at(unit, load, all.without(tally)))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            grant::tests::group,
            report::{GivenUpLoad, Load, NodeState},
        },
        *,
    };

    proptest! {
        #[test]
        fn sums_of_all_give_the_room_of_each_loss(
            nodes in prop::collection::vec(
                (0.0..4.0_f64, 0.0..6.0_f64, prop::option::of(0.0..90.0_f64), 0..5_u8, 0..3_u8),
                1..20,
            ),
        ) {
            let mut group = group(nodes.len());
            for (member, (now, proven, requests, state, zone)) in
                group.members.iter_mut().zip(nodes)
            {
                let report = member.report.as_mut().unwrap();
                report.cpus = Load { now, proven };
                report.requests = requests.map(|now| Load { now, proven: 60.0 });
                report.zone = ["a", "b", "c"][usize::from(zone)].to_owned();
                match state {
                    0 => report.state = NodeState::Unwell,
                    1 => {
                        report.state = NodeState::Out;
                        report.given_up = Some(GivenUpLoad { cpus: 0.5, requests: None });
                    }
                    2 => member.is_alive = false,
                    _ => {}
                }
            }
            for (domain, unit) in [(Domain::Node, Unit::Cpus), (Domain::Zone, Unit::Requests)] {
                for (name, room) in rooms(&group, domain, unit) {
                    let is_lost = |member: &&Member| {
                        domain.of(member.report.as_ref().unwrap()) == name
                    };
                    let members = || group.members.iter();
                    let leave = members().filter(is_lost).filter(|member| member.is_in_rotation());
                    let leave = leave.filter_map(Member::live_report);
                    let expected = Room::of(leave, members().filter(|member| !is_lost(member)));
                    let expected = expected.iter().find(|one| one.unit == unit).unwrap();
                    prop_assert!((room.load - expected.load).abs() < 1e-9);
                    prop_assert!((room.headroom - expected.headroom).abs() < 1e-9);
                }
            }
        }
    }
}
