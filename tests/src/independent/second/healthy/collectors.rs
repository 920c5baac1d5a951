//! Collectors whose cycles are long, met at any phase.

use super::{Mechanism, peaked, scene, service_of, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        loads::bursty_load,
        programs::{Kind, Program, old},
        shapes::{DAY, HOUR, MINUTE, Teeth, decaying, script, with_load},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "gogc-long",
        why: "GOGC lets garbage grow to what lives, for hours; the peak is of an earlier cycle",
        scene: gogc,
    },
    Mechanism {
        name: "jvm-old-generation",
        why: "the old generation fills for hours in a heap that is mapped and was full before",
        scene: old_generation,
    },
    Mechanism {
        name: "dotnet-generations",
        why: "each generation is collected more rarely than the one before; peaks were earlier",
        scene: dotnet,
    },
    Mechanism {
        name: "jvm-heap-start",
        why: "a new JVM touches its heap in a straight line, all of it mapped from the start",
        scene: heap_start,
    },
    Mechanism {
        name: "heap-uncommits",
        why: "a heap follows bursts of load and is given back within minutes; it was higher before",
        scene: uncommits,
    },
];

/// Server of this kind that has lived through two cycles at least, and what it weighs besides.
fn server(rng: &mut Rng, kind: Kind, cycle: f64) -> Program {
    let born = old(rng).min(-cycle * rng.range(2.5, 8.0));
    let bytes = kind.size(rng);
    let swing = rng.log_range(0.01, 0.1);
    sized(rng, kind, born, bytes, swing)
}

fn gogc(rng: &mut Rng) -> Scene {
    let secs = rng.log_range(10.0 * MINUTE, 4.0 * HOUR);
    let program = server(rng, Kind::Go, secs);
    let bytes = program.bound * rng.range(0.4, 1.0);
    let ragged = rng.range(0.01, 0.06);
    let teeth = Teeth { bytes, secs, ragged, keeps: 0.0, phase: None }.shape(rng);
    let program = program.anon(1.1 * bytes, teeth);
    let lasts = secs * rng.range(1.2, 3.0);
    peaked(rng, program, lasts)
}

fn old_generation(rng: &mut Rng) -> Scene {
    let secs = rng.log_range(HOUR, 9.0 * HOUR);
    let program = server(rng, Kind::Java, secs);
    let bytes = program.bound * rng.range(0.5, 2.0);
    let ragged = rng.range(0.02, 0.15);
    let teeth = Teeth { bytes, secs, ragged, keeps: 0.0, phase: None }.shape(rng);
    let heap = program.bound + 1.3 * bytes;
    let program = program.anon(1.2 * bytes, teeth).whole(heap);
    let lasts = secs * rng.range(0.8, 2.2);
    let scene = peaked(rng, program, lasts);
    Scene { needs: Needs { mapped: true, ..scene.needs }, ..scene }
}

fn dotnet(rng: &mut Rng) -> Scene {
    let oldest = rng.log_range(20.0 * MINUTE, 3.0 * HOUR);
    let mut program = server(rng, Kind::Cpp, oldest);
    program.comm = "dotnet".to_owned();
    let size = program.bound;
    let generations =
        [(0.05, rng.log_range(2.0, 20.0)), (0.12, rng.log_range(40.0, 400.0)), (0.5, oldest)];
    for (share, secs) in generations {
        let bytes = size * share * rng.range(0.5, 1.3);
        let ragged = rng.range(0.02, 0.15);
        let teeth = Teeth { bytes, secs, ragged, keeps: 0.0, phase: None }.shape(rng);
        program = program.anon(1.2 * bytes, teeth);
    }
    let lasts = oldest * rng.range(1.2, 3.0);
    peaked(rng, program, lasts)
}

fn heap_start(rng: &mut Rng) -> Scene {
    let born = rng.log_range(MINUTE, HOUR);
    let program = service_of(rng, Kind::Java, born);
    let bytes = program.bound * rng.range(0.4, 2.5);
    let (fills, secs) = (rng.log_range(4.0, 60.0) * MINUTE, rng.log_range(30.0, 900.0));
    let floor = bytes * rng.range(0.5, 0.9);
    let teeth = Teeth { bytes: bytes - floor, secs, ragged: 0.1, keeps: 0.0, phase: Some(0.0) };
    let teeth = teeth.shape(rng);
    let heap = program.bound + bytes * rng.range(1.1, 1.6);
    let filled = script(vec![(born, 0.0), (born + fills, floor)]);
    let program = program.anon(floor, filled).anon(1.2 * (bytes - floor), teeth).whole(heap);
    let lasts = born + fills * rng.range(2.0, 4.0);
    let scene = scene(rng, program, lasts);
    Scene { needs: Needs { mapped: true, ..scene.needs }, ..scene }
}

fn uncommits(rng: &mut Rng) -> Scene {
    let load = bursty_load(rng);
    let program = server(rng, Kind::Java, 2.0 * DAY).load(load);
    let bytes = program.bound * rng.range(0.02, 0.06);
    let (lag, gives) = (rng.log_range(2.0, 40.0), rng.log_range(60.0, 600.0));
    let follows = decaying(with_load(bytes, lag), gives);
    let heap = program.bound + 60.0 * bytes;
    let program = program.anon(56.0 * bytes, follows).whole(heap);
    let lasts = rng.log_range(0.5, 5.0) * HOUR;
    let scene = peaked(rng, program, lasts);
    Scene { needs: Needs { mapped: true, ..scene.needs }, ..scene }
}
