//! Leaks from the first request on, in processes that start under watch: the usual case, since a
//! release brings its leak with it.
//!
//! Due a quarter of an hour after birth at the earliest: before that, warm-ups look the same.

use super::{ANY, Mechanism, name, need, rate, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{KINDS, Kind, Program, cgroup, neighbours, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, Teeth, heaps},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "birth-first-request",
        why: "a service is started and leaks with every request from then on",
        scene: first_request,
    },
    Mechanism {
        name: "birth-release",
        why: "a release replaces a healthy process, and leaks",
        scene: release,
    },
    Mechanism {
        name: "birth-host-boot",
        why: "all services of a host start with the agent, and one leaks",
        scene: host_boot,
    },
    Mechanism {
        name: "birth-warm-up",
        why: "a cache warms up, slower and slower, over a leak from birth",
        scene: warm_up,
    },
    Mechanism {
        name: "birth-collector",
        why: "a runtime with a collector leaks from birth under its saw",
        scene: collector,
    },
];

/// From a quarter of an hour to most of a day.
const SPAN: (f64, f64) = (15.0 * MINUTE, 20.0 * HOUR);

fn neighbourhood(rng: &mut Rng, secs: f64) -> Vec<Program> {
    let count = if secs > 4.0 * HOUR { 7 } else { 3 + rng.below(8) };
    neighbours(rng, count)
}

fn first_request(rng: &mut Rng) -> Scene {
    let born = rng.log_range(20.0, 40.0 * MINUTE);
    let program = service(rng, born);
    let rate = rate(rng, &program, (10.0 * KIB, 2.0 * MIB), SPAN);
    let start = born + rng.log_range(2.0, 90.0);
    let secs = need(&program) / rate;
    let pace = rng.pick(&[Pace::Straight, Pace::Straight, Pace::WithLoad]);
    Scene::leaking(program.leaks(rng, start, rate, pace), start).and(neighbourhood(rng, secs))
}

fn release(rng: &mut Rng) -> Scene {
    let kind = rng.pick(&KINDS);
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    // A unit keeps its cgroup, a container does not.
    let before = cgroup(rng, name);
    let after = if rng.chance(0.5) { before.clone() } else { cgroup(rng, name) };
    let (deployed, swing) = (rng.log_range(2.0 * MINUTE, 3.0 * HOUR), rng.log_range(0.03, 0.5));
    let born = old(rng);
    let previous = kind.program(rng, (&before, comm), born, bytes, swing).until(deployed);
    let heavier = bytes * rng.range(0.9, 1.6);
    let born = deployed + rng.log_range(0.2, 20.0);
    let program = kind.program(rng, (&after, comm), born, heavier, swing);
    let rate = rate(rng, &program, (5.0 * KIB, 4.0 * MIB), SPAN);
    let (start, secs) = (born + rng.log_range(2.0, 90.0), need(&program) / rate);
    let program = program.leaks(rng, start, rate, Pace::Straight);
    Scene::leaking(program, start).and([previous]).and(neighbourhood(rng, secs))
}

fn host_boot(rng: &mut Rng) -> Scene {
    let born = rng.range(1.0, 60.0);
    let program = service(rng, born);
    let rate = rate(rng, &program, (10.0 * KIB, 2.0 * MIB), (15.0 * MINUTE, 6.0 * HOUR));
    let start = born + rng.log_range(2.0, 90.0);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    let others: Vec<_> = (0..3 + rng.below(6))
        .map(|_| {
            let born = rng.range(0.5, 90.0);
            service(rng, born)
        })
        .collect();
    Scene::leaking(program, start).and(others)
}

fn warm_up(rng: &mut Rng) -> Scene {
    let born = rng.log_range(20.0, 40.0 * MINUTE);
    let program = service(rng, born);
    let (bytes, tau) = (0.4 * program.bound, rng.log_range(20.0, 10.0 * MINUTE));
    let power = rng.range(0.4, 1.5);
    let program = program.anon(bytes, heaps(bytes, tau, power));
    let rate = rate(rng, &program, ANY, (40.0 * MINUTE, 16.0 * HOUR));
    let (start, secs) = (born + rng.log_range(2.0, 300.0), need(&program) / rate);
    let program = program.leaks(rng, start, rate, Pace::Straight);
    Scene::leaking(program, start).and(neighbourhood(rng, secs))
}

fn collector(rng: &mut Rng) -> Scene {
    let born = rng.log_range(20.0, 40.0 * MINUTE);
    let kind = rng.pick(&[Kind::Go, Kind::Java, Kind::Node]);
    let program = service_of(rng, kind, born, 0.2);
    let (share, secs) = (rng.range(0.2, 0.8), rng.log_range(20.0, 10.0 * MINUTE));
    let bytes = share * program.bound;
    let saw = Teeth { bytes, secs, ragged: 0.2, keeps: 0.0, phase: Some(0.0) }.shape(rng);
    let program = program.anon(1.3 * bytes, saw);
    let least = (8.0 * secs).max(30.0 * MINUTE);
    let rate = rate(rng, &program, (5.0 * KIB, 4.0 * MIB), (least, 20.0 * HOUR));
    let (start, secs) = (born + rng.log_range(2.0, 90.0), need(&program) / rate);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    Scene::leaking(program, start).and(neighbourhood(rng, secs))
}
