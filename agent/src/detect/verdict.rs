//! Verdicts: a claim with its evidence and forecast.
//!
//! `spillway replay` and `spillway run --json` print the serialised form, one object a line.

use std::{ops::Deref, sync::Arc};

use serde::Serialize;

#[cfg(test)]
use super::sample::SampleClaim;
use super::{
    claim::{ClaimDetails, Harm},
    dependency::claim::{CascadeRiskClaim, LocalPortsClaim},
    exhaustion::claim::ExhaustionClaim,
    fleet::claim::FleetRiskClaim,
    incident_id::IncidentId,
    leak_claim::LeakClaim,
    overload::claim::OverloadClaim,
};
use crate::{sense::identity::Identity, units::rounded};

/// A detector's claim, raised or cleared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Time on the observations' clock, in seconds.
    pub t: f64,
    /// Claim and subject.
    #[serde(flatten)]
    pub claim: Claim,
    /// Seconds until the leaking resource runs out or the accept queue overflows; `None` without a
    /// forecast.
    pub exhaustion_secs: Option<f64>,
    /// 95 % interval of the forecast, soonest first; `None` if growth is too uncertain for one, and
    /// without a forecast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhaustion_interval_secs: Option<[f64; 2]>,
    /// Certainty of the detector, 0 to 1.
    pub confidence: f64,
    /// Progress of the claim.
    pub state: ClaimState,
    /// Harm that it does, and to whom; `None` until the policy has assessed it.
    #[serde(flatten)]
    pub harm: Option<Harm>,
    /// Workload that it is about, as a person knows it; `None` in a replay and until it is looked
    /// up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<Identity>>,
    /// Evidence in a sentence, for a person.
    pub why: String,
}

impl Verdict {
    /// Raises a claim without a forecast.
    pub fn raised(t: f64, claim: impl Into<Claim>, confidence: f64, why: String) -> Self {
        Self {
            t,
            claim: claim.into(),
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            confidence: rounded(confidence, 2),
            state: ClaimState::Raised,
            harm: None,
            identity: None,
            why,
        }
    }

    /// Clears a claim, with the claim as it is now.
    pub fn cleared(t: f64, claim: impl Into<Claim>, confidence: f64, why: String) -> Self {
        Self { state: ClaimState::Cleared, ..Self::raised(t, claim, confidence, why) }
    }
}

impl From<&Verdict> for IncidentId {
    fn from(verdict: &Verdict) -> Self {
        verdict.claim.id()
    }
}

/// Progress of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// The condition holds.
    Raised,
    /// The condition still holds, and its severity or its diagnosis has changed.
    Updated,
    /// The condition is over.
    Cleared,
}

impl ClaimState {
    /// Name as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Cleared => "cleared",
        }
    }
}

/// A claim about a subject. Each variant answers the questions of [`ClaimDetails`] in its own file.
#[derive(Debug, Clone, PartialEq, Serialize, strum::IntoStaticStr)]
#[serde(tag = "verdict", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Claim {
    /// A process grows without end.
    Leak(LeakClaim),
    /// A listener's accept queue does not drain.
    Overload(OverloadClaim),
    /// A failure that makes others fail.
    CascadeRisk(CascadeRiskClaim),
    /// A group of nodes that is about to fail together.
    #[serde(rename = "cascade_risk")]
    #[strum(serialize = "cascade_risk")]
    FleetRisk(FleetRiskClaim),
    /// A count that nears its limit, or has reached it.
    Exhaustion(ExhaustionClaim),
    /// No local port is left to a destination.
    #[serde(rename = "exhaustion")]
    #[strum(serialize = "exhaustion")]
    LocalPorts(LocalPortsClaim),
    /// A claim of the sample detector.
    #[cfg(test)]
    Sample(SampleClaim),
}

impl Claim {
    /// Kind of claim as printed.
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl Deref for Claim {
    type Target = dyn ClaimDetails;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Leak(claim) => claim,
            Self::Overload(claim) => claim,
            Self::CascadeRisk(claim) => claim,
            Self::FleetRisk(claim) => claim,
            Self::Exhaustion(claim) => claim,
            Self::LocalPorts(claim) => claim,
            #[cfg(test)]
            Self::Sample(claim) => claim,
        }
    }
}

impl From<LeakClaim> for Claim {
    fn from(claim: LeakClaim) -> Self {
        Self::Leak(claim)
    }
}

impl From<OverloadClaim> for Claim {
    fn from(claim: OverloadClaim) -> Self {
        Self::Overload(claim)
    }
}

impl From<CascadeRiskClaim> for Claim {
    fn from(claim: CascadeRiskClaim) -> Self {
        Self::CascadeRisk(claim)
    }
}

impl From<FleetRiskClaim> for Claim {
    fn from(claim: FleetRiskClaim) -> Self {
        Self::FleetRisk(claim)
    }
}

impl From<ExhaustionClaim> for Claim {
    fn from(claim: ExhaustionClaim) -> Self {
        Self::Exhaustion(claim)
    }
}

impl From<LocalPortsClaim> for Claim {
    fn from(claim: LocalPortsClaim) -> Self {
        Self::LocalPorts(claim)
    }
}

#[cfg(test)]
impl From<SampleClaim> for Claim {
    fn from(claim: SampleClaim) -> Self {
        Self::Sample(claim)
    }
}
