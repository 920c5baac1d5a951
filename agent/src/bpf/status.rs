//! Status of each probe, in a form that an operator can act on.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{
    Probe,
    fallbacks::{Cause, Fallback, Passed},
};

/// State of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ProbeState {
    /// It sees everything that it should.
    Attached,
    /// It sees less, or at a higher cost.
    Degraded,
    /// It sees nothing.
    Off,
}

/// A probe, the source in use, and why better ones are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeStatus {
    /// Probe.
    #[serde(serialize_with = "by_name")]
    pub probe: Probe,
    /// State.
    pub state: ProbeState,
    /// Hook that it is attached to, or file that is read in its place.
    pub source: &'static str,
    /// Loss against the best hook; `None` if nothing is lost.
    pub lacks: Option<&'static str>,
    /// Reason that the best hook is not in use; `None` if nothing is lost.
    reason: Option<String>,
    /// Fallbacks that were passed over, best first.
    pub passed_over: Vec<Passed>,
}

fn by_name<S: Serializer>(probe: &Probe, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(probe.name())
}

impl ProbeState {
    /// Name in output and metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl ProbeStatus {
    /// Creates the status of a probe that took `fallback`, or nothing, after passing over others.
    pub fn new(probe: Probe, fallback: Option<&Fallback>, passed_over: Vec<Passed>) -> Self {
        let (state, source, lacks) = match fallback {
            None => (ProbeState::Off, "nothing", Some("nothing takes its place")),
            Some(fallback) if fallback.lacks.is_some() => {
                (ProbeState::Degraded, fallback.at, fallback.lacks)
            }
            Some(fallback) => (ProbeState::Attached, fallback.at, None),
        };
        let reason = lacks.map(|_| match passed_over.first() {
            Some(passed) => passed.shortfall.reason.clone(),
            None => "it has no hook".to_owned(),
        });
        Self { probe, state, source, lacks, reason, passed_over }
    }

    /// Reason that the probe is not in its best state; `None` if it is.
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
        f.write_str((*self).into())
    }
}
