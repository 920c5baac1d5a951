//! Ends of the scale: tens of megabytes a second, and tens of megabytes a day; and the incident that
//! Spillway is built against.

use super::{Mechanism, name, need, rate, service};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, cgroup, neighbours, old},
        shapes::{DAY, GIB, HOUR, KIB, MIB, MINUTE, Pace, boot, steady},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "fast",
        why: "two to fifty megabytes a second after a quiet time",
        scene: fast,
    },
    Mechanism {
        name: "slow-day",
        why: "60 to 110 MB a day, after up to four quiet hours",
        scene: slow_day,
    },
    Mechanism {
        name: "slow-from-birth",
        why: "half a KB to 5 KB a second from birth: found within a day",
        scene: slow_from_birth,
    },
    Mechanism {
        name: "collector-2012",
        why: "AWS, 22 October 2012: a collector of 45 MB leaks 1 to 1.5 MB a minute beside a process \
            of 10 GB on 64 GiB, after 90 quiet minutes",
        scene: collector_2012,
    },
    Mechanism {
        name: "small-beside-large",
        why: "a small daemon leaks beside a process a hundred times as large that moves",
        scene: small_beside_large,
    },
];

fn fast(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(5.0 * MINUTE, 3.0 * HOUR));
    let program = service(rng, born);
    let rate = rng.log_range(2.0 * MIB, 50.0 * MIB).min(need(&program) / 20.0);
    let count = 3 + rng.below(10);
    let program = program.leaks(rng, start, rate, Pace::Straight);
    let scene = Scene::leaking(program, start).and(neighbours(rng, count));
    // A minute of it must fit.
    Scene { room: scene.room + 150.0 * rate, ..scene }
}

/// A day's leak is a third of the size at least: nobody can ask for less of it to be seen.
const A_DAY: f64 = 3.0 * DAY;

/// Quiet daemon of any age. What moves by more than the leak takes in hours would hide it from
/// everybody.
fn daemon(rng: &mut Rng, born: f64, most: f64) -> Program {
    let (name, bytes) = (name(rng), (MIB * rng.log_range(6.0, 250.0)).min(most));
    let (group, kind) = (cgroup(rng, name), rng.pick(&[Kind::C, Kind::Python, Kind::Go]));
    let comm = kind.comm(rng);
    let program = Program::new(rng, comm, &group, born);
    let (secs, flicker) = (rng.log_range(1.0, 40.0), rng.log_range(0.000_2, 0.006));
    program.anon(bytes, boot(bytes, secs)).anon(0.0, steady(rng, 0.02 * bytes, 50.0 * flicker))
}

fn slow_day(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.range(0.05, 4.0) * HOUR);
    let rate = rng.range(60.0, 110.0) * MIB / DAY;
    let program = daemon(rng, born, A_DAY * rate);
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let scene = Scene::leaking(program.leaks(rng, start, rate, pace), start);
    Scene { secs: 30.0 * HOUR, interval: Some(2.0), ..scene }.and(neighbours(rng, 6))
}

fn slow_from_birth(rng: &mut Rng) -> Scene {
    let born = rng.log_range(30.0, HOUR);
    let (rate, start) = (rng.log_range(0.5 * KIB, 5.0 * KIB), born + rng.range(5.0, 120.0));
    let program = daemon(rng, born, A_DAY * rate);
    let scene = Scene::leaking(program.leaks(rng, start, rate, Pace::Straight), start);
    Scene { secs: 26.0 * HOUR, interval: Some(2.0), ..scene }.and(neighbours(rng, 6))
}

fn collector_2012(rng: &mut Rng) -> Scene {
    let start = 90.0 * MINUTE + rng.range(-5.0, 5.0) * MINUTE;
    let born = old(rng);
    let group = "/system.slice/collector.service";
    let program = Program::new(rng, "collector", group, born);
    let steady_part = steady(rng, 45.0 * MIB, 0.003);
    let program = program.anon(46.0 * MIB, steady_part);
    let rate = rng.range(1.0, 1.5) * MIB / MINUTE;
    // One failed try after the other: in small pieces.
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    let server = Program::new(rng, "ebs-server", "/system.slice/ebs-server.service", -20.0 * DAY);
    let (bytes, flicker) = (10.0 * GIB * rng.range(0.95, 1.05), rng.log_range(0.001, 0.01));
    let server_part = steady(rng, bytes, flicker);
    let server = server.anon(11.0 * GIB, server_part);
    let scene = Scene::leaking(program, start).and([server]).and(neighbours(rng, 4));
    // Any host fits; the incident's had 64 GiB, of which the rest is free or page cache.
    Scene { room: 33.0 * GIB, ..scene }
}

fn small_beside_large(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(2.0 * MINUTE, 3.0 * HOUR));
    let program = daemon(rng, born, f64::INFINITY);
    let rate = rate(rng, &program, (2.0 * KIB, 200.0 * KIB), (10.0 * MINUTE, 12.0 * HOUR));
    let bytes = 100.0 * program.bound;
    let (age, swing) = (old(rng), rng.range(0.05, 0.5));
    let comm = Kind::Java.comm(rng);
    let large = Kind::Java.program(rng, ("/system.slice/large.service", comm), age, bytes, swing);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    Scene::leaking(program, start).and([large]).and(neighbours(rng, 2))
}
