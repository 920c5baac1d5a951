//! Leaks that begin under watch in processes that were quiet: a feature is switched on, a peer dies,
//! a path is taken for the first time.

use super::{ANY, Mechanism, need, rate, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, neighbours, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace},
        world::{Group, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "quiet-short",
        why: "two to twenty quiet minutes under watch, then a leak",
        scene: short,
    },
    Mechanism {
        name: "quiet-long",
        why: "twenty minutes to eight quiet hours, then a leak",
        scene: long,
    },
    Mechanism {
        name: "quiet-limited",
        why: "a leak after a quiet time in a container with a limit",
        scene: limited,
    },
    Mechanism {
        name: "quiet-stairs",
        why: "blocks of 8 to 48 MB every two to ten minutes after a quiet time",
        scene: stairs,
    },
    Mechanism {
        name: "quiet-slowing",
        why: "a leak that slows down and never ends, as the square root of time",
        scene: slowing,
    },
    Mechanism {
        name: "quiet-episodes",
        why: "leaks in episodes: a job of some minutes, a pause of some minutes",
        scene: episodes,
    },
    Mechanism {
        name: "quiet-swapping",
        why: "a host that swaps out what is not used, and a leak beside it",
        scene: swapping,
    },
];

fn scene(rng: &mut Rng, program: Program, start: f64, rate: f64, pace: Pace) -> Scene {
    let secs = start + need(&program) / rate;
    let count = if secs > 4.0 * HOUR { 7 } else { 3 + rng.below(8) };
    Scene::leaking(program.leaks(rng, start, rate, pace), start).and(neighbours(rng, count))
}

fn short(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.range(2.0, 20.0) * MINUTE);
    let program = service(rng, born);
    let rate = rate(rng, &program, ANY, (90.0, 16.0 * HOUR));
    let pace = rng.pick(&[Pace::Straight, Pace::Straight, Pace::WithLoad]);
    scene(rng, program, start, rate, pace)
}

fn long(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(20.0 * MINUTE, 8.0 * HOUR));
    let program = service(rng, born);
    let rate = rate(rng, &program, ANY, (60.0, 12.0 * HOUR));
    let pace = rng.pick(&[Pace::Straight, Pace::Straight, Pace::WithLoad]);
    scene(rng, program, start, rate, pace)
}

fn limited(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 2.0 * HOUR));
    let program = service(rng, born);
    let rate = rate(rng, &program, ANY, (3.0 * MINUTE, 10.0 * HOUR));
    let max = (program.bound + need(&program)) * rng.log_range(1.1, 4.0);
    let cache = program.bound * rng.log_range(0.01, 2.0);
    let group = Group { max: Some(max), cache, ..Group::new(&program.cgroup) };
    let mut scene = scene(rng, program, start, rate, Pace::Straight);
    scene.groups.push(group);
    scene
}

fn stairs(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 4.0 * HOUR));
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Node, Kind::Ruby, Kind::Go, Kind::Cpp]);
    let program = service_of(rng, kind, born, 0.2);
    // Four steps at least, or nobody could call it a staircase.
    let step = (rng.range(8.0, 48.0) * MIB).min(0.25 * need(&program));
    let every = rng.range(2.0, 10.0) * MINUTE;
    scene(rng, program, start, step / every, Pace::Stairs(step))
}

fn slowing(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(10.0 * MINUTE, 3.0 * HOUR));
    let program = service(rng, born);
    let straight = rate(rng, &program, (8.0 * KIB, MIB), (10.0 * MINUTE, 4.0 * HOUR));
    // Slows down once it has taken a quarter of what makes it due.
    let from = 0.25 * need(&program) / straight;
    scene(rng, program, start, straight, Pace::Slowing(from))
}

fn episodes(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(5.0 * MINUTE, 2.0 * HOUR));
    let program = service(rng, born);
    let rate = rate(rng, &program, (4.0 * KIB, 2.0 * MIB), (30.0 * MINUTE, 10.0 * HOUR));
    let lasts = (need(&program) / rate / rng.range(10.0, 30.0)).clamp(60.0, 1_200.0);
    scene(rng, program, start, rate, Pace::Episodes(lasts))
}

fn swapping(rng: &mut Rng) -> Scene {
    use crate::independent::{programs::Sort, shapes::script};
    let (born, start) = (old(rng), rng.log_range(10.0 * MINUTE, 2.0 * HOUR));
    let program = service(rng, born);
    let cold = rng.range(0.1, 0.5) * program.bound;
    let (from, secs) = (rng.range(0.0, 2.0) * start, rng.log_range(60.0, 2_000.0));
    let program = program.anon(cold, script(vec![(from, cold), (from + secs, 0.0)])).with(
        Sort::Swap,
        0.0,
        script(vec![(from, 0.0), (from + secs, cold)]),
    );
    let rate = rate(rng, &program, (2.0 * KIB, 5.0 * MIB), (10.0 * MINUTE, 8.0 * HOUR));
    scene(rng, program, start, rate, Pace::Straight)
}
