//! Collectors: long climbs that end by themselves, met anywhere in their cycle.

use super::{Mechanism, scene, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Sort},
        shapes::{DAY, HOUR, MINUTE, Teeth, aged, daily_load},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "java-long-cycles",
        why: "old generation fills for minutes to hours; earlier cycles were as high (peak)",
        scene: long_cycles,
    },
    Mechanism {
        name: "java-first-fill",
        why: "-Xms equals -Xmx: the heap was mapped as a whole and is touched once, from birth",
        scene: first_fill,
    },
    Mechanism {
        name: "go-gogc",
        why: "saw between live and twice live, with the load of the day; cycles of seconds",
        scene: gogc,
    },
    Mechanism {
        name: "python-generation-2",
        why: "cycles of reference counting are collected every 5 to 40 minutes; under a quarter of the size",
        scene: generation_2,
    },
    Mechanism {
        name: "returns-at-night",
        why: "grows all day and gives back at night, as every night before (peak)",
        scene: returns_at_night,
    },
    Mechanism {
        name: "young-saw",
        why: "a runtime starts under watch; cycles of up to five minutes from the start",
        scene: young_saw,
    },
];

fn long_cycles(rng: &mut Rng) -> Scene {
    let secs = rng.log_range(10.0 * MINUTE, 6.0 * HOUR);
    let born = -(2.5 * secs + rng.log_range(HOUR, 30.0 * DAY));
    let program = service_of(rng, Kind::Java, born, 0.2);
    let (bytes, ragged) = (program.bound * rng.range(0.2, 1.5), rng.range(0.02, 0.1));
    let keeps = rng.range(0.0, 0.01);
    let saw = Teeth { bytes, secs, ragged, keeps, phase: None }.shape(rng);
    let program = program.anon(1.5 * bytes, saw);
    let mut scene = scene(rng, program, (1.5 * secs).clamp(2.0 * HOUR, 8.0 * HOUR));
    scene.needs = Needs { peak: true, ..Needs::default() };
    scene
}

fn first_fill(rng: &mut Rng) -> Scene {
    let born = rng.range(10.0, 1_200.0);
    let program = service_of(rng, Kind::Java, born, 0.05);
    let heap = program.bound * rng.range(0.6, 3.0);
    let secs = rng.log_range(5.0 * MINUTE, 3.0 * HOUR);
    let whole = program.bound + heap;
    let program = program.anon(heap, aged(vec![(0.0, 0.0), (secs, heap)])).whole(whole);
    let mut scene = scene(rng, program, secs + 2.0 * HOUR);
    scene.needs = Needs { mapped: true, ..Needs::default() };
    scene
}

fn gogc(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(HOUR, 30.0 * DAY);
    let program = service_of(rng, Kind::Go, born, 0.1);
    let (bytes, secs) = (program.bound * rng.range(0.5, 1.0), rng.log_range(3.0, 90.0));
    let saw = Teeth { bytes, secs, ragged: 0.1, keeps: 0.0, phase: None }.shape(rng);
    let depth = rng.range(0.1, 0.6);
    let load = daily_load(rng, depth);
    let program = program.anon(1.2 * bytes, saw).load(load);
    let secs = rng.log_range(2.0, 24.0) * HOUR;
    scene(rng, program, secs)
}

fn generation_2(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(HOUR, 30.0 * DAY);
    let program = service_of(rng, Kind::Python, born, 0.1);
    let (bytes, secs) = (program.bound * rng.range(0.05, 0.22), rng.range(5.0, 40.0) * MINUTE);
    let saw = Teeth { bytes, secs, ragged: 0.1, keeps: 0.0, phase: None }.shape(rng);
    let program = program.anon(1.2 * bytes, saw);
    let secs = rng.log_range(2.0, 10.0) * HOUR;
    scene(rng, program, secs)
}

fn returns_at_night(rng: &mut Rng) -> Scene {
    let born = -rng.range(3.5, 30.0) * DAY;
    let program = service(rng, born);
    let bytes = program.bound * rng.range(0.2, 1.0);
    // Not by load: the time of day counts, and the load only decides how fast.
    let saw = Teeth { bytes, secs: DAY, ragged: 0.08, keeps: 0.0, phase: None }.shape(rng);
    let program = program.with(Sort::Anon, 1.2 * bytes, saw);
    let mut scene = scene(rng, program, 26.0 * HOUR);
    scene.interval = Some(2.0);
    scene.needs = Needs { peak: true, ..Needs::default() };
    scene
}

fn young_saw(rng: &mut Rng) -> Scene {
    let born = rng.range(10.0, 1_800.0);
    let kind = rng.pick(&[Kind::Go, Kind::Java, Kind::Node]);
    let program = service_of(rng, kind, born, 0.4);
    let (bytes, secs) = (program.bound * rng.range(0.3, 1.5), rng.log_range(10.0, 300.0));
    let saw = Teeth { bytes, secs, ragged: 0.2, keeps: 0.0, phase: Some(0.0) }.shape(rng);
    let program = program.anon(1.3 * bytes, saw);
    let secs = rng.log_range(1.0, 8.0) * HOUR;
    scene(rng, program, secs)
}
