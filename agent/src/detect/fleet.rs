//! Fleet detector: finds groups whose nodes cannot all leave before their end, and storms.
//!
//! One node of a group makes the facts, so that the group pages once. A state has to last for two
//! facts in a row, because nodes publish at different times. Cold start: nothing is claimed at the
//! first fact. A node that stops making facts has ended its claims after ten minutes.

pub mod claim;
pub mod sign;

use self::{claim::FleetRiskClaim, sign::FleetSign};
use super::{
    claim::ClaimDetails as _,
    detector::{Context, Detector, DetectorSize, Findings},
    verdict::Verdict,
};
use crate::sense::Fact;

/// Facts in a row that have to agree.
const FACTS_MIN: u32 = 2;

/// Time without a fact after which nothing is claimed any more, in seconds. Facts come every
/// minute.
const STALE_SECS: f64 = 600.0;

/// Confidence of a claim: reports of other nodes may be old or wrong.
const CONFIDENCE: f64 = 0.9;

/// Finds groups that are about to fail together.
#[derive(Default)]
pub(super) struct FleetDetector {
    late: Risk,
    storm: Risk,
    last_t: f64,
}

/// One risk of the group.
#[derive(Default)]
struct Risk {
    /// Facts in a row that differ from what is claimed.
    differs: u32,
    raised: Option<FleetRiskClaim>,
}

impl Risk {
    /// Takes the risk that a fact shows; `None` if it shows none.
    fn observe(
        &mut self,
        t: f64,
        shown: Option<FleetRiskClaim>,
        first_end_secs: Option<f64>,
        findings: &mut Findings,
    ) {
        if shown.is_some() != self.raised.is_some() {
            self.differs += 1;
            if self.differs < FACTS_MIN {
                return;
            }
        }
        self.differs = 0;
        match (self.raised.take(), shown) {
            (None, Some(claim)) => {
                findings.verdicts.push(verdict(t, &claim, first_end_secs));
                self.raised = Some(claim);
            }
            (Some(_), Some(claim)) => {
                findings.forecasts.push(verdict(t, &claim, first_end_secs));
                self.raised = Some(claim);
            }
            (Some(claim), None) => findings.verdicts.push(cleared(t, claim)),
            (None, None) => {}
        }
    }

    fn clear(&mut self, t: f64, findings: &mut Findings) {
        self.differs = 0;
        findings.verdicts.extend(self.raised.take().map(|claim| cleared(t, claim)));
    }
}

fn verdict(t: f64, claim: &FleetRiskClaim, first_end_secs: Option<f64>) -> Verdict {
    let is_late = claim.sign == FleetSign::FleetLate;
    let exhaustion_secs = first_end_secs.filter(|_| is_late);
    let why = claim.headline("", exhaustion_secs) + "; " + &claim.advice(exhaustion_secs);
    Verdict { exhaustion_secs, ..Verdict::raised(t, claim.clone(), CONFIDENCE, why) }
}

fn cleared(t: f64, claim: FleetRiskClaim) -> Verdict {
    let why = match claim.sign {
        FleetSign::FleetLate => "every node that has to leave gets its turn in time",
        FleetSign::FleetStorm => "most nodes of the group are well again",
    };
    Verdict::cleared(t, claim, CONFIDENCE, why.to_owned())
}

impl Detector for FleetDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        let t = context.t;
        match fact {
            Fact::Fleet(fact) => {
                self.last_t = t;
                let claim = |sign| FleetRiskClaim::new(sign, fact);
                let late = (fact.late > 0).then(|| claim(FleetSign::FleetLate));
                let storm = fact.storm.is_some().then(|| claim(FleetSign::FleetStorm));
                self.late.observe(t, late, fact.first_end_secs, findings);
                self.storm.observe(t, storm, None, findings);
            }
            Fact::Host(_) if t - self.last_t >= STALE_SECS => {
                self.late.clear(t, findings);
                self.storm.clear(t, findings);
            }
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        let raised = [&self.late, &self.storm].iter().filter(|risk| risk.raised.is_some()).count();
        DetectorSize { cascade_risks_raised: raised, ..DetectorSize::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::Config,
        detect::HostInfo,
        engine::{Engine, Output},
        sense::{FleetFact, HostFact, Observation},
    };

    fn engine() -> Engine {
        Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 })
    }

    fn late(engine: &mut Engine, t: f64, late: u32, first_end_secs: f64) -> Output {
        let fact = FleetFact {
            group: Arc::from("web"),
            nodes: 60,
            need_turn: 40,
            late,
            first_end_secs: Some(first_end_secs),
            slots_needed: Some(3),
            storm: None,
        };
        engine.apply(&Observation { t, fact: Fact::Fleet(fact) })
    }

    fn storm(engine: &mut Engine, t: f64, storm: Option<&str>) -> Output {
        let storm = storm.map(Arc::from);
        let fact = FleetFact { group: Arc::from("web"), nodes: 60, storm, ..FleetFact::default() };
        engine.apply(&Observation { t, fact: Fact::Fleet(fact) })
    }

    fn actions(output: &Output) -> Vec<String> {
        output.decisions.iter().map(|decision| decision.action.to_string()).collect()
    }

    #[test]
    fn nodes_that_come_too_late_page_once_with_the_way_out() {
        let mut engine = engine();
        assert!(late(&mut engine, 0.0, 12, 7_200.0).is_empty(), "one fact may be old");
        let raised = late(&mut engine, 60.0, 12, 7_200.0);
        let claim = &raised.verdicts[0].claim;
        assert_eq!(claim.id().to_string(), "cascade-risk-fleet_late-web");
        assert_eq!(
            raised.verdicts[0].why,
            "group web: 40 of 60 nodes have to leave before they run out, and 12 would not get \
             their turn in time; the first ends in 2.0 h; roll back what leaks, or set \
             fleet.slots = 3 if the others can carry the load of as many; `spillway fleet` lists \
             the nodes"
        );
        let line = serde_json::to_string(&raised.verdicts[0]).unwrap();
        let start = r#"{"t":60.0,"verdict":"cascade_risk","sign":"fleet_late","group":"web","#;
        assert!(line.starts_with(start), "{line}");
        assert!(actions(&raised)[0].starts_with("page (warning)"), "{:?}", actions(&raised));
        let near = late(&mut engine, 120.0, 12, 3_000.0);
        assert!(actions(&near)[0].starts_with("page (critical)"), "{:?}", actions(&near));
        assert!(late(&mut engine, 180.0, 0, 3_000.0).verdicts.is_empty());
        let over = late(&mut engine, 240.0, 0, 3_000.0);
        assert_eq!(over.verdicts[0].why, "every node that has to leave gets its turn in time");
    }

    #[test]
    fn storm_is_a_claim_of_its_own_and_drains_nothing() {
        let mut engine = engine();
        storm(&mut engine, 0.0, Some("14 of 60 nodes are unwell or silent"));
        let raised = storm(&mut engine, 60.0, Some("14 of 60 nodes are unwell or silent"));
        let why = &raised.verdicts[0].why;
        assert!(
            why.starts_with(
                "group web: 14 of 60 nodes are unwell or silent, so that no node is drained; "
            ),
            "{why}"
        );
        assert_eq!(actions(&raised).len(), 1, "{:?}", actions(&raised));
        storm(&mut engine, 120.0, None);
        assert_eq!(storm(&mut engine, 180.0, None).verdicts.len(), 1);
    }

    #[test]
    fn claims_end_if_no_fact_follows() {
        let mut engine = engine();
        late(&mut engine, 0.0, 12, 7_200.0);
        late(&mut engine, 60.0, 12, 7_200.0);
        let mut host = |t| {
            let host = HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None };
            engine.apply(&Observation { t, fact: Fact::Host(host) })
        };
        assert!(host(659.0).verdicts.is_empty());
        assert_eq!(host(660.0).verdicts.len(), 1);
    }
}
