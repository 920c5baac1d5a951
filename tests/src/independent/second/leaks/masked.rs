//! Leaks under healthy movement: collectors, a day's load, caches, bursts, noise.

use super::{Mechanism, leaking, rate, settled, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::from,
        programs::{Kind, Program, old},
        shapes::{
            HOUR, KIB, MIB, MINUTE, Now, Pace, Teeth, bursts, daily_load, heaps, noise, retained,
            saturating, with_load,
        },
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "under-saw",
        why: "what lives grows under the saw of a collector, whose cycles take seconds to minutes",
        scene: saw,
    },
    Mechanism {
        name: "under-long-saw",
        why: "the floor of a saw rises whose cycles take a quarter of an hour to an hour",
        scene: long_saw,
    },
    Mechanism {
        name: "under-day",
        why: "memory follows the day's load, and a leak that does not is on top of it",
        scene: day,
    },
    Mechanism {
        name: "under-cache",
        why: "an old process begins to fill a cache, which ends, and to leak, which does not",
        scene: cache,
    },
    Mechanism {
        name: "under-bursts",
        why: "requests need much memory for a while, the allocator keeps some, and some is lost",
        scene: in_bursts,
    },
    Mechanism {
        name: "under-noise",
        why: "a process whose memory wanders by a tenth of its size leaks besides",
        scene: restless,
    },
];

/// Rates of leaks that movement can hide.
const RATES: (f64, f64) = (4.0 * KIB, 2.0 * MIB);

/// Start of a leak: before the agent in a quarter of the runs.
fn start(rng: &mut Rng) -> f64 {
    if rng.chance(0.25) {
        -rng.log_range(MINUTE, HOUR)
    } else {
        rng.log_range(10.0 * MINUTE, 3.0 * HOUR)
    }
}

/// Leak whose time to be due is at least this.
fn scene(rng: &mut Rng, program: Program, start: f64, least: f64) -> Scene {
    let start = start.max(program.born + MINUTE);
    let rate = rate(rng, program.bound, RATES, (least.max(10.0 * MINUTE), 22.0 * HOUR));
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks(rng, start, rate, pace);
    leaking(rng, program, Vec::new(), (start, rate))
}

/// Old service of a few usual kinds, quiet by itself.
fn plain(rng: &mut Rng, kinds: &[Kind]) -> Program {
    let kind = rng.pick(kinds);
    let (born, bytes) = (old(rng), kind.size(rng));
    sized(rng, kind, born, bytes, 0.02)
}

fn saw(rng: &mut Rng) -> Scene {
    let program = plain(rng, &[Kind::Java, Kind::Node, Kind::Go, Kind::Ruby]);
    let (bytes, secs) = (program.bound * rng.range(0.1, 0.7), rng.log_range(4.0, 400.0));
    let (ragged, keeps) = (rng.range(0.05, 0.4), rng.range(0.0, 0.03));
    let teeth = Teeth { bytes, secs, ragged, keeps, phase: None }.shape(rng);
    let (program, start) = (program.anon(1.6 * bytes, teeth), start(rng));
    scene(rng, program, start, 10.0 * secs)
}

fn long_saw(rng: &mut Rng) -> Scene {
    let program = plain(rng, &[Kind::Java, Kind::Go, Kind::Cpp]);
    let (bytes, secs) = (program.bound * rng.range(0.1, 0.5), rng.range(0.25, 1.0) * HOUR);
    let ragged = rng.range(0.02, 0.2);
    let teeth = Teeth { bytes, secs, ragged, keeps: 0.0, phase: None }.shape(rng);
    let (program, start) = (program.anon(1.3 * bytes, teeth), start(rng));
    scene(rng, program, start, 6.0 * secs)
}

fn day(rng: &mut Rng) -> Scene {
    let depth = rng.range(0.1, 0.7);
    let load = daily_load(rng, depth);
    let program = settled(rng).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.05, 0.2), rng.log_range(10.0, 900.0));
    let (program, start) = (program.anon(2.0 * bytes, with_load(bytes, lag)), start(rng));
    scene(rng, program, start, 4.0 * HOUR)
}

fn cache(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), start(rng).max(5.0 * MINUTE));
    let (bytes, tau) = (program.bound * rng.range(0.05, 0.4), rng.log_range(60.0, 1.5 * HOUR));
    let fill = if rng.chance(0.5) { saturating(bytes, tau) } else { heaps(bytes, tau, 1.2) };
    let at = start + rng.range(-0.5, 0.5) * start.min(tau);
    let program = program.anon(bytes, from(at, fill));
    scene(rng, program, start, 4.0 * tau)
}

fn in_bursts(rng: &mut Rng) -> Scene {
    let program = plain(rng, &[Kind::Cpp, Kind::Ruby, Kind::Python]);
    let (every, lasts) = (rng.log_range(20.0, 600.0), rng.log_range(1.0, 60.0));
    let bytes = program.bound * rng.range(0.1, 0.4);
    let (trim, gives) = (rng.log_range(60.0, 1_500.0), rng.range(0.1, 1.0));
    let asked = bursts(rng, bytes, every, lasts);
    let held = retained(rng, asked, trim, gives);
    let (program, start) = (program.anon(2.0 * bytes, held), start(rng));
    scene(rng, program, start, 12.0 * every)
}

fn restless(rng: &mut Rng) -> Scene {
    let program = plain(rng, &[Kind::C, Kind::Cpp, Kind::Python, Kind::Ruby]);
    let (size, memory) = (program.bound, rng.log_range(5.0, 600.0));
    let swing = size * rng.range(0.02, 0.1);
    let mut wander = noise(rng, swing, memory);
    let shape = Box::new(move |now: &Now| (0.3 * size + wander(now.dt)).max(0.0));
    let (program, start) = (program.anon(0.6 * size, shape), start(rng));
    scene(rng, program, start, 15.0 * memory)
}
