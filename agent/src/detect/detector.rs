//! Detectors: a bounded window and a rule each, from observations to verdicts.

use serde::{Deserialize, Serialize};

use super::{confidence::SensorHealth, verdict::Verdict};
use crate::{
    config::DetectConfig,
    sense::{Fact, HostFact},
};

/// Properties of a host that do not change; also the header of its traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Physical memory.
    pub mem_total_bytes: u64,
    /// CPUs online.
    pub cpus: u32,
}

/// Knowledge that a detector may use besides the fact at hand.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Now, in seconds on the observations' clock.
    pub t: f64,
    /// Number of the current scan of the host, from 0.
    pub scan: u32,
    /// Properties of the host that do not change.
    pub info: HostInfo,
    /// Latest state of the host; `None` before the first scan.
    pub host: Option<&'a HostFact>,
    /// Reliability of the sensors' data now.
    pub sensor_health: &'a SensorHealth,
}

/// Results of the detectors for one observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Claims raised and cleared.
    pub verdicts: Vec<Verdict>,
    /// Open claims with a fresh forecast. The policy reads them; they are not printed.
    pub forecasts: Vec<Verdict>,
}

/// Numbers of subjects and claims that a detector holds. Each detector counts its own kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetectorSize {
    /// Processes watched.
    pub processes: usize,
    /// Listeners watched.
    pub listeners: usize,
    /// Destinations watched.
    pub destinations: usize,
    /// Open claims of leaks, whatever the resource.
    pub leaks_raised: usize,
    /// Open claims of overloads.
    pub overloads_raised: usize,
    /// Open claims about dependencies: cascade risks, and exhaustion of local ports.
    pub cascade_risks_raised: usize,
    /// Counts watched that have a limit.
    pub counts: usize,
    /// Open claims of counts that near their limit.
    pub exhaustions_raised: usize,
    /// Observations of subjects for which there was no room.
    pub untracked_total: u64,
}

impl DetectorSize {
    /// Adds up two detectors' sizes.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            processes: self.processes + other.processes,
            listeners: self.listeners + other.listeners,
            destinations: self.destinations + other.destinations,
            leaks_raised: self.leaks_raised + other.leaks_raised,
            overloads_raised: self.overloads_raised + other.overloads_raised,
            cascade_risks_raised: self.cascade_risks_raised + other.cascade_risks_raised,
            counts: self.counts + other.counts,
            exhaustions_raised: self.exhaustions_raised + other.exhaustions_raised,
            untracked_total: self.untracked_total.saturating_add(other.untracked_total),
        }
    }
}

/// Error of windows that cannot be saved or are not taken over, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SavedError(String);

impl SavedError {
    /// Gives the reason.
    pub fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

/// A window and a rule. Pure: time is that of the observation, and knowledge of the host arrives
/// with the context. Every claim is raised once and cleared once; in between, a detector returns
/// fresh forecasts.
pub trait Detector: Send {
    /// Takes one fact and appends the findings. Facts that the detector does not use are ignored.
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings);

    /// Numbers of subjects and claims held.
    fn size(&self) -> DetectorSize;

    /// Appends what a later run needs in order to go on from `t`. Nothing by default: windows of a
    /// few seconds are filled sooner than they are read.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written down.
    fn save(&self, _t: f64, _into: &mut Vec<u8>) -> Result<(), SavedError> {
        Ok(())
    }

    /// Takes what an earlier run of this detector appended, `gap_secs` before `t` on this run's
    /// clock. It has seen nothing yet.
    ///
    /// # Errors
    ///
    /// Returns an error if that is of another layout, or makes no sense; then the detector must not
    /// be used.
    fn restore(&mut self, _t: f64, _gap_secs: f64, _from: &mut &[u8]) -> Result<(), SavedError> {
        Ok(())
    }

    /// Takes other thresholds, in so far as they need no restart.
    fn reload(&mut self, _config: &DetectConfig) {}
}

/// Scans that must miss a subject before it counts as gone without a report of its end. A guess:
/// scans miss a process that is being replaced, but hardly five times.
const GONE_AFTER_SCANS: u32 = 5;

/// Returns whether a subject that scan `seen` saw last is gone by the current scan, which has only
/// begun and has seen nothing yet.
pub(super) fn is_gone(context: &Context<'_>, seen: u32) -> bool {
    context.scan.saturating_sub(seen) > GONE_AFTER_SCANS
}
