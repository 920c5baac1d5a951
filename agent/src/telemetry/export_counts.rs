//! Metrics of the export itself.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Counts of exports, shared by the thread that sends and the metrics.
#[derive(Debug, Clone, Default)]
pub struct ExportCounts {
    requests: Family<RequestLabel, Counter>,
    pub(super) events_dropped: Counter,
}

/// Signal of a request, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    signal: &'static str,
    result: &'static str,
}

impl ExportCounts {
    /// Adds the counts to the agent's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "otlp_requests",
            "Requests to the receiver of telemetry, by signal (metrics or events) and result \
             (accepted, partial or failed)",
            self.requests.clone(),
        );
        registry.register(
            "otlp_events_dropped",
            "Events that the receiver of telemetry did not get, because it failed for too long or \
             refused them",
            self.events_dropped.clone(),
        );
    }

    /// Counts a request.
    pub(super) fn note(&self, signal: &'static str, result: &'static str) {
        self.requests.get_or_create(&RequestLabel { signal, result }).inc();
    }
}
