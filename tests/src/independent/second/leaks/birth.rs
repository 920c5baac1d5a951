//! Leaks from the first request on, in processes that start under watch.

use super::{Mechanism, beside, leaking, rate, service, service_of, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::collected,
        loads::bursty_load,
        programs::{KINDS, Kind, Sort, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, leak, saturating},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "birth-requests",
        why: "a new process keeps a little of each request, from the first one on",
        scene: requests,
    },
    Mechanism {
        name: "birth-bursts",
        why: "a new process keeps a little of each request, and they come in bursts",
        scene: in_bursts,
    },
    Mechanism {
        name: "birth-cache",
        why: "a new process fills its cache, which ends, and leaks beside it, which does not",
        scene: beside_cache,
    },
    Mechanism {
        name: "birth-gogc",
        why: "a new Go server leaks from its first request on, and garbage grows with what lives",
        scene: under_gogc,
    },
    Mechanism {
        name: "birth-blocks",
        why: "a new process grows by a block of 8 to 48 MB every few minutes and frees none",
        scene: blocks,
    },
    Mechanism {
        name: "release-leaks",
        why: "a new release replaces an old process that was flat, and leaks from its start",
        scene: release,
    },
];

/// Rates of what requests leave behind.
const REQUESTS: (f64, f64) = (10.0 * KIB, 2.0 * MIB);

/// Times in which such a leak is due.
const TIMES: (f64, f64) = (4.0 * MINUTE, 20.0 * HOUR);

/// Birth under watch, and the first request soon after it.
fn birth(rng: &mut Rng) -> (f64, f64) {
    let born = rng.log_range(10.0, 90.0 * MINUTE);
    (born, born + rng.log_range(0.5, 40.0))
}

fn requests(rng: &mut Rng) -> Scene {
    let (born, start) = birth(rng);
    let program = service(rng, born);
    let rate = rate(rng, program.bound, REQUESTS, TIMES);
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks(rng, start, rate, pace);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn in_bursts(rng: &mut Rng) -> Scene {
    let (born, start) = birth(rng);
    let load = bursty_load(rng);
    let program = service(rng, born).load(load);
    let rate = rate(rng, program.bound, REQUESTS, (25.0 * MINUTE, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn beside_cache(rng: &mut Rng) -> Scene {
    let (born, start) = birth(rng);
    let program = service(rng, born);
    let (bytes, tau) = (program.bound * rng.range(0.2, 0.9), rng.log_range(60.0, 2.0 * HOUR));
    let program = program.anon(bytes, saturating(bytes, tau));
    // Three times of the cache's, so that it has ended when the leak is due.
    let rate = rate(rng, program.bound, REQUESTS, ((3.0 * tau).max(TIMES.0), TIMES.1));
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn under_gogc(rng: &mut Rng) -> Scene {
    let (born, start) = birth(rng);
    let program = service_of(rng, Kind::Go, born);
    let (secs, share) = (rng.log_range(5.0, 300.0), rng.range(0.2, 0.9));
    let least = (8.0 * secs).max(TIMES.0);
    let rate = rate(rng, program.bound, REQUESTS, (least, TIMES.1));
    let live = leak(rng, start, rate / (1.0 + 0.5 * share), Pace::WithLoad, 8.0 * KIB);
    let program = program.leaking(Sort::Anon, collected(rng, live, share, secs));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn blocks(rng: &mut Rng) -> Scene {
    let (born, start) = birth(rng);
    let (block, every) = (MIB * rng.log_range(8.0, 48.0), rng.log_range(2.0, 10.0) * MINUTE);
    let kind = rng.pick(&[Kind::Cpp, Kind::Java, Kind::Node, Kind::Python]);
    // Eight blocks at least until it is due.
    let bytes = block * rng.log_range(16.0, 60.0);
    let swing = rng.log_range(0.02, 0.2);
    let program = sized(rng, kind, born, bytes, swing);
    let rate = block / every;
    let program = program.leaks(rng, start, rate, Pace::Stairs(block));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn release(rng: &mut Rng) -> Scene {
    let born = rng.log_range(10.0 * MINUTE, 3.0 * HOUR);
    let (begins, kind) = (old(rng), rng.pick(&KINDS));
    let before = service_of(rng, kind, begins);
    let bytes = before.bound * rng.range(0.7, 1.1);
    let program = beside(rng, &before, kind, born, bytes);
    let program = if rng.chance(0.4) {
        let load = bursty_load(rng);
        program.load(load)
    } else {
        program
    };
    // Requests reach it when the old one is drained.
    let start = born + rng.log_range(1.0, 90.0);
    let rate = rate(rng, program.bound, REQUESTS, (20.0 * MINUTE, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, vec![before.until(start)], (start, rate))
}
