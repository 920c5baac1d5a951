//! Healthy runs, at least as many as leaks and as close to them as hosts come.
//!
//! Each mechanism says what gives it away: growth below a quarter of its size (a leak is due at half of
//! it), an earlier peak, memory that
//! was mapped as a whole, connections, a rate that falls, an end before a leak of that rate would be
//! due. One has none of these and is called untellable.

mod batch;
mod caches;
mod collectors;
mod host;
mod load;
mod pools;
mod releases;
mod shared;

use crate::corpus::rng::Rng;
use crate::independent::{
    Mechanism,
    programs::{KINDS, Kind, Program, cgroup, neighbours},
    shapes::HOUR,
    world::Scene,
};

/// Groups of healthy mechanisms.
pub(in crate::independent) const GROUPS: &[&[Mechanism]] = &[
    collectors::MECHANISMS,
    caches::MECHANISMS,
    batch::MECHANISMS,
    load::MECHANISMS,
    pools::MECHANISMS,
    releases::MECHANISMS,
    shared::MECHANISMS,
    host::MECHANISMS,
];

fn name(rng: &mut Rng) -> &'static str {
    rng.pick(&["web", "catalog", "reports", "indexer", "cache", "jobs", "feed", "auth"])
}

fn service_of(rng: &mut Rng, kind: Kind, born: f64, swing: f64) -> Program {
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    let group = cgroup(rng, name);
    kind.program(rng, (&group, comm), born, bytes, swing)
}

fn service(rng: &mut Rng, born: f64) -> Program {
    let (kind, swing) = (rng.pick(&KINDS), rng.log_range(0.03, 0.6));
    service_of(rng, kind, born, swing)
}

/// Scene with as many neighbours as its length allows: long runs are expensive.
fn scene(rng: &mut Rng, program: Program, secs: f64) -> Scene {
    let count = if secs > 4.0 * HOUR { 12 } else { 4 + rng.below(10) };
    Scene::healthy(program, secs).and(neighbours(rng, count))
}
