//! Growth that sampled page faults represent.

use anyhow::{Context as _, ensure};
use spillway_agent::bpf::Probe;
use spillway_tests::processes;

use crate::{
    checks::{NotOffered, Seen},
    memory::touch,
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;

/// Checks the growth seen after 128 MiB were touched, to a quarter.
pub fn growth(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::FaultSamples, rung)?;
    let workload = touch(128 * MIB, &[])?;
    let facts = processes(sensors);
    let fact = facts
        .iter()
        .find(|fact| fact.id.pid == workload.pid())
        .context("the workload is missing")?;
    // Without BPF for processes, facts carry no samples.
    let faulted = fact
        .faulted_bytes_total
        .ok_or_else(|| NotOffered("no scan of processes reads the samples".to_owned()))?;
    let near = 96 * MIB..=160 * MIB;
    ensure!(near.contains(&faulted), "128 MiB touched, but the samples represent {faulted} bytes");
    Ok(Seen { events: 1, detail: format!("{} MiB", faulted / MIB) })
}
