//! Metrics of the fleet: whether this node is coordinated, and what its group could lose.

use std::sync::atomic::AtomicU64;

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

    pub(super) fn note(&self, is_coordinated: bool, margins: Option<&Margins>) {
        self.is_coordinated.set(i64::from(is_coordinated));
        self.margins.clear();
        let margins = margins.iter().flat_map(|margins| margins.iter());
        // Without load there is nothing to carry.
        for (domain, margin) in margins.filter(|(_, margin)| margin.load > 0.0) {
            self.margins.get_or_create(&DomainLabel { domain: domain.name() }).set(margin.ratio);
        }
    }
}
