//! Restless processes and hosts on which nothing happens.

use super::{Mechanism, complete, name, scene, settled, sized, small};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Sort, cgroup, old},
        shapes::{DAY, HOUR, MIB, Now, noise, steady},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "quiet-host",
        why: "nothing happens for hours but the breathing of allocators",
        scene: quiet,
    },
    Mechanism {
        name: "restless",
        why: "memory wanders up and down by less than a quarter of its size",
        scene: restless,
    },
    Mechanism {
        name: "crowd-restless",
        why: "dozens of processes of one name wander, each by less than a quarter of its size",
        scene: crowd,
    },
    Mechanism {
        name: "swap-and-back",
        why: "pages are swapped out and read again; the sum stays as it was",
        scene: swap,
    },
];

fn quiet(rng: &mut Rng) -> Scene {
    let (program, secs) = (settled(rng), rng.range(4.0, 26.0) * HOUR);
    scene(rng, program, secs)
}

fn restless(rng: &mut Rng) -> Scene {
    let kind = rng.pick(&[Kind::C, Kind::Cpp, Kind::Python, Kind::Ruby]);
    let (born, bytes) = (old(rng), kind.size(rng));
    let program = sized(rng, kind, born, bytes, 0.02);
    // Three standard deviations to each side.
    let swing = small(program.bound) / 6.0 * rng.range(0.3, 1.0);
    let memory = rng.log_range(10.0, 3.0 * HOUR);
    let mut wander = noise(rng, swing, memory);
    let shape = Box::new(move |now: &Now| 3.0 * swing + wander(now.dt));
    let program = program.anon(6.0 * swing, shape);
    let secs = rng.log_range(1.0, 12.0) * HOUR;
    scene(rng, program, secs)
}

fn crowd(rng: &mut Rng) -> Scene {
    let (name, count) = (name(rng), 20 + rng.below(40));
    let comm = rng.pick(&["shell", "tunnel", "exporter", "bridge"]);
    let (group, bytes) = (cgroup(rng, name), MIB * rng.log_range(3.0, 100.0));
    let mut members = Vec::new();
    for _ in 0..count {
        let (born, size) = (old(rng), bytes * rng.range(0.5, 1.6));
        let member = Kind::C.program(rng, (&group, comm), born, size, 0.0);
        let swing = small(size) / 6.0 * rng.range(0.1, 0.9);
        let memory = rng.log_range(30.0, HOUR);
        let mut wander = noise(rng, swing, memory);
        let shape = Box::new(move |now: &Now| 3.0 * swing + wander(now.dt));
        members.push(member.anon(6.0 * swing, shape));
    }
    let first = members.remove(0);
    let secs = rng.log_range(0.5, 4.0) * HOUR;
    let scene = Scene::healthy(first, secs).and(members);
    complete(rng, scene)
}

fn swap(rng: &mut Rng) -> Scene {
    let (born, bytes) = (old(rng).min(-DAY), MIB * rng.log_range(60.0, 3_000.0));
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Java]);
    let program = sized(rng, kind, born, bytes, 0.02);
    let part = bytes * rng.range(0.1, 0.6);
    let memory = rng.log_range(120.0, 2.0 * HOUR);
    // The same wandering for both, so that the sum stays.
    let seed = rng.clone();
    let share = |mut rng: Rng| {
        let mut wander = noise(&mut rng, 0.2, memory);
        move |dt: f64| (0.5 + wander(dt)).clamp(0.0, 1.0)
    };
    let (mut out, mut within) = (share(seed.clone()), share(seed));
    let program = program
        .with(Sort::Swap, 0.0, Box::new(move |now: &Now| part * out(now.dt)))
        .anon(part, Box::new(move |now: &Now| part * (1.0 - within(now.dt))));
    let still = steady(rng, 4.0 * MIB, 0.0);
    let program = program.anon(4.0 * MIB, still);
    let secs = rng.log_range(1.0, 8.0) * HOUR;
    scene(rng, program, secs)
}
