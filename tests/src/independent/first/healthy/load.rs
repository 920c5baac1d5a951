//! Load: memory that follows what users do.

use super::{Mechanism, scene, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::Kind,
        shapes::{DAY, HOUR, MIB, MINUTE, Now, daily_load, retained, script, with_load},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "day-with-connections",
        why: "memory and open files follow the load of a day",
        scene: day,
    },
    Mechanism {
        name: "day-small",
        why: "memory follows the load of a day, by less than a quarter of its size",
        scene: day_small,
    },
    Mechanism {
        name: "week",
        why: "a week with its weekend, sampled every five seconds",
        scene: week,
    },
    Mechanism {
        name: "flash-crowd",
        why: "connections triple for a while; glibc keeps what they needed until a trim",
        scene: flash_crowd,
    },
    Mechanism {
        name: "threads",
        why: "a thread pool grows to its bound, a stack at a time",
        scene: threads,
    },
];

fn daily(rng: &mut Rng, share: (f64, f64), depth: (f64, f64), secs: f64) -> Scene {
    let born = -rng.log_range(HOUR, 60.0 * DAY);
    let program = service(rng, born);
    let bytes = program.bound * rng.range(share.0, share.1);
    let (depth, lag) = (rng.range(depth.0, depth.1), rng.log_range(5.0, 1_200.0));
    let load = daily_load(rng, depth);
    let mut program = program.load(load).anon(2.2 * bytes, with_load(bytes, lag));
    program.files.1 = rng.log_range(50.0, 5_000.0);
    let mut scene = scene(rng, program, secs);
    scene.interval = Some(2.0);
    scene
}

fn day(rng: &mut Rng) -> Scene {
    let secs = rng.range(12.0, 26.0) * HOUR;
    let mut scene = daily(rng, (0.3, 2.0), (0.3, 0.8), secs);
    scene.needs = Needs { handles: true, ..Needs::default() };
    scene
}

fn day_small(rng: &mut Rng) -> Scene {
    let secs = rng.range(12.0, 26.0) * HOUR;
    daily(rng, (0.1, 0.25), (0.2, 0.45), secs)
}

fn week(rng: &mut Rng) -> Scene {
    let secs = rng.range(3.0, 7.0) * DAY;
    let mut scene = daily(rng, (0.1, 0.25), (0.2, 0.45), secs);
    scene.interval = Some(5.0);
    scene
}

fn flash_crowd(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(HOUR, 60.0 * DAY);
    let mut program = service_of(rng, Kind::Cpp, born, 0.2);
    let (at, rises) = (rng.range(5.0, 120.0) * MINUTE, rng.log_range(10.0, 900.0));
    let (stays, more) = (rng.log_range(60.0, 3_600.0), rng.range(1.0, 4.0));
    let mut crowd = script(vec![
        (at, 0.0),
        (at + rises, more),
        (at + rises + stays, more),
        (at + 2.0 * rises + stays, 0.0),
    ]);
    let mut usual = program.load;
    program.load = Box::new(move |t, dt| usual(t, dt) + crowd(&Now { t, age: 0.0, dt, load: 1.0 }));
    let bytes = program.bound * rng.range(0.1, 0.5);
    let (trim, gives) = (rng.log_range(300.0, 7_200.0), rng.range(0.2, 1.0));
    let held = retained(rng, with_load(bytes, 10.0), trim, gives);
    program = program.anon((1.5 + more) * bytes, held);
    program.files.1 = rng.log_range(100.0, 8_000.0);
    let mut scene = scene(rng, program, (at + rises + stays + HOUR).min(5.0 * HOUR));
    scene.needs = Needs { handles: true, ..Needs::default() };
    scene
}

/// A stack of a thread: tens to hundreds of kilobytes touched, of 8 MiB mapped.
fn threads(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(HOUR, 60.0 * DAY);
    let mut program = service_of(rng, Kind::Java, born, 0.1);
    let (count, each) = (rng.log_range(30.0, 800.0), MIB * rng.log_range(0.05, 0.6));
    let (at, secs) = (rng.range(0.0, 60.0) * MINUTE, rng.range(1.0, 40.0) * MINUTE);
    // The load is the number of threads here, from 1 up.
    let mut grows = script(vec![(at, 0.0), (at + secs, count)]);
    program.load = Box::new(move |t, dt| 1.0 + grows(&Now { t, age: 0.0, dt, load: 1.0 }));
    program.threads = (20.0, 1.0);
    program = program.anon(count * each, Box::new(move |now| each * libm::floor(now.load - 1.0)));
    // The collector's cycles must not follow that load.
    program.parts.drain(2..program.parts.len() - 1);
    let mut scene = scene(rng, program, at + secs + HOUR);
    scene.needs = Needs { handles: true, ..Needs::default() };
    scene
}
