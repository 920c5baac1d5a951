//! A sample detector, compiled in the tests only: it shows what a new detector takes.
//!
//! Beside this file it takes a variant in `verdict.rs`, a line in `mod.rs`, and, since its subject
//! is new, an id in `incident_id.rs`.

use std::sync::{Arc, LazyLock};

use serde::Serialize;

use super::{
    claim::{Assessment, ClaimDetails, Severity, Situation, Wants},
    detector::{Context, Detector, DetectorSize, Findings},
    incident_id::IncidentId,
    verdict::Verdict,
};
use crate::{sense::Fact, units::Size};

/// Available memory below which the host is short of it.
const AVAILABLE_BYTES_MIN: u64 = 64 << 20;

/// A host that is short of memory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleClaim {
    /// Memory available.
    pub available_bytes: u64,
}

impl ClaimDetails for SampleClaim {
    fn id(&self) -> IncidentId {
        IncidentId::Sample
    }

    fn resource(&self) -> &'static str {
        "memory"
    }

    fn cgroup(&self) -> &Arc<str> {
        static ROOT: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        &ROOT
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn endangers_host(&self) -> bool {
        true
    }

    fn severity(&self, _assessment: &Assessment<'_>) -> (Severity, String) {
        (Severity::Critical, "the whole host is short of memory".to_owned())
    }

    fn wants(&self, situation: &Situation<'_>) -> Wants {
        Wants { drain: situation.is_nodes, ..Wants::default() }
    }

    fn label(&self) -> String {
        "memory of the host".to_owned()
    }

    fn component(&self) -> String {
        "the host".to_owned()
    }

    fn class(&self) -> String {
        "shortage of memory".to_owned()
    }

    fn headline(&self, host: &str, _exhaustion_secs: Option<f64>) -> String {
        format!("{host} has {} of memory left", Size(self.available_bytes as f64))
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        "stop a process".to_owned()
    }
}

/// Finds hosts that are short of memory.
#[derive(Default)]
pub(crate) struct SampleDetector {
    is_raised: bool,
}

impl Detector for SampleDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        let Fact::Host(host) = fact else { return };
        let is_short = host.mem_available_bytes < AVAILABLE_BYTES_MIN;
        if std::mem::replace(&mut self.is_raised, is_short) == is_short {
            return;
        }
        let claim = SampleClaim { available_bytes: host.mem_available_bytes };
        let why = format!("the host has {} of memory left", Size(claim.available_bytes as f64));
        let verdict = if is_short { Verdict::raised } else { Verdict::cleared };
        findings.verdicts.push(verdict(context.t, claim, 1.0, why));
    }

    fn size(&self) -> DetectorSize {
        DetectorSize::default()
    }
}

mod tests {
    use super::*;
    use crate::{
        config::Config,
        detect::{Claim, HostInfo},
        engine::Engine,
        sense::{HostFact, Observation},
    };

    #[test]
    fn sample_detector_pages_and_drains_by_its_own_answers() {
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        let mut engine =
            Engine::new(&Config::default(), info).with_detector(Box::<SampleDetector>::default());
        let mut apply = |t, mem_available_bytes| {
            let host = HostFact { mem_available_bytes, psi_memory_some_avg10: None };
            engine.apply(&Observation { t, fact: Fact::Host(host) })
        };
        assert!(apply(0.0, 1 << 33).is_empty());
        let output = apply(1.0, 1 << 20);
        let line = serde_json::to_string(&output.verdicts[0]).unwrap();
        assert!(line.starts_with(r#"{"t":1.0,"verdict":"sample","available_bytes":1048576,"#));
        let actions: Vec<_> = output.decisions.iter().map(|d| d.action.to_string()).collect();
        assert_eq!(actions, ["page (critical)", "drain"]);
        assert!(output.decisions.iter().all(|decision| decision.id.to_string() == "sample-host"));
        let claim: &Claim = &output.decisions[0].verdict.claim;
        assert_eq!(claim.headline("web-3", None), "web-3 has 1.0 MiB of memory left");
        let cleared = apply(2.0, 1 << 33);
        assert_eq!(cleared.decisions[0].action.to_string(), "undrain");
    }
}
