//! Leaks on paths that are taken at times, and in uneven steps.

use super::{Mechanism, leaking, name, rate, settled, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::fits,
        loads::bursty_load,
        programs::{Kind, Sort, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, bursts, retained, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "on-errors",
        why: "each failed request leaves its context behind, and failures come in fits",
        scene: errors,
    },
    Mechanism {
        name: "on-reconnects",
        why: "each new connection to a peer leaks its buffers, now and then many in a row",
        scene: reconnects,
    },
    Mechanism {
        name: "by-bursty-load",
        why: "an old server leaks with each request, and they come in bursts",
        scene: bursty,
    },
    Mechanism {
        name: "blocks-later",
        why: "an old process takes a block of 8 to 48 MB every 2 to 10 minutes, from some day on",
        scene: blocks,
    },
    Mechanism {
        name: "fragments-for-good",
        why: "glibc's arenas get holes with each burst that nothing fits into, without an end",
        scene: fragments,
    },
];

fn start(rng: &mut Rng) -> f64 {
    rng.log_range(10.0 * MINUTE, 4.0 * HOUR)
}

fn errors(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), start(rng));
    let (every, lasts) = (rng.log_range(120.0, 1_800.0), rng.log_range(10.0, 600.0));
    let least = 10.0 * (every + lasts);
    let rate = rate(rng, program.bound, (2.0 * KIB, 2.0 * MIB), (least, 20.0 * HOUR));
    let leak = fits(rng, start, rate, every, lasts);
    let program = program.leaking(Sort::Anon, leak);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn reconnects(rng: &mut Rng) -> Scene {
    let (mut program, start) = (settled(rng), start(rng));
    let each = rng.log_range(64.0 * KIB, 4.0 * MIB);
    // A connection that nobody closes may keep its file too.
    if rng.chance(0.5) {
        program.leaks_too = (1.0 / each, 0.0);
    }
    // Forty at least until it is due.
    let least = (10.0 * MINUTE).max(40.0 * each / MIB);
    let most = super::need(program.bound) / 40.0;
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (least, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::Stairs(each.min(most)));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn bursty(rng: &mut Rng) -> Scene {
    let (load, start) = (bursty_load(rng), start(rng));
    let program = settled(rng).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.005, 0.04), rng.log_range(1.0, 60.0));
    let program = program.anon(4.0 * bytes, with_load(bytes, lag));
    let rate = rate(rng, program.bound, (4.0 * KIB, 2.0 * MIB), (4.0 * HOUR, 22.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn blocks(rng: &mut Rng) -> Scene {
    let (block, every) = (MIB * rng.log_range(8.0, 48.0), rng.log_range(2.0, 10.0) * MINUTE);
    let kind = rng.pick(&[Kind::Cpp, Kind::Java, Kind::Go, Kind::Python]);
    let (born, start) = (old(rng), start(rng));
    let (bytes, swing) = (block * rng.log_range(16.0, 80.0), rng.log_range(0.02, 0.2));
    let program = sized(rng, kind, born, bytes, swing);
    let rate = block / every;
    let program = program.leaks(rng, start, rate, Pace::Stairs(block));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn fragments(rng: &mut Rng) -> Scene {
    let (name, start) = (name(rng), start(rng));
    let (born, bytes) = (old(rng), Kind::Cpp.size(rng).min(3_000.0 * MIB));
    let comm = rng.pick(&["mysqld", "squid", "dotnet", "slapd"]);
    let group = format!("/system.slice/{name}.service");
    let program = Kind::Cpp.program(rng, (&group, comm), born, bytes, 0.2);
    let (every, lasts) = (rng.log_range(30.0, 900.0), rng.log_range(2.0, 90.0));
    let asked = bursts(rng, 0.1 * bytes, every, lasts);
    let gives = rng.range(0.5, 1.0);
    let program = program.anon(0.2 * bytes, retained(rng, asked, 10.0 * every, gives));
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (15.0 * every, 22.0 * HOUR));
    let leak = fits(rng, start, rate, every, lasts);
    let program = program.leaking(Sort::Anon, leak);
    leaking(rng, program, Vec::new(), (start, rate))
}
