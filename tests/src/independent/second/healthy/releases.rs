//! Starts, restarts and releases.

use super::{Mechanism, beside, complete, fillable, scene, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::lazy,
        programs::{KINDS, Kind, Program, old},
        second::leaks::Pool,
        shapes::{HOUR, MIB, MINUTE, heaps, saturating},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "release-heavier",
        why: "a new release needs up to twice as much from its start, and then stays",
        scene: heavier,
    },
    Mechanism {
        name: "release-rolling",
        why: "workers of a pool are replaced one after another by larger ones that are flat",
        scene: rolling,
    },
    Mechanism {
        name: "warm-up-jit",
        why: "code is compiled and classes are loaded as they are met: the rate falls",
        scene: jit,
    },
    Mechanism {
        name: "warm-up-steps",
        why: "a start loads modules at once and others later, in steps at growing distance",
        scene: steps,
    },
];

fn birth(rng: &mut Rng) -> f64 {
    rng.log_range(MINUTE, 2.0 * HOUR)
}

/// Old release, and the kind of its server.
fn before(rng: &mut Rng) -> (Program, Kind) {
    let (begins, kind) = (old(rng), rng.pick(&KINDS));
    (service_of(rng, kind, begins), kind)
}

fn heavier(rng: &mut Rng) -> Scene {
    let (at, (before, kind)) = (birth(rng), before(rng));
    let bytes = before.bound * rng.range(1.1, 2.0);
    let after = beside(rng, &before, kind, at, bytes);
    let overlap = rng.range(-20.0, 60.0);
    let secs = at + rng.log_range(10.0 * MINUTE, 4.0 * HOUR);
    let scene = Scene::healthy(after, secs).and([before.until(at + overlap)]);
    complete(rng, scene)
}

fn rolling(rng: &mut Rng) -> Scene {
    let (pool, begins, at) = (Pool::new(rng), old(rng), birth(rng));
    let mut scene = Scene::healthy(pool.master(rng, begins), 0.0);
    let (count, every) = (3 + rng.below(10), rng.log_range(3.0, 180.0));
    let more = pool.each() * rng.range(0.1, 0.8);
    let mut next = at;
    for _ in 0..count {
        let worker = pool.worker(rng, begins + 1.0).until(next + 2.0);
        let fresh = pool.worker(rng, next).anon(more, saturating(more, 5.0));
        scene = scene.and([worker, fresh]);
        next += every * rng.range(0.6, 1.4);
    }
    scene.secs = next + rng.log_range(10.0 * MINUTE, 2.0 * HOUR);
    complete(rng, scene)
}

fn jit(rng: &mut Rng) -> Scene {
    let at = birth(rng);
    let kind = rng.pick(&[Kind::Java, Kind::Node, Kind::Php, Kind::Ruby]);
    let program = service_of(rng, kind, at);
    let (code, tau) = (MIB * rng.log_range(10.0, 120.0), rng.log_range(30.0, 900.0));
    let classes = program.bound * rng.range(0.1, 0.7);
    let (power, slow) = (rng.range(0.7, 1.8), rng.log_range(20.0, 400.0));
    let program = program.anon(code, heaps(code, tau, power));
    let program = program.anon(classes, saturating(classes, slow));
    let secs = at + rng.log_range(0.5, 6.0) * HOUR;
    scene(rng, program, secs)
}

fn steps(rng: &mut Rng) -> Scene {
    let at = birth(rng);
    let kind = rng.pick(&[Kind::Python, Kind::Ruby, Kind::Node, Kind::Java]);
    let program = service_of(rng, kind, at);
    let bytes = 0.8 * fillable(program.bound) * rng.range(0.2, 1.0);
    let (first, ratio, count) = (rng.log_range(2.0, 120.0), rng.range(1.5, 2.6), 4 + rng.below(5));
    let program = program.anon(bytes, lazy(rng, bytes, first, ratio, count));
    let secs = at + (first * libm::pow(ratio, count as f64 + 1.0)).clamp(0.5 * HOUR, 8.0 * HOUR);
    scene(rng, program, secs)
}
