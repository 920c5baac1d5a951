//! Healthy runs of the second set, as close to leaks as hosts come.
//!
//! Each mechanism says what gives it away by the time at which a leak that looks like it would be due:
//! growth below a quarter of its size, an earlier peak, memory that was mapped as a whole,
//! connections, a rate that falls, an end, an earlier cycle. One has nothing of the kind and is called
//! untellable.

mod batch;
mod caches;
mod collectors;
mod files;
mod host;
mod jobs;
mod load;
mod pools;
mod releases;

use super::{
    beside, company, interval, limited, name, service, service_of, settled, sized, with_files,
    with_kernel,
};
use crate::{
    corpus::rng::Rng,
    independent::{
        Mechanism,
        programs::Program,
        shapes::MIB,
        world::{Needs, Scene},
    },
};

/// Groups of healthy mechanisms.
pub(in crate::independent) const GROUPS: &[&[Mechanism]] = &[
    caches::MECHANISMS,
    collectors::MECHANISMS,
    jobs::MECHANISMS,
    batch::MECHANISMS,
    load::MECHANISMS,
    pools::MECHANISMS,
    releases::MECHANISMS,
    files::MECHANISMS,
    host::MECHANISMS,
];

/// Bytes that may be filled at a rate that falls before a leak would be due: the rate has halved
/// when half of them are there, which is when a leak in so large a process would be due.
fn fillable(bound: f64) -> f64 {
    (128.0 * MIB).max(bound)
}

/// Bytes by which a process may grow in any way: a leak in it is due at more than twice of that.
fn small(bound: f64) -> f64 {
    (28.0 * MIB).max(0.24 * bound)
}

/// Scene with all that a healthy one has: a limit or none, neighbours, scans as they fit its length.
fn complete(rng: &mut Rng, scene: Scene) -> Scene {
    let secs = scene.secs;
    let scene = Scene { interval: interval(secs), ..scene };
    let scene = limited(rng, scene);
    scene.and(company(rng, secs))
}

/// Scene about one program.
fn scene(rng: &mut Rng, program: Program, secs: f64) -> Scene {
    complete(rng, Scene::healthy(program, secs))
}

/// Scene about one program, whose observer knows each process's peak.
fn peaked(rng: &mut Rng, program: Program, secs: f64) -> Scene {
    let scene = scene(rng, program, secs);
    Scene { needs: Needs { peak: true, ..scene.needs }, ..scene }
}

/// Scene about one program, whose observer knows each process's open files.
fn connected(rng: &mut Rng, program: Program, secs: f64) -> Scene {
    let scene = scene(rng, program, secs);
    Scene { needs: Needs { handles: true, ..scene.needs }, ..scene }
}
