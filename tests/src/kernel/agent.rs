//! The agent itself, as it is installed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use aya::programs::loaded_programs;
use serde_json::Value;
use spillway_agent::{bpf::Probe, sense::Sensors};

use crate::{
    checks::{NotOffered, Seen},
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

/// Maximum number of instructions that the verifier walks in one program. The largest took 15,666
/// on 6.18. A loop that the verifier walks once for each of many rounds takes hundreds of
/// thousands, with which a slow host needs seconds to start the agent.
const VERIFIED_MAX: u32 = 30_000;

/// Checks that the verifier is quickly done with every program.
pub fn verified(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let before: BTreeSet<_> = loaded_programs().flatten().map(|program| program.id()).collect();
    let sensors = Sensors::start_without(&[]);
    let programs: Vec<_> = loaded_programs()
        .flatten()
        .filter(|program| !before.contains(&program.id()))
        .filter_map(|program| {
            let count = program.verified_instruction_count()?;
            Some((count, String::from_utf8_lossy(program.name()).into_owned()))
        })
        .collect();
    drop(sensors);
    let Some((count, name)) = programs.iter().max() else {
        return Err(NotOffered("Linux 5.16 brought the count of instructions".to_owned()).into());
    };
    let detail = format!("the verifier walked {count} instructions of {name}, the most of all");
    ensure!(*count <= VERIFIED_MAX, "{detail}; at most {VERIFIED_MAX} are allowed");
    Ok(Seen { events: programs.len() as u64, detail })
}
