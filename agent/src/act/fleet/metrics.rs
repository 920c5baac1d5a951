//! Metrics of the fleet: whether this node is coordinated, and what its group could lose.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::fleet::Margins;

/// State of this node in its group.
#[derive(Debug, Default)]
pub struct FleetMetrics {
    is_coordinated: Gauge,
    margins: Family<DomainLabel, Gauge<f64, AtomicU64>>,
    latest: Mutex<FleetState>,
}

/// Latest attempt to reach the coordinator.
#[derive(Debug, Clone, Default)]
pub struct FleetState {
    /// Set once there was an attempt.
    pub has_asked: bool,
    /// Reason for which the node is not coordinated; `None` if it is.
    pub problem: Option<String>,
    /// Margins of the group; `None` if they are unknown.
    pub margins: Option<Margins>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabel {
    domain: &'static str,
}

impl FleetMetrics {
    /// Adds the metrics to an agent's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "fleet_coordinated",
            "1 if the coordinator answered at the last attempt",
            self.is_coordinated.clone(),
        );
        registry.register(
            "fleet_margin",
            "Proven headroom of the others as a multiple of the load of the node, zone or region \
             that is hardest to lose; below 1 the group cannot carry its loss",
            self.margins.clone(),
        );
    }

    /// Returns the latest state.
    pub fn latest(&self) -> FleetState {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, problem: Option<&str>, margins: Option<&Margins>) {
        let state = FleetState {
            has_asked: true,
            problem: problem.map(str::to_owned),
            margins: margins.cloned(),
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.is_coordinated.set(i64::from(problem.is_none()));
        self.margins.clear();
        let margins = margins.iter().flat_map(|margins| margins.iter());
        // Without load there is nothing to carry.
        for (domain, margin) in margins.filter(|(_, margin)| margin.load > 0.0) {
            self.margins.get_or_create(&DomainLabel { domain: domain.name() }).set(margin.ratio);
        }
    }
}
