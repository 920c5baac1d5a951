//! Detectors: a bounded window and a rule each, from observations to verdicts.
//!
//! A detector is one file, one config struct and one line in [`crate::core::Core`]'s list. It is
//! pure: `now` is the time of the observation, and what it knows of the host arrives with it. Every
//! claim is raised once and cleared once; while it stands, a detector hands out fresh forecasts,
//! which the policy reads and nobody prints.

mod activity;
mod confidence;
mod dependency;
mod growth;
mod leak;
mod overload;
mod regression;
mod resources;
mod troughs;
mod verdict;
mod window;

pub use confidence::SensorHealth;
pub use dependency::DependencyDetector;
pub use leak::{LeakDetector, PROCESS_STATE_BYTES};
pub use overload::OverloadDetector;
pub use resources::ResourceDetector;
pub use verdict::{
    Bottleneck, Bound, CascadeRiskClaim, Claim, ClaimState, ExhaustionClaim, Harm, LeakClaim,
    OverloadClaim, Resource, Severity, Sign, Spared, Verdict,
};

use serde::{Deserialize, Serialize};

use crate::sense::{Fact, HostFact};

/// What does not change about a host; also the header of its traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Physical memory.
    pub mem_total_bytes: u64,
    /// CPUs online.
    pub cpus: u32,
}

/// What a detector may know besides the fact at hand.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Now, in seconds on the observations' clock.
    pub t: f64,
    /// Number of the current scan of the host, from 0.
    pub scan: u32,
    /// What does not change about the host.
    pub info: HostInfo,
    /// The latest state of the host; `None` before the first scan.
    pub host: Option<&'a HostFact>,
    /// How far the sensors are to be trusted now.
    pub trust: &'a SensorHealth,
}

/// What detectors found in one observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Claims made and withdrawn.
    pub verdicts: Vec<Verdict>,
    /// Claims that still stand, with today's forecast: for the policy, not for print.
    pub forecasts: Vec<Verdict>,
}

/// How much a detector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetectorSize {
    /// Subjects watched.
    pub tracked: usize,
    /// Claims standing.
    pub raised: usize,
    /// Observations of subjects that there was no room for.
    pub untracked_total: u64,
}

/// A window and a rule.
pub trait Detector {
    /// Takes one fact; appends what follows from it.
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings);

    /// How much it holds.
    fn held(&self) -> DetectorSize;
}

/// A subject that this many scans have not shown is gone, even if nobody said so. A guess: scans
/// miss a process that is being replaced, but hardly five times.
const GONE_AFTER_SCANS: u32 = 5;

/// Whether a subject last seen in `seen` is gone by the current scan. The scan that has just begun
/// shows nothing yet.
fn is_gone(context: &Context<'_>, seen: u32) -> bool {
    context.scan.saturating_sub(seen) > GONE_AFTER_SCANS
}
