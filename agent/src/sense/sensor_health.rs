//! What the sensors do not see, told as a fact like any other.
//!
//! Detectors must not look at probes or counters themselves: then a replay of the trace would judge
//! otherwise than the live run did. So what became of the probes, and what was lost since the last
//! scan, goes into the stream of observations, but only when there is something to tell: a host on
//! which all is seen has no such fact, nor have older traces.

use std::{collections::BTreeMap, sync::Arc};

use super::{LossCounters, SensorHealthFact};
use crate::bpf::{ProbeState, ProbeStatus};

/// Watches the sensors themselves.
#[derive(Debug, Default)]
pub struct SensorHealthSensor {
    degraded: Vec<Arc<str>>,
    off: Vec<Arc<str>>,
    totals: BTreeMap<&'static str, u64>,
}

impl SensorHealthSensor {
    /// What to tell at the head of a scan; `None` where nothing has changed and nothing was lost
    /// since the last call.
    pub fn look(
        &mut self,
        reports: &[ProbeStatus],
        lost: &LossCounters,
    ) -> Option<SensorHealthFact> {
        let named = |state| {
            reports
                .iter()
                .filter(move |report| report.state == state)
                .map(|report| report.probe.name())
        };
        let is_as_before =
            |state, before: &[Arc<str>]| named(state).eq(before.iter().map(|name| &**name));
        let changed = !is_as_before(ProbeState::Degraded, &self.degraded)
            || !is_as_before(ProbeState::Off, &self.off);
        let mut fresh = BTreeMap::new();
        for (what, total) in lost.totals() {
            let rise = total.saturating_sub(self.totals.insert(what, total).unwrap_or(0));
            if rise > 0 {
                fresh.insert(Arc::from(what), rise);
            }
        }
        if !changed && fresh.is_empty() {
            return None;
        }
        self.degraded = named(ProbeState::Degraded).map(Arc::from).collect();
        self.off = named(ProbeState::Off).map(Arc::from).collect();
        Some(SensorHealthFact {
            degraded: self.degraded.clone(),
            off: self.off.clone(),
            lost: fresh,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Loss, Probe, fallbacks};

    /// A probe on the first rung of its ladder, or on the last that takes no BPF.
    fn report(probe: Probe, attached: bool) -> ProbeStatus {
        let rung = fallbacks::of(probe).iter().find(|rung| attached || !rung.hook.is_bpf());
        ProbeStatus::new(probe, rung, Vec::new())
    }

    #[test]
    fn where_all_is_seen_nothing_is_told() {
        let reports = Probe::VARIANTS.map(|probe| report(probe, true));
        assert_eq!(SensorHealthSensor::default().look(&reports, &LossCounters::default()), None);
    }

    #[test]
    fn what_is_not_seen_is_told_once_and_again_when_it_changes() {
        let mut sensing = SensorHealthSensor::default();
        let mut reports =
            vec![report(Probe::ProcessLife, false), report(Probe::FaultSamples, false)];
        let told = sensing.look(&reports, &LossCounters::default()).unwrap();
        assert_eq!(
            (told.degraded, told.off),
            (vec![Arc::from("process_life")], vec![Arc::from("fault_samples")])
        );
        assert_eq!(sensing.look(&reports, &LossCounters::default()), None);
        reports[0] = report(Probe::ProcessLife, true);
        reports[1] = report(Probe::FaultSamples, true);
        assert_eq!(
            sensing.look(&reports, &LossCounters::default()),
            Some(SensorHealthFact::default())
        );
    }

    #[test]
    fn a_loss_is_told_by_how_much_it_rose() {
        let (mut sensing, mut lost) = (SensorHealthSensor::default(), LossCounters::default());
        lost.set(Loss::LifeRingFull, 0);
        assert_eq!(sensing.look(&[], &lost), None);
        for (total, rise) in [(5, Some(5)), (5, None), (9, Some(4))] {
            lost.set(Loss::LifeRingFull, total);
            let told = sensing.look(&[], &lost).map(|fact| fact.lost["life_ring_full"]);
            assert_eq!(told, rise, "at {total}");
        }
    }
}
