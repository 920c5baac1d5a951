//! Growth that sampled page faults represent, and the stacks that lead to it.

use std::fs;

use anyhow::{Context as _, ensure};
use spillway_agent::bpf::Probe;
use spillway_tests::processes;

use crate::{
    checks::{NotOffered, Seen},
    memory::touch,
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;
/// Bytes that a sample represents: one fault in 64, each of one page.
const SAMPLE_BYTES: u64 = 64 * 4096;

/// Checks the growth seen after 128 MiB were touched, to a quarter, and a stack that leads into the
/// program.
pub fn growth_and_stack(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::FaultSamples, rung)?;
    let workload = touch(128 * MIB, &[])?;
    let facts = processes(sensors);
    let fact = facts
        .iter()
        .find(|fact| fact.id.pid == workload.pid())
        .context("the workload is missing")?;
    let faults = sensors.faults().ok_or_else(|| NotOffered("no faults are sampled".to_owned()))?;
    let (samples, stacks) = faults.of_process(workload.pid());
    // Without BPF for processes, facts carry no samples.
    let faulted = fact.faulted_bytes_total.unwrap_or(samples * SAMPLE_BYTES);
    let near = 96 * MIB..=160 * MIB;
    ensure!(near.contains(&faulted), "128 MiB touched, but the samples represent {faulted} bytes");
    let maps = fs::read_to_string(format!("/proc/{}/maps", workload.pid()))
        .context("the workload has no maps")?;
    let own: Vec<_> =
        maps.lines().filter(|line| line.contains("workload")).filter_map(range).collect();
    let leads = |stack: &Vec<u64>| {
        stack.first().is_some_and(|ip| own.iter().any(|range| range.contains(ip)))
    };
    ensure!(stacks.iter().any(leads), "no stack leads into the workload: {stacks:x?}");
    let detail = format!("{} MiB by {samples} samples, {} stacks", faulted / MIB, stacks.len());
    Ok(Seen { events: samples, detail })
}

fn range(line: &str) -> Option<std::ops::Range<u64>> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    Some(u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?)
}
