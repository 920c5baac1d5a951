use std::io;

use super::*;
use crate::{
    bpf::{Fallback, IterHandle, Need, Probe, ProbeState, btf_offsets::members, fallbacks::Cause},
    sense::{Fact, HostFact, Loss, OutboundSensor, sensor::boxed},
};

#[test]
fn every_probe_has_one_chain_and_every_hook_one_fallback() {
    let mut owned: Vec<_> = probes().iter().map(|chain| chain.probe).collect();
    owned.sort();
    assert_eq!(owned, Probe::VARIANTS);
    let mut hooks: Vec<_> =
        probes().iter().flat_map(|chain| chain.fallbacks).map(|fallback| fallback.hook).collect();
    let count = hooks.len();
    hooks.sort();
    hooks.dedup();
    assert_eq!(hooks.len(), count);
}

#[test]
fn names_of_probes_are_unchanged() {
    assert_eq!(
        Probe::VARIANTS.map(Probe::name),
        [
            "process_memory",
            "fault_samples",
            "process_life",
            "process_handles",
            "accept_queue",
            "unix_queue",
            "accept_sojourn",
            "outbound_connects",
            "requests",
            "open_files",
        ]
    );
}

#[test]
fn without_bpf_each_probe_has_its_other_source_or_none() {
    let sensors = Sensors::without_bpf("bpf() is denied");
    let sources: Vec<_> = sensors.reports().iter().map(|status| status.source).collect();
    assert_eq!(
        sources,
        [
            "/proc/PID/{stat,status}",
            "nothing",
            "comparing scans",
            "/proc/PID/{fd,limits,stat}",
            "sock_diag",
            "sock_diag",
            "nothing",
            "nothing",
            "sock_diag",
            "nothing",
        ]
    );
    assert!(sensors.reports().iter().all(|status| status.reason() == Some("bpf() is denied")));
    assert!(sensors.get::<OutboundSensor>().is_none());
}

/// A sensor of its own, from nothing but the public interface of this folder: it counts open files
/// with BPF, and fails without.
struct SampleSensor {
    iter: Option<IterHandle>,
}

impl SampleSensor {
    const PROBE: FallbackChain = FallbackChain {
        probe: Probe::ProcessHandles,
        fallbacks: &[
            Fallback::bpf(
                Hook::new("sample_iter"),
                "iter/task_file",
                &[Need::Iterator("task_file")],
            )
            .reading(&[members::TASK_TGID, members::FILE_INODE]),
            Fallback::without_bpf(Hook::new("sample_proc"), "/proc/sys/fs/file-nr")
                .lacking("files are not counted by process"),
        ],
    };
    const ENTRY: SensorEntry = SensorEntry {
        probes: &[&Self::PROBE],
        start: |bpf, _| {
            let iter =
                bpf.attach(&Self::PROBE, |context, _| context.iter("count_handles", "task_file"));
            boxed(Some(Self { iter }))
        },
    };
}

impl Sensor for SampleSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Listeners
    }

    fn failure(&self) -> Loss {
        Loss::HandleScanFailed
    }

    fn read(&mut self, _: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let Some(iter) = &self.iter else { return Err(io::Error::other("no iterator")) };
        let mem_available_bytes = io::copy(&mut iter.open()?, &mut io::sink())?;
        out.push(Fact::Host(HostFact { mem_available_bytes, psi_memory_some_avg10: None }));
        Ok(())
    }
}

#[test]
fn sample_sensor_is_attached_read_and_its_failure_counted() {
    let mut facts = Vec::new();
    let loader = Loader::without_bpf("the test wants none");
    let mut sensors = Sensors::over(&[SampleSensor::ENTRY], loader, &Hierarchy::None);
    sensors.scan_processes(1.0, &mut facts);
    sensors.drain_life(1.0, &mut facts);
    assert_eq!(sensors.lost().totals().count(), 0, "it is read on another timer");
    sensors.scan_listeners(2.0, &mut facts);
    assert_eq!((facts.len(), sensors.get::<SampleSensor>().is_some()), (0, true));
    assert_eq!(sensors.lost().totals().collect::<Vec<_>>(), [("handle_scan_failed", 1)]);
    let [status] = sensors.reports() else { panic!("{:?}", sensors.reports()) };
    assert_eq!((status.state, status.source), (ProbeState::Degraded, "/proc/sys/fs/file-nr"));
    assert_eq!(status.passed_over[0].shortfall.why, Cause::Unwanted);

    let mut sensors = Sensors::start_entries(&[SampleSensor::ENTRY], &[]);
    sensors.scan_listeners(3.0, &mut facts);
    let is_attached = sensors.reports()[0].state == ProbeState::Attached;
    assert_eq!((facts.len(), is_attached), (usize::from(is_attached), is_attached));
}
