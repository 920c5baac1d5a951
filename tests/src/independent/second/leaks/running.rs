//! Leaks that were under way before the agent started.

use super::{Mechanism, leaking, rate, settled, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::KINDS,
        shapes::{DAY, HOUR, KIB, MIB, MINUTE, Pace, daily_load, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "met-straight",
        why: "an old process has leaked for minutes to days when the agent starts",
        scene: straight,
    },
    Mechanism {
        name: "met-from-birth",
        why: "a process younger than the host has leaked since its first request",
        scene: from_birth,
    },
    Mechanism {
        name: "met-daily",
        why: "a leak that follows the day's load is met at any hour",
        scene: daily,
    },
];

/// Rates of leaks that a process survives for a while.
const RATES: (f64, f64) = (2.0 * KIB, 4.0 * MIB);

/// Time before the agent's start at which a leak of that rate began: it has not taken more than
/// twice what makes it due.
fn since(rng: &mut Rng, bound: f64, rate: f64, oldest: f64) -> f64 {
    let most = (2.0 * super::need(bound) / rate).min(oldest).max(2.0 * MINUTE);
    -rng.log_range(MINUTE, most)
}

fn straight(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let rate = rate(rng, program.bound, RATES, (5.0 * MINUTE, 20.0 * HOUR));
    let start = since(rng, program.bound, rate, -program.born);
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn from_birth(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(3.0 * MINUTE, DAY);
    let kind = rng.pick(&KINDS);
    let (bytes, swing) = (kind.size(rng), rng.log_range(0.02, 0.4));
    let program = sized(rng, kind, born, bytes, swing);
    // What it holds already counts as its size.
    let held = program.bound * rng.range(0.05, 1.5);
    let rate = (held / -born).clamp(KIB, MIB);
    let rate = rate.max(super::need(program.bound + rate * -born) / (22.0 * HOUR));
    let start = born + rng.range(1.0, 60.0);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn daily(rng: &mut Rng) -> Scene {
    let depth = rng.range(0.2, 0.8);
    let load = daily_load(rng, depth);
    let program = settled(rng).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.02, 0.12), rng.log_range(10.0, 900.0));
    let program = program.anon(2.0 * bytes, with_load(bytes, lag));
    let rate = rate(rng, program.bound, RATES, (2.0 * HOUR, 20.0 * HOUR));
    let start = since(rng, program.bound, rate, -program.born);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, Vec::new(), (start, rate))
}
