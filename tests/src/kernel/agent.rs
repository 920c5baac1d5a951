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
    let output = beside("spillway")?
        .args(["doctor", "--json"])
        .output()
        .context("cannot start the agent")?;
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the agent exited with {}", output.status);
    let said: Value =
        serde_json::from_str(&said).with_context(|| format!("unexpected output {said:?}"))?;
    let probes = said["probes"].as_array().context("the output names no probes")?;
    let sources: BTreeMap<_, _> = probes
        .iter()
        .filter_map(|one| Some((one["probe"].as_str()?, one["source"].as_str()?)))
        .collect();
    for probe in Probe::VARIANTS {
        ensure!(sources.contains_key(probe.name()), "{} is missing in {sources:?}", probe.name());
    }
    let processes = said["processes"].as_u64().unwrap_or(0);
    ensure!(processes > 0 && said["host_memory"] == true, "{processes} processes seen: {said}");
    let detail = sources
        .iter()
        .map(|(probe, source)| format!("{probe} by {source}"))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Seen { events: processes, detail })
}
