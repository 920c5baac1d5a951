//! Second generator of the corpus of leaks, in two sets: one for tuning, the other held out.
//!
//! Both were written from what is known about programs, allocators and kernels, without a look at the
//! detector, at the families of the first generator or at any recorded run. The [`Set::First`] has
//! been looked into since 2026-11-29 and is for work on the detector, as the part `scenes`. The
//! [`Set::Second`] is the part `independent`: never tune on it, and do not look into single runs. A
//! set that somebody has looked into is replaced by another seed, or for good by another set; every
//! parameter of every run is drawn by the seed from wide ranges.
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
//! line in `GROUPS` of `leaks` or `healthy` of its set.

mod facts;
mod first;
mod growth;
mod loads;
mod programs;
mod run;
mod score;
mod second;
mod shapes;
mod truth;
mod world;

use serde::Serialize;

use crate::corpus::{Part, rng::Rng};

pub use facts::{SeenCgroup, SeenHost, SeenProcess, Sight};
pub use run::{Entry, Run};
pub use score::{Report, Scored, score_run};
pub use truth::Due;

/// Runs of each mechanism in a set, unless another number is asked for.
pub const RUNS_OF_EACH: usize = 4;

/// Way in which memory grows, leaking or not.
#[derive(Clone, Copy)]
pub struct Mechanism {
    /// Name, unique within its set.
    pub name: &'static str,
    /// Description in one sentence; of a healthy one, with what gives it away.
    pub why: &'static str,
    scene: fn(&mut Rng) -> world::Scene,
}

/// Mechanisms that were written together and are used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// Looked into: for work on the detector.
    First,
    /// Held out.
    Second,
}

impl Set {
    /// All sets.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// Set that makes up this part of the corpus.
    pub fn of(part: Part) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.part() == part)
    }

    /// Part of the corpus that it makes up.
    pub fn part(self) -> Part {
        match self {
            Self::First => Part::Scenes,
            Self::Second => Part::Independent,
        }
    }

    /// Seed of the runs that figures are quoted on. That of a held-out set is replaced once somebody
    /// has looked into a run.
    pub fn seed(self) -> u64 {
        match self {
            Self::First => 20_121_022,
            Self::Second => 27_182_818,
        }
    }

    /// Beginning of the names of its random streams.
    fn stream(self) -> &'static str {
        match self {
            Self::First => "independent",
            Self::Second => "independent-second",
        }
    }

    /// All mechanisms, and true for those that leak.
    pub fn mechanisms(self) -> impl Iterator<Item = (&'static Mechanism, bool)> {
        let (leaks, healthy) = match self {
            Self::First => (first::leaks::GROUPS, first::healthy::GROUPS),
            Self::Second => (second::leaks::GROUPS, second::healthy::GROUPS),
        };
        let leaking = leaks.iter().copied().flatten().map(|one| (one, true));
        let healthy = healthy.iter().copied().flatten().map(|one| (one, false));
        leaking.chain(healthy)
    }
}
