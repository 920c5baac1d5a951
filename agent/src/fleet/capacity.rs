//! Capacity of a group: whether the nodes that stay can carry the load of those that leave.
//!
//! Pure. Loads are compared in each unit that a leaving node knows: CPUs in use, and requests per
//! second. A node that stays counts with its proven headroom, one that does not publish a unit with
//! none. Load that earlier leavers gave up lately is taken off, because the reports of the others
//! may not show it yet.

use std::fmt;

use super::{
    report::{GivenUpLoad, Load, NodeReport},
    snapshot::Member,
};
use crate::units::rounded;

/// Unit of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// CPUs in use.
    Cpus,
    /// Requests answered per second.
    Requests,
}

/// Load in one unit that has to move, and the room for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Unit of the loads.
    pub unit: Unit,
    /// Load of those that leave.
    pub load: f64,
    /// Proven headroom of those that stay, less what is on its way to them.
    pub headroom: f64,
    /// Mean proven load of one that stays.
    pub proven_mean: f64,
}

/// Room at some nodes in one unit, added up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    headroom: f64,
    given_up: f64,
    proven: f64,
    serving: f64,
}

/// Load that does not fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortfall {
    /// Unit of the loads.
    pub unit: Unit,
    /// Headroom that is needed, a safety margin included.
    pub needed: f64,
    /// Headroom that there is.
    pub headroom: f64,
    /// Nodes that would have to be added, each as capable as the mean of those that stay; `None` if
    /// none stays that could be compared.
    pub nodes: Option<u32>,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 2] = [Self::Cpus, Self::Requests];

    /// Load of a node in this unit; `None` if it is unknown.
    pub fn load(self, report: &NodeReport) -> Option<Load> {
        match self {
            Self::Cpus => Some(report.cpus),
            Self::Requests => report.requests,
        }
    }

    fn given_up(self, given_up: &GivenUpLoad) -> f64 {
        match self {
            Self::Cpus => given_up.cpus,
            Self::Requests => given_up.requests.unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpus => "CPUs",
            Self::Requests => "requests/s",
        })
    }
}

impl Tally {
    /// Adds a node that stays.
    pub fn add(&mut self, unit: Unit, member: &Member) {
        if member.is_serving()
            && let Some(report) = member.live_report()
        {
            let load = unit.load(report).unwrap_or_default();
            self.headroom += load.headroom();
            self.proven += load.proven;
            self.serving += 1.0;
        }
        // Of nodes that are out, silent or not.
        let given_up = member.report.as_ref().ok().and_then(|report| report.given_up);
        self.given_up += given_up.map_or(0.0, |load| unit.given_up(&load));
    }

    /// Takes out nodes that were added.
    pub fn without(self, other: Self) -> Self {
        Self {
            headroom: self.headroom - other.headroom,
            given_up: self.given_up - other.given_up,
            proven: self.proven - other.proven,
            serving: self.serving - other.serving,
        }
    }
}

impl Room {
    /// Room at the nodes that `stay`, for the load of those that `leave`, in each unit that one of
    /// the leaving nodes knows.
    pub fn of<'a>(
        leave: impl Iterator<Item = &'a NodeReport> + Clone,
        stay: impl Iterator<Item = &'a Member> + Clone,
    ) -> Vec<Self> {
        let units = Unit::ALL.into_iter();
        units.filter_map(|unit| Self::in_unit(unit, leave.clone(), stay.clone())).collect()
    }

    fn in_unit<'a>(
        unit: Unit,
        leave: impl Iterator<Item = &'a NodeReport> + Clone,
        stay: impl Iterator<Item = &'a Member> + Clone,
    ) -> Option<Self> {
        let loads = leave.filter_map(|report| unit.load(report));
        loads.clone().next()?;
        let mut tally = Tally::default();
        stay.for_each(|member| tally.add(unit, member));
        Some(Self::at(unit, loads.map(|load| load.now).sum(), tally))
    }

    /// Room at the nodes of a tally for a load.
    pub fn at(unit: Unit, load: f64, stay: Tally) -> Self {
        let Tally { headroom, given_up, proven, serving } = stay;
        let proven_mean = if serving > 0.0 { proven / serving } else { 0.0 };
        Self { unit, load, headroom: (headroom - given_up).max(0.0), proven_mean }
    }

    /// Headroom as a multiple of the load; infinite without load.
    pub fn ratio(self) -> f64 {
        if self.load > 0.0 { self.headroom / self.load } else { f64::INFINITY }
    }

    /// Shortfall if the headroom has to be `margin` times the load.
    pub fn shortfall(self, margin: f64) -> Option<Shortfall> {
        let Self { unit, load, headroom, proven_mean } = self;
        let needed = load * margin;
        let nodes = (proven_mean > 0.0).then(|| ((needed - headroom) / proven_mean).ceil() as u32);
        (needed > headroom).then_some(Shortfall { unit, needed, headroom, nodes })
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, needed, headroom, nodes } = self;
        let digits = if *needed < 10.0 { 2 } else { 0 };
        let [needed, headroom] = [needed, headroom].map(|load| rounded(*load, digits));
        write!(f, "{needed} {unit} of proven headroom are needed, and there are {headroom}")?;
        match nodes {
            Some(1) => f.write_str(", so that 1 node is missing"),
            Some(nodes) => write!(f, ", so that {nodes} nodes are missing"),
            None => Ok(()),
        }
    }
}
