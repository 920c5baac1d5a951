//! Builds a run from a family and a seed: its observations for the detector and, at the end, its
//! truth.

use std::path::Path;

use anyhow::{Context as _, bail};
use spillway_agent::{engine::HostInfo, sense::Observation};

use super::{
    families::{FAMILIES, Family},
    looks::Seen,
    manifest::Entry,
    sim::Sim,
    truth::Overload,
};
use crate::corpus::{Part, Source, rng::Rng, run::Recording};

/// Memory and CPUs of all simulated hosts: queues do not depend on them.
const HOST: HostInfo = HostInfo { mem_total_bytes: 16 << 30, cpus: 4 };

/// Observations of a run in order of time.
pub struct Stream(Origin);

enum Origin {
    Synthetic(Box<Seen>),
    Recorded(Recording),
}

/// Simulation of a family and a seed; always the same.
pub(super) fn simulate(family: &Family, seed: u64) -> Seen {
    let mut rng = Rng::new(family.name, seed);
    let plan = (family.plan)(&mut rng);
    Seen::new(Sim::new(plan, Rng::new(family.name, rng.bits())), HOST, rng)
}

/// Manifest entry of a family and a seed; simulates the whole run.
pub fn entry(family: &Family, seed: u64) -> Entry {
    let mut seen = simulate(family, seed);
    seen.by_ref().for_each(drop);
    let plan = &seen.sim().plan;
    Entry {
        run: format!("{}/{seed}", family.name),
        family: family.name.to_owned(),
        part: family.part,
        source: Source::Synthetic,
        seed: Some(seed),
        trace: None,
        addr: seen.addr().to_string(),
        overloads: seen.overloads().to_vec(),
        tolerated: seen.tolerated(),
        secs: plan.secs,
        interval_secs: plan.looks.interval_secs,
        why: String::new(),
    }
}

/// Synthetic runs of one part, or of all.
pub fn synthetic(part: Option<Part>) -> impl Iterator<Item = (&'static Family, u64)> {
    let families =
        FAMILIES.iter().filter(move |family| part.is_none_or(|part| family.part == part));
    families.flat_map(|family| (0..family.runs).map(move |seed| (family, seed)))
}

impl Stream {
    /// Observations of a run in the manifest; `dir` is the corpus's directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the family is unknown or the trace cannot be read.
    pub fn open(entry: &Entry, dir: &Path) -> anyhow::Result<Self> {
        match (entry.source, entry.seed, &entry.trace) {
            (Source::Synthetic, Some(seed), _) => {
                let family = FAMILIES
                    .iter()
                    .find(|family| family.name == entry.family)
                    .with_context(|| {
                        let hint = "`cargo xtask corpus queues list` names them";
                        format!("{}: unknown family {:?}\n  hint: {hint}", entry.run, entry.family)
                    })?;
                Ok(Self(Origin::Synthetic(Box::new(simulate(family, seed)))))
            }
            (Source::Recorded, _, Some(trace)) => {
                Ok(Self(Origin::Recorded(Recording::open(&dir.join(trace))?)))
            }
            _ => bail!("{}: a synthetic run needs `seed`, a recorded one `trace`", entry.run),
        }
    }

    /// Host of the run.
    pub fn host(&self) -> HostInfo {
        match &self.0 {
            Origin::Synthetic(seen) => seen.host(),
            Origin::Recorded(trace) => trace.host,
        }
    }

    /// Truth according to the simulation, once the run has ended; `None` for a recording.
    pub fn truth(&self) -> Option<&[Overload]> {
        match &self.0 {
            Origin::Synthetic(seen) => Some(seen.overloads()),
            Origin::Recorded(_) => None,
        }
    }
}

impl Iterator for Stream {
    type Item = anyhow::Result<Observation>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Origin::Synthetic(seen) => seen.next().map(Ok),
            Origin::Recorded(trace) => trace.observations.next(),
        }
    }
}
