//! One run: built from its mechanism, its number and a seed, and lived through scan by scan.

use anyhow::Context as _;
use serde::Serialize;
use spillway_agent::{engine::HostInfo, sense::Observation};

use super::{
    Mechanism, Set,
    shapes::{DAY, HOUR},
    truth::{Clockwork, Due},
    world::{Scene, World, observations},
};
use crate::{
    corpus::{
        manifest::{Label, Subject},
        rng::Rng,
    },
    independent::facts::Sight,
};

/// Run with its label. Its truth follows when it is lived through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Name: the mechanism and the number.
    pub run: String,
    /// Set of its mechanism.
    pub set: Set,
    /// Mechanism.
    pub mechanism: String,
    /// Number among the runs of its mechanism.
    pub nth: usize,
    /// Seed of the set.
    pub seed: u64,
    /// Label of the subject.
    pub label: Label,
    /// Workload that the run is about; the name of a process is empty if its cgroup leaks.
    pub subject: Subject,
    /// Start of the leak on the run's clock; negative if it was not seen.
    pub leak_start_secs: Option<f64>,
    /// True if nobody can tell that it is healthy before its end.
    pub untellable: bool,
    /// True if the subject is killed at its limit again and again.
    pub loops: bool,
    /// Interval between two scans.
    pub interval_secs: f64,
    /// Longest time that it takes; a leak ends soon after it is due.
    pub secs: f64,
    /// Description in one sentence.
    pub why: String,
}

/// Run, to be lived through.
pub struct Run {
    /// Entry in the set.
    pub entry: Entry,
    world: World,
    clock: Option<Clockwork>,
    over: bool,
}

impl Set {
    /// Runs of the set: `runs` over all mechanisms in turn, leaks and healthy ones alike.
    pub fn entries(self, seed: u64, runs: usize) -> Vec<Entry> {
        let (mut leaking, mut healthy): (Vec<_>, Vec<_>) =
            self.mechanisms().partition(|(_, leaks)| *leaks);
        // A healthy one after each leaking one, so that any number of runs has as many of both.
        let mut order = Vec::new();
        leaking.reverse();
        healthy.reverse();
        while !(leaking.is_empty() && healthy.is_empty()) {
            order.extend(leaking.pop());
            order.extend(healthy.pop());
        }
        (0..runs)
            .map(|place| {
                let (mechanism, _) = order[place % order.len()];
                draft(self, mechanism, place / order.len(), seed).2
            })
            .collect()
    }
}

/// Scene of a run and its entry, before its host is simulated.
fn draft(set: Set, mechanism: &Mechanism, nth: usize, seed: u64) -> (Rng, Scene, Entry) {
    let mut rng = Rng::new(&format!("{}/{}/{nth}", set.stream(), mechanism.name), seed);
    let mut scene = (mechanism.scene)(&mut rng);
    let interval_secs = scene.interval.unwrap_or_else(|| rng.pick(&[1.0, 1.0, 2.0]));
    scene.interval = Some(interval_secs);
    if let Some(start) = scene.leak_start {
        // No leak is due later than that.
        scene.secs = scene.secs.max(start.max(0.0) + DAY + HOUR);
    }
    let entry = Entry {
        run: format!("{}/{nth}", mechanism.name),
        set,
        mechanism: mechanism.name.to_owned(),
        nth,
        seed,
        label: if scene.leak_start.is_some() { Label::Leak } else { Label::Healthy },
        subject: scene.subject.clone(),
        leak_start_secs: scene.leak_start,
        untellable: scene.untellable,
        loops: scene.loops,
        interval_secs,
        secs: scene.secs,
        why: mechanism.why.to_owned(),
    };
    (rng, scene, entry)
}

impl Run {
    /// Run of a mechanism; always the same.
    pub fn new(set: Set, mechanism: &Mechanism, nth: usize, seed: u64) -> Self {
        let (mut rng, scene, entry) = draft(set, mechanism, nth, seed);
        let clock = scene.leak_start.map(|start| Clockwork::new(start, scene.loops));
        Self { entry, world: World::new(&mut rng, scene), clock, over: false }
    }

    /// Run of an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if its mechanism is unknown.
    pub fn open(entry: &Entry) -> anyhow::Result<Self> {
        let (mechanism, _) = entry
            .set
            .mechanisms()
            .find(|(mechanism, _)| mechanism.name == entry.mechanism)
            .with_context(|| {
                format!(
                    "{}: unknown mechanism {:?} in the {:?} set\n  hint: `cargo xtask corpus list \
                    --part independent` names them, `--part scenes` those for tuning",
                    entry.run, entry.mechanism, entry.set
                )
            })?;
        Ok(Self::new(entry.set, mechanism, entry.nth, entry.seed))
    }

    /// Makes scans rarer, for tests of what the run contains: programs live on as they would.
    pub fn every(mut self, secs: f64) -> Self {
        self.world.interval = self.world.interval.max(secs);
        self.entry.interval_secs = self.world.interval;
        self
    }

    /// Host of the run.
    pub fn host(&self) -> HostInfo {
        self.world.info
    }

    /// Returns the sights of the agent's next scan; `None` at the end.
    pub fn scan(&mut self) -> Option<Vec<Sight>> {
        if self.over {
            return None;
        }
        let seen = self.world.scan();
        let t = self.world.t - self.world.interval;
        self.over = t >= self.entry.secs || self.world.exhausted;
        if self.clock.is_some() {
            let ledger = self.world.ledger();
            if let Some(clock) = &mut self.clock {
                clock.note(t, &ledger, self.over);
                // Whoever is late is seen to be late, for a while.
                self.over |= clock.due.is_some_and(|due| {
                    let late = 0.2 * (due.due_secs - due.start_secs.max(0.0));
                    t > due.due_secs + late.clamp(300.0, HOUR)
                });
            }
        }
        Some(seen)
    }

    /// Truth about the leak, once it is due; `None` without a leak.
    pub fn due(&self) -> Option<Due> {
        self.clock.and_then(|clock| clock.due)
    }

    /// True if memory ran out.
    pub fn exhausted(&self) -> bool {
        self.world.exhausted
    }

    /// Bytes in use on the host that the kernel could not drop.
    pub fn used_bytes(&self) -> f64 {
        self.world.used()
    }

    /// Observations in order of time.
    pub fn observations(mut self) -> impl Iterator<Item = anyhow::Result<Observation>> {
        std::iter::from_fn(move || self.scan())
            .flat_map(|seen| observations(&seen).map(Ok).collect::<Vec<_>>())
    }
}
