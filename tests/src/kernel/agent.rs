//! The agent itself, as it is installed.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use spillway_agent::bpf::Probe;

use crate::{
    checks::Seen,
    memory::beside,
    rungs::{Prepared, Rung},
};

/// Checks that `spillway doctor` succeeds, names every probe, and sees processes and the host.
pub fn doctor(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let output =
        beside("spillway")?.args(["doctor", "--json"]).output().context("it does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "it ended with {}", output.status);
    let said: Value = serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))?;
    let probes = said["probes"].as_array().context("it names no probes")?;
    let sources: BTreeMap<_, _> = probes
        .iter()
        .filter_map(|one| Some((one["probe"].as_str()?, one["source"].as_str()?)))
        .collect();
    for probe in Probe::VARIANTS {
        ensure!(
            sources.contains_key(probe.name()),
            "it does not name {}: {sources:?}",
            probe.name()
        );
    }
    let processes = said["processes"].as_u64().unwrap_or(0);
    ensure!(processes > 0 && said["host_memory"] == true, "it sees {processes} processes: {said}");
    let detail = sources
        .iter()
        .map(|(probe, source)| format!("{probe} by {source}"))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Seen { events: processes, detail })
}
