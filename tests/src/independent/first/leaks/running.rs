//! Leaks that have long been going on when the agent starts: it is installed because of them, or was
//! upgraded.

use super::{ANY, Mechanism, need, rate, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, neighbours, old},
        shapes::{HOUR, MIB, MINUTE, Pace, Teeth, daily_load, script, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "running-straight",
        why: "leaked for hours before the agent started, at the same rate",
        scene: straight,
    },
    Mechanism {
        name: "running-after-spike",
        why: "leaked before the agent started, and once needed more than now: its peak says nothing",
        scene: after_spike,
    },
    Mechanism {
        name: "running-saw",
        why: "leaked before the agent started, under a collector's saw",
        scene: saw,
    },
    Mechanism {
        name: "running-load",
        why: "leaked before the agent started, with the load of the day",
        scene: loaded,
    },
    Mechanism {
        name: "running-stairs",
        why: "leaked blocks before the agent started",
        scene: stairs,
    },
];

/// Program that leaks since before the agent started: it has taken at most three times what it must
/// take until it is due.
fn leaking(rng: &mut Rng, program: Program, rate: f64, pace: Pace) -> Scene {
    let longest = (3.0 * need(&program) / rate).min(-program.born);
    let start = -rng.log_range(5.0 * MINUTE, longest.max(6.0 * MINUTE)).min(-program.born);
    let secs = need(&program) / rate;
    let count = if secs > 4.0 * HOUR { 7 } else { 3 + rng.below(8) };
    let room = 2.0 * (-start * rate);
    let scene = Scene::leaking(program.leaks(rng, start, rate, pace), start);
    let room = scene.room + room;
    Scene { room, ..scene }.and(neighbours(rng, count))
}

/// From ten minutes to most of a day, beyond the 25 minutes granted.
const SPAN: (f64, f64) = (10.0 * MINUTE, 18.0 * HOUR);

fn straight(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let rate = rate(rng, &program, ANY, SPAN);
    leaking(rng, program, rate, Pace::Straight)
}

fn after_spike(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(3.0 * HOUR, 40.0 * 24.0 * HOUR);
    let program = service(rng, born);
    let (at, height) = (-rng.range(0.5, 2.5) * HOUR, rng.range(0.05, 0.3) * program.bound);
    let spike = script(vec![
        (at, 0.0),
        (at + rng.range(10.0, 300.0), height),
        (at + 600.0, height),
        (at + 700.0, 0.0),
    ]);
    let program = program.anon(0.0, spike);
    let rate = rate(rng, &program, ANY, SPAN);
    leaking(rng, program, rate, Pace::Straight)
}

fn saw(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let kind = rng.pick(&[Kind::Go, Kind::Java, Kind::Node]);
    let program = service_of(rng, kind, born, 0.2);
    let (bytes, secs) = (rng.range(0.2, 0.8) * program.bound, rng.log_range(20.0, 12.0 * MINUTE));
    let saw = Teeth { bytes, secs, ragged: 0.2, keeps: 0.0, phase: None }.shape(rng);
    let program = program.anon(1.3 * bytes, saw);
    let rate = rate(rng, &program, (1_024.0, 10.0 * MIB), ((8.0 * secs).max(SPAN.0), SPAN.1));
    leaking(rng, program, rate, Pace::Straight)
}

fn loaded(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let depth = rng.range(0.2, 0.7);
    let load = daily_load(rng, depth);
    let bytes = 0.15 * program.bound;
    let program = program.load(load).anon(2.0 * bytes, with_load(bytes, 60.0));
    let rate = rate(rng, &program, ANY, SPAN);
    leaking(rng, program, rate, Pace::WithLoad)
}

fn stairs(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let step = (rng.range(8.0, 48.0) * MIB).min(0.25 * need(&program));
    let every = rng.range(2.0, 10.0) * MINUTE;
    leaking(rng, program, step / every, Pace::Stairs(step))
}
