//! Gaps in what the sensors see, as a fact like any other.
//!
//! Detectors must not read probes or counters themselves: a replay of the trace would then judge
//! otherwise than the live run did. So changes of probes, and losses since the last scan, are part
//! of the observations, but only when there are any: a host on which everything is seen has no such
//! fact, nor have older traces.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    Fact, Loss, LossCounters, SensorHealthFact,
    sensor::{Observations, Schedule, Sensor},
};
use crate::bpf::{ProbeState, ProbeStatus};

/// Reports gaps in what the other sensors see.
#[derive(Debug, Default)]
pub struct SensorHealthSensor {
    degraded: Vec<Arc<str>>,
    off: Vec<Arc<str>>,
    totals: BTreeMap<&'static str, u64>,
}

impl SensorHealthSensor {
    /// Returns a fact if a probe has changed or something was lost since the last call.
    fn changes(
        &mut self,
        probes: &[ProbeStatus],
        losses: &LossCounters,
    ) -> Option<SensorHealthFact> {
        let names = |state| {
            probes
                .iter()
                .filter(move |status| status.state == state)
                .map(|status| status.probe.name())
        };
        let is_as_before =
            |state, before: &[Arc<str>]| names(state).eq(before.iter().map(|name| &**name));
        let has_changed = !is_as_before(ProbeState::Degraded, &self.degraded)
            || !is_as_before(ProbeState::Off, &self.off);
        let mut fresh = BTreeMap::new();
        for (name, total) in losses.totals() {
            let rise = total.saturating_sub(self.totals.insert(name, total).unwrap_or(0));
            if rise > 0 {
                fresh.insert(Arc::from(name), rise);
            }
        }
        if !has_changed && fresh.is_empty() {
            return None;
        }
        self.degraded = names(ProbeState::Degraded).map(Arc::from).collect();
        self.off = names(ProbeState::Off).map(Arc::from).collect();
        Some(SensorHealthFact {
            degraded: self.degraded.clone(),
            off: self.off.clone(),
            lost: fresh,
        })
    }
}

impl Sensor for SensorHealthSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::HostReadFailed
    }

    fn read(&mut self, _: f64, out: &mut Observations<'_>) -> io::Result<()> {
        if let Some(fact) = self.changes(out.probes(), out.losses()) {
            out.push(Fact::Sensing(fact));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Fallback, Hook, Probe};

    const BEST: Fallback = Fallback::without_bpf(Hook::new("best"), "best");

    fn attached(probe: Probe) -> ProbeStatus {
        ProbeStatus::new(probe, Some(&BEST), Vec::new())
    }

    #[test]
    fn host_that_is_seen_in_full_has_no_fact() {
        let probes = Probe::VARIANTS.map(attached);
        assert_eq!(SensorHealthSensor::default().changes(&probes, &LossCounters::default()), None);
    }

    #[test]
    fn probe_is_reported_once_and_again_when_it_changes() {
        let mut sensor = SensorHealthSensor::default();
        let scans = BEST.lacking("short-lived processes are not seen");
        let mut probes = vec![
            ProbeStatus::new(Probe::ProcessLife, Some(&scans), Vec::new()),
            ProbeStatus::new(Probe::FaultSamples, None, Vec::new()),
        ];
        let fact = sensor.changes(&probes, &LossCounters::default()).unwrap();
        assert_eq!(
            (fact.degraded, fact.off),
            (vec![Arc::from("process_life")], vec![Arc::from("fault_samples")])
        );
        assert_eq!(sensor.changes(&probes, &LossCounters::default()), None);
        probes[0] = attached(Probe::ProcessLife);
        probes[1] = attached(Probe::FaultSamples);
        assert_eq!(
            sensor.changes(&probes, &LossCounters::default()),
            Some(SensorHealthFact::default())
        );
    }

    #[test]
    fn loss_is_reported_by_its_rise() {
        let (mut sensor, mut losses) = (SensorHealthSensor::default(), LossCounters::default());
        losses.set(Loss::LifeRingFull, 0);
        assert_eq!(sensor.changes(&[], &losses), None);
        for (total, rise) in [(5, Some(5)), (5, None), (9, Some(4))] {
            losses.set(Loss::LifeRingFull, total);
            let reported = sensor.changes(&[], &losses).map(|fact| fact.lost["life_ring_full"]);
            assert_eq!(reported, rise, "at {total}");
        }
    }
}
