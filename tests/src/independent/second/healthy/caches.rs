//! Caches and other growth that slows down or stays small.

use super::{Mechanism, fillable, scene, service, settled, sized, small};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::{expiring, from, lazy, logarithmic, root},
        programs::KINDS,
        shapes::{HOUR, MINUTE, Now, heaps, saturating, script},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "cache-key-space",
        why: "a cache of all keys there are fills as the rest gets rarer: its rate falls",
        scene: key_space,
    },
    Mechanism {
        name: "cache-power-law",
        why: "a cache by size under keys of a power law: its rate falls from the first minute on",
        scene: power_law,
    },
    Mechanism {
        name: "cache-logarithm",
        why: "an index grows with the logarithm of time: its rate falls without an end",
        scene: by_logarithm,
    },
    Mechanism {
        name: "cache-root",
        why: "distinct values are kept, and grow as the root of time: their rate falls",
        scene: by_root,
    },
    Mechanism {
        name: "cache-ttl",
        why: "entries live for minutes: straight until the first expire; a quarter of its size",
        scene: by_ttl,
    },
    Mechanism {
        name: "cache-flushed",
        why: "an operator flushes a cache, which fills again to less than its earlier peak",
        scene: flushed,
    },
    Mechanism {
        name: "cache-small-share",
        why: "a large process fills a cache in a straight line, below a quarter of its size",
        scene: small_share,
    },
    Mechanism {
        name: "cache-in-steps",
        why: "models and dictionaries are loaded when they are first asked for, ever more rarely",
        scene: in_steps,
    },
];

fn birth(rng: &mut Rng) -> f64 {
    rng.log_range(10.0, HOUR)
}

fn key_space(rng: &mut Rng) -> Scene {
    let born = birth(rng);
    let program = service(rng, born);
    let bytes = fillable(program.bound) * rng.range(0.2, 1.0);
    let tau = rng.log_range(3.0 * MINUTE, 2.5 * HOUR);
    let program = program.anon(bytes, saturating(bytes, tau));
    let secs = born + tau * rng.range(2.0, 5.0);
    scene(rng, program, secs)
}

fn power_law(rng: &mut Rng) -> Scene {
    let born = birth(rng);
    let program = service(rng, born);
    let bytes = fillable(program.bound) * rng.range(0.2, 1.1);
    let (tau, power) = (rng.log_range(MINUTE, HOUR), rng.range(0.6, 1.6));
    let program = program.anon(bytes, heaps(bytes, tau, power));
    let secs = born + (tau * rng.range(4.0, 15.0)).min(10.0 * HOUR);
    scene(rng, program, secs)
}

fn by_logarithm(rng: &mut Rng) -> Scene {
    let born = if rng.chance(0.7) { birth(rng) } else { -rng.log_range(MINUTE, HOUR) };
    let program = service(rng, born);
    let (tau, secs) = (rng.log_range(30.0, 20.0 * MINUTE), rng.log_range(1.0, 10.0) * HOUR);
    let bytes = 0.5 * fillable(program.bound) * rng.range(0.1, 0.9);
    let most = bytes * libm::log(1.0 + (secs + HOUR) / tau);
    let program = program.anon(most, logarithmic(bytes, tau));
    scene(rng, program, born.max(0.0) + secs)
}

fn by_root(rng: &mut Rng) -> Scene {
    let born = birth(rng);
    let program = service(rng, born);
    let (bytes, secs) =
        (fillable(program.bound) * rng.range(0.1, 1.0), rng.log_range(1.0, 10.0) * HOUR);
    let program = program.anon(bytes, root(bytes, secs));
    scene(rng, program, born + secs)
}

fn by_ttl(rng: &mut Rng) -> Scene {
    let born = birth(rng);
    let program = service(rng, born);
    let ttl = rng.log_range(0.5, 15.0) * MINUTE;
    let most = if ttl < 40.0 { program.bound } else { small(program.bound) };
    let bytes = most * rng.range(0.3, 0.9);
    let program = program.anon(1.8 * bytes, expiring(bytes, ttl));
    let secs = born + ttl * rng.range(4.0, 12.0);
    scene(rng, program, secs)
}

fn flushed(rng: &mut Rng) -> Scene {
    let every = rng.log_range(0.5, 6.0) * HOUR;
    let born = -every * rng.range(2.2, 30.0);
    let kind = rng.pick(&KINDS);
    let (size, swing) = (kind.size(rng), rng.log_range(0.02, 0.1));
    let program = sized(rng, kind, born, size, swing);
    let (bytes, tau) = (program.bound * rng.range(0.3, 2.0), every * rng.range(0.05, 0.35));
    let phase = rng.unit() * every;
    let shape = Box::new(move |now: &Now| {
        let since = (now.t + phase).rem_euclid(every);
        bytes * (1.0 - libm::exp(-since / tau))
    });
    let program = program.anon(bytes, shape);
    let secs = every * rng.range(1.0, 2.5);
    let scene = scene(rng, program, secs);
    Scene { needs: Needs { peak: true, ..scene.needs }, ..scene }
}

fn small_share(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let bytes = small(program.bound) * rng.range(0.3, 0.9);
    let (at, lasts) = (rng.log_range(MINUTE, 2.0 * HOUR), rng.log_range(MINUTE, 5.0 * HOUR));
    let program = program.anon(bytes, script(vec![(at, 0.0), (at + lasts, bytes)]));
    let secs = at + lasts * rng.range(1.1, 2.0);
    scene(rng, program, secs)
}

fn in_steps(rng: &mut Rng) -> Scene {
    let at = if rng.chance(0.6) { birth(rng) } else { -1.0 };
    let program = if at > 0.0 { service(rng, at) } else { settled(rng) };
    let bytes = 0.8 * fillable(program.bound) * rng.range(0.2, 1.0);
    let (first, ratio) = (rng.log_range(15.0, 400.0), rng.range(1.4, 2.4));
    let (count, begins) = (4 + rng.below(6), at.max(10.0 * MINUTE));
    let steps = lazy(rng, bytes, first, ratio, count);
    let begins = if at > 0.0 { at } else { begins };
    let program = program.anon(bytes, from(begins, steps));
    let secs = begins + (first * libm::pow(ratio, count as f64)).clamp(HOUR, 8.0 * HOUR);
    scene(rng, program, secs)
}
