//! Answer to load balancers, and the drain state in metrics: written by the drain's thread, read by
//! the servers.

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    state_machine::{DrainPhase, Override},
    weight::WHOLE,
};

/// Answer to a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Send this percentage of the node's share of work.
    Ready(u8),
    /// Send no new work.
    Drain,
    /// Send nothing, and stop checks.
    Maintenance,
}

/// Readiness that all servers share.
#[derive(Debug)]
pub struct ReadinessCell {
    state: AtomicU8,
    weight: AtomicU8,
    phases: Family<StateLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

const READY: u8 = 0;
const DRAIN: u8 = 1;
const MAINTENANCE: u8 = 2;
/// Ready for the whole share, whatever the weight is.
const WHOLLY_READY: u8 = 3;

impl Default for ReadinessCell {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(READY),
            weight: AtomicU8::new(WHOLE),
            phases: Family::default(),
        }
    }
}

impl ReadinessCell {
    /// Returns the current readiness.
    pub fn says(&self) -> Readiness {
        match self.state.load(Ordering::Relaxed) {
            READY => Readiness::Ready(self.weight.load(Ordering::Relaxed)),
            WHOLLY_READY => Readiness::Ready(WHOLE),
            DRAIN => Readiness::Drain,
            _ => Readiness::Maintenance,
        }
    }

    /// Takes the state of the node.
    pub(super) fn note(&self, phase: DrainPhase, is_out: bool, word: Option<Override>) {
        let state = match word {
            Some(Override::Undrain) => WHOLLY_READY,
            Some(Override::Maintenance) if phase == DrainPhase::Drained => MAINTENANCE,
            Some(Override::Drain | Override::Maintenance) => DRAIN,
            None if is_out => DRAIN,
            None => READY,
        };
        self.state.store(state, Ordering::Relaxed);
        for other in DrainPhase::ALL {
            self.phases
                .get_or_create(&StateLabel { state: other.name() })
                .set(i64::from(other == phase));
        }
    }

    /// Shows where the node is among an agent's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "drain_state",
            "1 for where this node is on its way out of service and back",
            self.phases.clone(),
        );
    }

    /// Takes the share of work that the node asks for, in percent.
    pub(super) fn weigh(&self, percent: u8) {
        self.weight.store(percent, Ordering::Relaxed);
    }
}

/// As HAProxy's agent check has it. `ready` lifts a drain or maintenance that an earlier answer has
/// set.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(percent) => write!(f, "ready {percent}%"),
            Self::Drain => f.write_str("drain"),
            Self::Maintenance => f.write_str("maint"),
        }
    }
}
