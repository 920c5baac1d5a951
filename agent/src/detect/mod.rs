//! Detectors, their claims and their verdicts.
//!
//! A detector is one file or folder with its claim, which answers for itself (see
//! [`ClaimDetails`]); one variant of [`Claim`]; and one line in [`detectors`].

mod activity;
mod claim;
mod confidence;
mod dependency;
mod detector;
mod exhaustion;
mod fleet;
mod growth;
mod incident_id;
mod leak;
mod leak_claim;
mod overload;
mod regression;
mod resource;
mod resources;
#[cfg(test)]
mod sample;
mod troughs;
mod verdict;
mod window;

pub use claim::{
    Assessment, ClaimDetails, Diagnosis, Harm, Importance, Severity, Sign, Situation, Wants,
};
pub use confidence::SensorHealth;
pub use dependency::claim::{CascadeRiskClaim, LocalPortsClaim, Spared};
pub use detector::{Context, Detector, DetectorSize, Findings, HostInfo, SavedError};
pub use exhaustion::claim::ExhaustionClaim;
pub(crate) use exhaustion::words::resource_of;
pub use fleet::{claim::FleetRiskClaim, sign::FleetSign};
pub use incident_id::IncidentId;
pub use leak::PROCESS_STATE_BYTES;
pub use leak_claim::{Bound, CgroupMemory, LeakClaim, SHARED_NAME_BYTES_MAX};
pub use overload::claim::{Bottleneck, OverloadClaim, WaitingRequests};
pub use resource::Resource;
#[cfg(test)]
pub(crate) use sample::SampleDetector;
pub use verdict::{Claim, ClaimState, Verdict};

use crate::config::DetectConfig;

/// Detectors in the order in which they see a fact.
pub fn detectors(config: &DetectConfig) -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(leak::LeakDetector::new(&config.leak)),
        Box::new(resources::ResourceDetector::default()),
        Box::new(exhaustion::ExhaustionDetector::default()),
        Box::new(overload::OverloadDetector::new(&config.overload)),
        Box::new(dependency::DependencyDetector::default()),
        Box::new(fleet::FleetDetector::default()),
    ]
}
