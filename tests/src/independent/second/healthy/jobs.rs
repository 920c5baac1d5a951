//! Work in turns within a server: reports, imports, compactions, bursts.

use super::{Mechanism, peaked, scene, settled, sized, small};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::{Turns, from},
        programs::{Kind, Program, old},
        shapes::{DAY, HOUR, MIB, MINUTE, boot, bursts, decaying, retained, script},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "reports-by-the-hour",
        why: "a report swells every 15 minutes to 2 hours and is freed; it was as high before",
        scene: reports,
    },
    Mechanism {
        name: "import-at-night",
        why: "once a day a server takes in a catalogue for hours; the night before was as high",
        scene: import,
    },
    Mechanism {
        name: "compaction",
        why: "a database merges its files every few hours, and has done so before",
        scene: compaction,
    },
    Mechanism {
        name: "burst-to-plateau",
        why: "an old process rises to a plateau within 40 seconds and stays",
        scene: plateau,
    },
    Mechanism {
        name: "rise-to-plateau",
        why: "an old process rises for minutes by less than a quarter of its size and stays",
        scene: rise,
    },
    Mechanism {
        name: "large-requests",
        why: "requests that need much for seconds; what the allocator keeps was kept before",
        scene: requests,
    },
    Mechanism {
        name: "straight-for-once",
        why: "an old process takes in a great lot in a straight line, once: nothing tells it",
        scene: for_once,
    },
];

/// Old server that has lived for a number of turns.
fn server(rng: &mut Rng, kinds: &[Kind], every: f64) -> Program {
    let kind = rng.pick(kinds);
    let born = old(rng).min(-every * rng.range(3.0, 9.0));
    let bytes = kind.size(rng);
    sized(rng, kind, born, bytes, 0.03)
}

fn reports(rng: &mut Rng) -> Scene {
    let every = rng.log_range(15.0, 120.0) * MINUTE;
    let program = server(rng, &[Kind::Python, Kind::Java, Kind::Ruby, Kind::Php], every);
    let bytes = program.bound * rng.range(0.3, 2.0);
    let (rises, stays) = (every * rng.range(0.05, 0.5), every * rng.range(0.01, 0.2));
    let turns = Turns { bytes, every, rises, stays, ragged: 0.05, keeps: 0.0 }.shape(rng);
    let program = program.anon(bytes, turns);
    let secs = every * rng.range(1.5, 6.0);
    peaked(rng, program, secs)
}

fn import(rng: &mut Rng) -> Scene {
    let program = server(rng, &[Kind::Java, Kind::Python, Kind::Cpp], DAY);
    let bytes = program.bound * rng.range(0.3, 1.5);
    let (rises, stays) = (rng.range(0.3, 3.0) * HOUR, rng.range(0.1, 1.0) * HOUR);
    let turns = Turns { bytes, every: DAY, rises, stays, ragged: 0.03, keeps: 0.0 }.shape(rng);
    let program = program.anon(bytes, turns);
    let secs = rng.range(10.0, 26.0) * HOUR;
    peaked(rng, program, secs)
}

fn compaction(rng: &mut Rng) -> Scene {
    let every = rng.log_range(0.5, 5.0) * HOUR;
    let program = server(rng, &[Kind::Cpp, Kind::Java, Kind::Go], every);
    let bytes = program.bound * rng.range(0.2, 0.9);
    let (rises, stays) = (every * rng.range(0.02, 0.2), every * rng.range(0.02, 0.2));
    let keeps = rng.range(0.0, 0.3);
    let turns = Turns { bytes, every, rises, stays, ragged: 0.05, keeps }.shape(rng);
    let gives = rng.log_range(5.0, 300.0);
    let program = program.anon(bytes, decaying(turns, gives));
    let secs = every * rng.range(1.2, 3.0);
    peaked(rng, program, secs)
}

fn plateau(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let bytes = program.bound * rng.log_range(0.1, 2.0);
    let (at, secs) = (rng.log_range(2.0 * MINUTE, 2.0 * HOUR), rng.log_range(1.0, 40.0));
    let program = program.anon(bytes, from(at, boot(bytes, secs)));
    let lasts = at + rng.log_range(10.0 * MINUTE, 2.0 * HOUR);
    scene(rng, program, lasts)
}

fn rise(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let bytes = small(program.bound) * rng.range(0.3, 0.9);
    let (at, secs) = (rng.log_range(2.0 * MINUTE, 2.0 * HOUR), rng.log_range(1.0, 12.0) * MINUTE);
    let program = program.anon(bytes, script(vec![(at, 0.0), (at + secs, bytes)]));
    let lasts = at + secs + rng.log_range(10.0 * MINUTE, 2.0 * HOUR);
    scene(rng, program, lasts)
}

fn requests(rng: &mut Rng) -> Scene {
    let program = server(rng, &[Kind::Cpp, Kind::Ruby, Kind::Python, Kind::Php], DAY);
    let bytes = (program.bound * rng.range(0.1, 1.0)).max(8.0 * MIB);
    let (every, lasts) = (rng.log_range(30.0, 900.0), rng.log_range(1.0, 60.0));
    let (trim, gives) = (rng.log_range(30.0, 3_000.0), rng.range(0.2, 1.0));
    let asked = bursts(rng, bytes, every, lasts);
    let program = program.anon(2.0 * bytes, retained(rng, asked, trim, gives));
    let secs = rng.log_range(1.0, 8.0) * HOUR;
    peaked(rng, program, secs)
}

fn for_once(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let bytes = program.bound.max(128.0 * MIB) * rng.range(0.7, 2.0);
    let (at, lasts) = (rng.log_range(5.0 * MINUTE, HOUR), rng.log_range(20.0, 120.0) * MINUTE);
    let program = program.anon(bytes, script(vec![(at, 0.0), (at + lasts, bytes)]));
    let secs = at + lasts * rng.range(1.2, 2.0);
    let scene = scene(rng, program, secs);
    Scene { untellable: true, ..scene }
}
