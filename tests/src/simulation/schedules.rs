//! Random schedules of faults for a few nodes, in simulated time, with the production drain and
//! member (grant, turns, brake), and the coordinator in memory.
//!
//! Nodes crash and are started again, are paused past the time to live, are cut off from the
//! coordinator and have wrong clocks; operators drain and undrain. After each grant the rules are
//! checked by a computation of their own; all along, slots, deadlocks and undrains are watched.

mod node;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use spillway_agent::{
    config::Reach,
    fleet::{GroupLimits, Load, NodeReport},
};

use self::{
    node::{Node, Plan},
    watch::Watch,
};
use super::memory_coordinator::{MemoryCoordinator, Store, TTL_SECS};
use crate::corpus::rng::Rng;

/// Time with faults, and the quiet time after it, in seconds.
const FAULTS_SECS: f64 = 3_600.0;
const QUIET_SECS: f64 = 1_500.0;

/// Time between two steps.
const STEP_SECS: f64 = 5.0;

/// Figures of a schedule that kept all rules, so that a test sees that something happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Drains granted by the rules, and refusals of any kind.
    pub granted: u32,
    /// Refusals of any kind.
    pub refused: u32,
    /// Slots that expired because their node was silent.
    pub orphaned: u32,
    /// Drains by operators.
    pub by_operators: u32,
}

impl Figures {
    /// Adds up two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            granted: self.granted + other.granted,
            refused: self.refused + other.refused,
            orphaned: self.orphaned + other.orphaned,
            by_operators: self.by_operators + other.by_operators,
        }
    }
}

/// First report of a node, with a load and a zone by chance.
fn report(rng: &mut Rng, nth: usize) -> NodeReport {
    let now = rng.range(1.0, 3.0);
    NodeReport {
        cpus: Load { now, proven: now + rng.range(0.0, 3.0) },
        zone: rng.pick(&["a", "b", ""]).to_owned(),
        ..NodeReport::new(&format!("node-{nth:05}"), "web", rng.bits(), node::unix_ms(0.0))
    }
}

/// Plays the schedule of a seed.
///
/// # Errors
///
/// Returns the first rule that was broken.
pub fn play(seed: u64) -> Result<Figures, String> {
    let rng = &mut Rng::new("fleet-schedules", seed);
    let count = 3 + rng.below(10) as usize;
    let limits = GroupLimits {
        slots: 1 + rng.below(3) as usize,
        out_share_max: rng.pick(&[0.1, 0.2, 0.34, 0.5]),
        margin: 1.2,
        reach: rng.pick(&[Reach::Zone, Reach::Group]),
        silent_after_secs: TTL_SECS,
    };
    let reports: Vec<_> = (0..count).map(|nth| report(rng, nth)).collect();
    let store = Arc::new(Mutex::new(Store::new(reports.clone(), 0.0)));
    let mut nodes: Vec<_> = reports
        .into_iter()
        .enumerate()
        .map(|(nth, report)| {
            let coordinator = MemoryCoordinator::new(store.clone(), nth, limits.slots);
            Node::new(Plan::draw(rng, FAULTS_SECS), report, coordinator, limits)
        })
        .collect();
    let mut watch = Watch::new(limits, count);
    let mut t = 0.0;
    while t < FAULTS_SECS + QUIET_SECS {
        // Nobody steps first each time.
        let first = rng.below(count as u64) as usize;
        for nth in (0..count).map(|nth| (first + nth) % count) {
            if let Some(event) = nodes[nth].step(t) {
                let store = store.lock().unwrap_or_else(PoisonError::into_inner);
                watch.event(nth, event, &store).map_err(|why| format!("at {t:.0} s: {why}"))?;
            }
        }
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        store.advance(t);
        watch.step(t, &nodes, &store).map_err(|why| format!("at {t:.0} s: {why}"))?;
        t += STEP_SECS;
    }
    match nodes.iter().position(Node::is_out) {
        Some(nth) => Err(format!("node {nth} is still out at the end")),
        None => Ok(watch.figures),
    }
}
