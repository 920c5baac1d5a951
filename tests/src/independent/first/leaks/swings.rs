//! Leaks under healthy movement: a collector's saw, a day's load, forks.

use super::{Mechanism, need, rate, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, Sort, neighbours, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, Shape, Teeth, daily_load, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "swings-saw",
        why: "the troughs of a saw climb: live memory leaks under a collector",
        scene: saw,
    },
    Mechanism {
        name: "swings-heap-grows",
        why: "GOGC: the saw grows with the live heap, so that its peaks climb twice as fast",
        scene: heap_grows,
    },
    Mechanism {
        name: "swings-day",
        why: "a steady leak under the memory of a day's load",
        scene: day,
    },
    Mechanism {
        name: "swings-connections",
        why: "memory and files in proportion to connections, and a leak with each connection closed",
        scene: connections,
    },
    Mechanism {
        name: "swings-snapshots",
        why: "forks of a snapshot count memory twice while they last, over a leak in the parent",
        scene: snapshots,
    },
];

fn scene(rng: &mut Rng, program: Program, start: f64, secs: f64) -> Scene {
    let count = if start + secs > 4.0 * HOUR { 7 } else { 3 + rng.below(8) };
    Scene::leaking(program, start).and(neighbours(rng, count))
}

fn saw(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 5.0 * HOUR));
    let kind = rng.pick(&[Kind::Go, Kind::Java, Kind::Node]);
    let program = service_of(rng, kind, born, 0.1);
    let (bytes, secs) = (rng.range(0.2, 1.5) * program.bound, rng.log_range(10.0, 25.0 * MINUTE));
    let ragged = rng.range(0.05, 0.4);
    let saw = Teeth { bytes, secs, ragged, keeps: rng.range(0.0, 0.05), phase: None }.shape(rng);
    let program = program.anon(1.6 * bytes, saw);
    let least = (8.0 * secs).max(5.0 * MINUTE);
    let rate = rate(rng, &program, (2.0 * KIB, 20.0 * MIB), (least, 16.0 * HOUR));
    let secs = need(&program) / rate;
    let program = program.leaks(rng, start, rate, Pace::Straight);
    scene(rng, program, start, secs)
}

fn heap_grows(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 3.0 * HOUR));
    let program = service_of(rng, Kind::Go, born, 0.02);
    let (secs, gogc) = (rng.log_range(5.0, 120.0), rng.range(0.5, 1.0));
    let live = program.bound;
    let rate = rate(rng, &program, (2.0 * KIB, 10.0 * MIB), (20.0 * MINUTE, 12.0 * HOUR));
    let mut unit = Teeth { bytes: gogc, secs, ragged: 0.1, keeps: 0.0, phase: None }.shape(rng);
    // Garbage of the healthy heap; that of the leaked one would vanish with the leak, and is small.
    let saw: Shape = Box::new(move |now| {
        live * unit(now) + 0.3 * gogc * rate * (now.t - start).max(0.0) * (0.5 + 0.5 * unit(now))
    });
    let program = program.anon(1.2 * live * gogc, saw);
    let secs = 2.0 * need(&program) / rate;
    let program = program.leaks(rng, start, rate, Pace::Straight);
    scene(rng, program, start, secs)
}

fn day(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(10.0 * MINUTE, 10.0 * HOUR));
    let program = service(rng, born);
    let (bytes, depth) = (rng.range(0.2, 0.5) * program.bound, rng.range(0.1, 0.5));
    let (load, lag) = (daily_load(rng, depth), rng.log_range(10.0, 900.0));
    let program = program.load(load).anon(1.5 * bytes, with_load(bytes, lag));
    let rate = rate(rng, &program, (2.0 * KIB, 4.0 * MIB), (20.0 * MINUTE, 16.0 * HOUR));
    let secs = need(&program) / rate;
    let program = program.leaks(rng, start, rate, Pace::Straight);
    scene(rng, program, start, secs)
}

fn connections(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(5.0 * MINUTE, 3.0 * HOUR));
    let program = service(rng, born);
    let (bytes, depth) = (rng.range(0.1, 0.4) * program.bound, rng.range(0.1, 0.5));
    let load = daily_load(rng, depth);
    let mut program = program.load(load).anon(1.5 * bytes, with_load(bytes, 20.0));
    program.files.1 = rng.log_range(50.0, 8_000.0);
    let rate = rate(rng, &program, (2.0 * KIB, 4.0 * MIB), (15.0 * MINUTE, 14.0 * HOUR));
    let secs = need(&program) / rate;
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    scene(rng, program, start, secs)
}

/// Redis: BGSAVE forks, and each page that is written meanwhile is copied (redis.io, "persistence").
fn snapshots(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(5.0 * MINUTE, 2.0 * HOUR));
    let bytes = MIB * rng.log_range(60.0, 6_000.0);
    let group = "/system.slice/redis-server.service";
    let program = Program::new(rng, "redis-server", group, born);
    let steady = crate::independent::shapes::steady(rng, bytes, 0.001);
    let program = program.anon(bytes, steady);
    let rate = rate(rng, &program, (4.0 * KIB, 10.0 * MIB), (15.0 * MINUTE, 6.0 * HOUR));
    let secs = need(&program) / rate;
    let every = rng.log_range(60.0, 3_600.0);
    let mut forks = Vec::new();
    let mut at = rng.range(0.2, 1.0) * every;
    while at < start + 1.5 * secs {
        let lasts = (bytes / (MIB * rng.range(60.0, 300.0))).max(1.0);
        let copied = bytes * rng.log_range(0.005, 0.2);
        let held = bytes + rate * (at - start).max(0.0);
        let child = Program::new(rng, "redis-server", group, at).until(at + lasts);
        let child = child
            .with(Sort::Inherited, 0.0, Box::new(move |_| held))
            .anon(0.0, Box::new(move |now| copied * (now.age / lasts).min(1.0)));
        forks.push(child);
        at += every * rng.range(0.8, 1.2) + lasts;
    }
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    let mut scene = scene(rng, program, start, secs);
    scene.room += 0.3 * bytes;
    scene.and(forks)
}
