//! What became of each probe, in words that an operator can act on.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{
    Probe,
    fallbacks::{Cause, FALLBACK_CHAINS, Fallback, KernelFeatures, Passed, Unavailable, select},
};

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeState {
    /// All that it should tell is told.
    Attached,
    /// Less is told, or at a higher price.
    Degraded,
    /// Nothing is told.
    Off,
}

/// A probe, the hook or source in use, and why those above it are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeStatus {
    /// Probe.
    #[serde(serialize_with = "by_name")]
    pub probe: Probe,
    /// What became of it.
    pub state: ProbeState,
    /// Where it is attached, or what is read in its place.
    pub source: &'static str,
    /// What is lost against the best hook; `None` where nothing is.
    pub lacks: Option<&'static str>,
    /// Why the best hook is not in use; `None` where nothing is lost.
    reason: Option<String>,
    /// Rungs that were passed over, the best first.
    pub passed_over: Vec<Passed>,
}

fn by_name<S: Serializer>(probe: &Probe, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(probe.name())
}

impl ProbeState {
    /// Its name in print and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Degraded => "degraded",
            Self::Off => "off",
        }
    }
}

impl ProbeStatus {
    /// The report on a probe that took `rung`, or none, after passing over others.
    pub fn new(probe: Probe, rung: Option<&Fallback>, passed_over: Vec<Passed>) -> Self {
        let (state, source, lacks) = match rung {
            None => (ProbeState::Off, "nothing", Some("nothing takes its place")),
            Some(rung) if rung.lacks.is_some() => (ProbeState::Degraded, rung.at, rung.lacks),
            Some(rung) => (ProbeState::Attached, rung.at, None),
        };
        let reason = lacks.map(|_| match passed_over.first() {
            Some(passed) => passed.shortfall.reason.clone(),
            None => "it has no hook".to_owned(),
        });
        Self { probe, state, source, lacks, reason, passed_over }
    }

    /// Reports where BPF is not used at all.
    pub fn without_bpf(shortfall: &Unavailable) -> Vec<Self> {
        let mut offer =
            KernelFeatures { no_bpf: Some(shortfall.clone()), ..KernelFeatures::default() };
        offer.rule_on_listeners(None);
        FALLBACK_CHAINS
            .iter()
            .map(|ladder| {
                let (rung, passed) = select(ladder.rungs, &offer);
                Self::new(ladder.probe, rung, passed)
            })
            .collect()
    }

    /// Why the probe is not all that it should be; `None` where it is.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl fmt::Display for ProbeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.probe.name();
        match (self.state, self.reason(), self.lacks) {
            (ProbeState::Degraded, Some(reason), Some(lacks)) => {
                write!(
                    f,
                    "probe {name} not attached: {reason}; {} is used instead: {lacks}",
                    self.source
                )
            }
            (ProbeState::Off, Some(reason), _) => write!(f, "probe {name} not attached: {reason}"),
            _ => write!(f, "probe {name} attached: {}", self.source),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Unwanted => "unwanted",
        })
    }
}
