//! From a family and a seed to a run: its observations for the detector, and, once they are all
//! told, its truth.

use std::path::Path;

use anyhow::{Context as _, bail};
use spillway_agent::{engine::HostInfo, sense::Observation};

use super::{
    families::{Draw, FAMILIES, Family, HELD_OUT_FROM},
    manifest::Entry,
    seen::Seen,
    sim::Sim,
    truth::Overload,
};
use crate::corpus::{Part, rng::Rng, run::Recording};

const HOST: HostInfo = HostInfo { mem_total_bytes: 16 << 30, cpus: 4 };

/// Observations of a run, in order of time.
pub struct Stream(Origin);

enum Origin {
    Simulated(Box<Seen>),
    Recorded(Recording),
}

fn part(seed: u64) -> Part {
    if seed >= HELD_OUT_FROM { Part::HeldOut } else { Part::Tuning }
}

/// The run of a family and a seed; always the same.
fn simulate(family: &Family, seed: u64) -> Seen {
    let mut draw = Draw { rng: Rng::new(family.name, seed), part: part(seed) };
    let plan = (family.plan)(&mut draw);
    let rng = Rng::new(family.name, draw.rng.bits());
    Seen::new(Sim::new(plan, rng), HOST, draw.rng)
}

/// The line of the manifest that belongs to a family and a seed: simulates all of it.
pub fn entry(family: &Family, seed: u64) -> Entry {
    let mut seen = simulate(family, seed);
    seen.by_ref().for_each(drop);
    Entry {
        run: format!("{}/{seed}", family.name),
        family: family.name.to_owned(),
        part: part(seed),
        seed: Some(seed),
        trace: None,
        addr: seen.addr().to_owned(),
        overloads: seen.sim.truth.overloads.clone(),
        tolerated: seen.sim.truth.tolerated.clone(),
        secs: seen.sim.plan.secs,
        interval_secs: seen.sim.plan.look.interval_secs,
    }
}

impl Stream {
    /// The observations of a run in the manifest; `dir` is the corpus's directory.
    ///
    /// # Errors
    ///
    /// Returns an error if its family is not known or its trace cannot be read.
    pub fn open(entry: &Entry, dir: &Path) -> anyhow::Result<Self> {
        let seed = match (entry.seed, &entry.trace) {
            (Some(seed), None) => seed,
            (None, Some(trace)) => {
                return Ok(Self(Origin::Recorded(Recording::open(&dir.join(trace))?)));
            }
            _ => bail!("{}: a simulated run needs `seed`, a recorded one `trace`", entry.run),
        };
        let family =
            FAMILIES.iter().find(|family| family.name == entry.family).with_context(|| {
                let hint = "`cargo xtask corpus requests list` names them";
                format!("{}: no family {:?}\n  hint: {hint}", entry.run, entry.family)
            })?;
        Ok(Self(Origin::Simulated(Box::new(simulate(family, seed)))))
    }

    /// Host of the run.
    pub fn host(&self) -> HostInfo {
        match &self.0 {
            Origin::Simulated(seen) => seen.host(),
            Origin::Recorded(trace) => trace.host,
        }
    }

    /// Label that the simulation gives the run, once it has ended; `None` for a recording.
    pub fn truth(&self) -> Option<&[Overload]> {
        match &self.0 {
            Origin::Simulated(seen) => seen.has_ended().then_some(&seen.sim.truth.overloads),
            Origin::Recorded(_) => None,
        }
    }
}

impl Iterator for Stream {
    type Item = anyhow::Result<Observation>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Origin::Simulated(seen) => seen.next().map(Ok),
            Origin::Recorded(trace) => trace.observations.next(),
        }
    }
}
