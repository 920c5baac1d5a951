//! Metrics of the connections to the agent's own ports.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counts of all ports, shared by the ports and the metrics.
#[derive(Debug, Clone, Default)]
pub struct ServeCounts {
    dropped: Family<DropLabel, Counter>,
    backlog: Family<AddrLabel, Gauge>,
}

/// Counter of the connections that one port dropped.
#[derive(Debug, Clone)]
pub struct DropCounter {
    port: &'static str,
    dropped: Family<DropLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    port: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddrLabel {
    addr: String,
}

impl ServeCounts {
    /// Returns the counter for `port`, a kind of connection such as `metrics`.
    pub fn drops(&self, port: &'static str) -> DropCounter {
        DropCounter { port, dropped: self.dropped.clone() }
    }

    /// Sets the number of connections that wait to be accepted at one of the agent's own addresses.
    pub fn note_backlog(&self, addr: &str, backlog: u32) {
        self.backlog.get_or_create(&AddrLabel { addr: addr.to_owned() }).set(i64::from(backlog));
    }

    /// Adds the counts to the agent's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "serve_dropped",
            "Connections to the agent's own ports that it dropped, by reason: not_allowed, \
             slots_full, peer_limit or timeout",
            self.dropped.clone(),
        );
        registry.register(
            "own_backlog",
            "Connections waiting to be accepted at the agent's own addresses",
            self.backlog.clone(),
        );
    }
}

impl DropCounter {
    /// Counts a dropped connection.
    pub fn count(&self, reason: &'static str) {
        self.dropped.get_or_create(&DropLabel { port: self.port, reason }).inc();
    }
}
