//! Answer to load balancers, and the drain state in metrics and in the agent's status: written by
//! the drain's thread, read by the servers.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
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

/// Drain of this node, as people are told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrainView {
    /// Phase.
    pub phase: DrainPhase,
    /// Time at which it began, in milliseconds since 1970; `None` if the agent began with it.
    pub since_ms: Option<u64>,
    /// Set if the node is out of rotation.
    pub is_out: bool,
    /// Override by an operator.
    pub operator: Option<Override>,
    /// Incident that the drain is for, if it is for one.
    pub incident: Option<String>,
    /// Reason for the drain, or for its end.
    pub why: Option<String>,
    /// Work that the node still has; `None` while it is not counted.
    pub work: Option<String>,
    /// Reason for which the last request had no effect, or has to wait.
    pub obstacle: Option<String>,
}

/// Readiness that all servers share.
#[derive(Debug)]
pub struct ReadinessCell {
    state: AtomicU8,
    weight: AtomicU8,
    /// Bits of the `f64` time at which a load balancer asked last; NaN if none has.
    asked_at: AtomicU64,
    view: Mutex<DrainView>,
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
            asked_at: AtomicU64::new(f64::NAN.to_bits()),
            view: Mutex::default(),
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

    /// Returns the current readiness for a load balancer that asks at `now`.
    pub fn answer(&self, now: f64) -> Readiness {
        self.asked_at.store(now.to_bits(), Ordering::Relaxed);
        self.says()
    }

    /// Returns the time at which a load balancer asked last; `None` if none has.
    pub fn asked_at(&self) -> Option<f64> {
        Some(f64::from_bits(self.asked_at.load(Ordering::Relaxed))).filter(|at| !at.is_nan())
    }

    /// Returns the drain of this node.
    pub fn view(&self) -> DrainView {
        self.lock().clone()
    }

    /// Takes the state of the node.
    pub(super) fn note(&self, view: DrainView) {
        let DrainView { phase, is_out, operator, .. } = view;
        let state = match operator {
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
        *self.lock() = view;
    }

    fn lock(&self) -> MutexGuard<'_, DrainView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
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
