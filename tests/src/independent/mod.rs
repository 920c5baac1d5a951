//! The independent held-out part of the corpus of leaks: a second generator, by a second author.
//!
//! It was written from what is known about programs, allocators and kernels, without a look at the
//! detector, at the families of the first generator or at any recorded run, so that the detector
//! cannot have learnt its habits. Keep it so: never tune on it, and do not look into single runs. A
//! set that somebody has looked into is replaced by another [`SEED`]; every parameter of every run is
//! drawn by it from wide ranges.
//!
//! A run is a mechanism, a number and a seed. A mechanism writes a [`world::Scene`]: programs with
//! their memory in parts ([`programs`], [`shapes`]), cgroups, and what leaks. [`world`] lets them live
//! on a host and looks at it as the agent does; [`truth`] says when the leak is due; [`score`] compares
//! that with what the engine says.
//!
//! Fairness: a healthy run differs from every leak that would be due by then in something that can be
//! seen, named in its mechanism; else it is marked untellable, and counts in no target.
//! A leak is due long after the healthy movement around it would have shown itself.
//!
//! A new mechanism is a function and an entry in the list of its group; a new group is a file and a
//! line in `GROUPS` of `leaks` or `healthy`.

mod facts;
mod healthy;
mod leaks;
mod programs;
mod run;
mod score;
mod shapes;
mod truth;
mod world;

use crate::corpus::rng::Rng;

pub use facts::{SeenCgroup, SeenHost, SeenProcess, Sight};
pub use run::{Entry, Run, set};
pub use score::{Report, Scored, score_run};
pub use truth::Due;

/// Seed of the set that figures are quoted on. Replace it once somebody has looked into a run.
pub const SEED: u64 = 20_121_022;

/// Runs of each mechanism in a set, unless another number is asked for.
pub const RUNS_OF_EACH: usize = 4;

/// Way in which memory grows, leaking or not.
#[derive(Clone, Copy)]
pub struct Mechanism {
    /// Name.
    pub name: &'static str,
    /// Description in one sentence; of a healthy one, with what gives it away.
    pub why: &'static str,
    scene: fn(&mut Rng) -> world::Scene,
}

/// All mechanisms, and true for those that leak.
pub fn mechanisms() -> impl Iterator<Item = (&'static Mechanism, bool)> {
    let leaking = leaks::GROUPS.iter().copied().flatten().map(|one| (one, true));
    let healthy = healthy::GROUPS.iter().copied().flatten().map(|one| (one, false));
    leaking.chain(healthy)
}
