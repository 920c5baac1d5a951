//! Jobs: they take much, for a reason, and give it back.

use super::{Mechanism, name, scene, service};
use crate::{
    corpus::rng::Rng,
    independent::{
        first::leaks::jobs,
        programs::{Program, Sort, cgroup, neighbours, old},
        shapes::{GIB, HOUR, MIB, MINUTE, aged, bursts, script},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "job-cycles",
        why: "a worker takes one job after the other, as large as those before (peak)",
        scene: cycles,
    },
    Mechanism {
        name: "job-young",
        why: "a job starts under watch, loads for up to ten minutes, works and ends",
        scene: young,
    },
    Mechanism {
        name: "job-met-running",
        why: "a job is loading when the agent starts, for at most 18 minutes more",
        scene: met_running,
    },
    Mechanism {
        name: "builds",
        why: "compilers by the dozen, and linkers that take gigabytes for half a minute",
        scene: builds,
    },
    Mechanism {
        name: "model-server",
        why: "loads a model of gigabytes within minutes of its birth, then serves",
        scene: model_server,
    },
    Mechanism {
        name: "burst-short",
        why: "an old process rises to a plateau within 40 seconds and stays for a while",
        scene: burst_short,
    },
    Mechanism {
        name: "burst-known",
        why: "an old process rises for minutes to a plateau where it has been before (peak)",
        scene: burst_known,
    },
    Mechanism {
        name: "burst-connections",
        why: "an old process rises for minutes with its connections and falls after them",
        scene: burst_connections,
    },
];

fn cycles(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(6.0 * HOUR, 720.0 * HOUR);
    let program = service(rng, born);
    let bytes = program.bound * rng.log_range(0.3, 3.0);
    let (loads, works) = (rng.log_range(5.0, 1_200.0), rng.log_range(30.0, 2_400.0));
    let (rests, secs) = (rng.log_range(20.0, 3_600.0), rng.range(2.0, 8.0) * HOUR);
    let (mut points, mut at) = (Vec::new(), -6.0 * HOUR + rng.unit() * 3_600.0);
    while at < secs {
        // The largest was long ago.
        let share = if points.is_empty() { 1.0 } else { rng.range(0.6, 1.0) };
        let size = bytes * share;
        let (end, stays) = (at + loads * size / bytes, works * rng.range(0.5, 1.5));
        points.extend([(at, 0.0), (end, size), (end + stays, size), (end + stays + 2.0, 0.0)]);
        at = end + stays + 2.0 + rests * rng.range(0.5, 1.5);
    }
    let program = program.anon(bytes, script(points));
    let mut scene = scene(rng, program, secs);
    scene.needs = Needs { peak: true, ..Needs::default() };
    scene
}

/// Job of its own: loads in a straight line, works and ends.
fn job(rng: &mut Rng, born: f64, loads: f64, works: f64) -> Program {
    let name = name(rng);
    let group = cgroup(rng, name);
    let comm = rng.pick(&["spark-submit", "etl", "pg_restore", "R", "python3", "sort"]);
    let bytes = MIB * rng.log_range(100.0, 20_000.0);
    Program::new(rng, comm, &group, born)
        .anon(bytes, aged(vec![(0.0, 0.0), (loads, bytes)]))
        .until(born + loads + works)
}

fn young(rng: &mut Rng) -> Scene {
    let (born, loads) = (rng.log_range(10.0, HOUR), rng.log_range(5.0, 600.0));
    let works = rng.log_range(30.0, 2.0 * HOUR);
    let program = job(rng, born, loads, works);
    scene(rng, program, born + loads + works.min(HOUR) + 1_800.0)
}

fn met_running(rng: &mut Rng) -> Scene {
    let left = rng.log_range(60.0, 18.0 * MINUTE);
    let before = rng.log_range(30.0, 2.0 * HOUR);
    let works = rng.log_range(30.0, 2.0 * HOUR);
    let program = job(rng, -before, before + left, works);
    scene(rng, program, 2.0 * HOUR)
}

fn builds(rng: &mut Rng) -> Scene {
    let secs = rng.range(0.4, 1.5) * HOUR;
    let every = rng.log_range(0.5, 6.0);
    let compilers = jobs(rng, secs, every);
    let mut at = rng.range(0.0, 300.0);
    let mut linkers = Vec::new();
    while at < secs {
        let (bytes, lasts) = (MIB * rng.log_range(200.0, 4_000.0), rng.range(5.0, 45.0));
        linkers.push(
            Program::new(rng, "ld", "/system.slice/runner.service", at)
                .anon(0.2 * bytes, aged(vec![(0.0, 0.0), (0.8 * lasts, bytes)]))
                .until(at + lasts),
        );
        at += lasts + rng.log_range(20.0, 900.0);
    }
    let born = old(rng);
    let program = service(rng, born);
    let mut scene = Scene::healthy(program, secs).and(compilers).and(linkers);
    scene.room = 5.0 * GIB;
    scene.and(neighbours(rng, 5))
}

fn model_server(rng: &mut Rng) -> Scene {
    let (born, bytes) = (rng.log_range(10.0, HOUR), GIB * rng.log_range(0.5, 40.0));
    let secs = (bytes / (MIB * rng.range(80.0, 1_500.0))).clamp(5.0, 420.0);
    let sort = if rng.chance(0.3) { Sort::File } else { Sort::Anon };
    let lasts = rng.log_range(0.2, 10.0);
    let requests = bursts(rng, 0.1 * bytes, 5.0, lasts);
    let group = cgroup(rng, "model");
    let program = Program::new(rng, "tritonserver", &group, born)
        .anon(600.0 * MIB, aged(vec![(0.0, 0.0), (12.0, 600.0 * MIB)]))
        .with(sort, bytes, aged(vec![(10.0, 0.0), (10.0 + secs, bytes)]))
        .anon(0.2 * bytes, requests);
    let secs = rng.range(1.0, 6.0) * HOUR;
    scene(rng, program, secs)
}

fn burst(rng: &mut Rng, rises: f64, before: bool, connections: bool) -> Scene {
    let (born, at) = (-rng.log_range(3.0 * HOUR, 900.0 * HOUR), rng.range(2.0, 150.0) * MINUTE);
    let mut program = service(rng, born);
    let (share, stays) = (rng.range(0.2, 2.0), rng.log_range(MINUTE, 2.0 * HOUR));
    let bytes = program.bound * share;
    let falls = if rng.chance(0.3) { bytes * 0.8 } else { 0.0 };
    let wave = vec![(at, 0.0), (at + rises, 1.0), (at + rises + stays, 1.0)];
    let mut points: Vec<_> = wave.iter().map(|(t, share)| (*t, share * bytes)).collect();
    points.push((at + rises + stays + 0.5 * rises, falls));
    if before {
        let earlier = -rng.range(0.2, 2.5) * HOUR;
        points.splice(
            0..0,
            [
                (earlier, 0.0),
                (earlier + 60.0, bytes * rng.range(1.0, 1.1)),
                (earlier + 400.0, bytes),
                (earlier + 410.0, 0.0),
            ],
        );
    }
    program = program.anon(1.1 * bytes, script(points));
    if connections {
        let (mut wave, each) = (wave, rng.range(0.5, 4.0));
        wave.push((at + rises + stays + 0.5 * rises, 0.0));
        let (mut shape, mut usual) = (script(wave), program.load);
        program.load = Box::new(move |t, dt| {
            let now = crate::independent::shapes::Now { t, age: 0.0, dt, load: 1.0 };
            usual(t, dt) + each * shape(&now)
        });
        program.files.1 = rng.log_range(60.0, 6_000.0);
    }
    let mut scene = scene(rng, program, (at + rises + stays + HOUR).min(5.0 * HOUR));
    scene.needs = Needs { peak: before, handles: connections, ..Needs::default() };
    scene
}

fn burst_short(rng: &mut Rng) -> Scene {
    let rises = rng.log_range(2.0, 40.0);
    burst(rng, rises, false, false)
}

fn burst_known(rng: &mut Rng) -> Scene {
    let rises = rng.log_range(40.0, 15.0 * MINUTE);
    burst(rng, rises, true, false)
}

fn burst_connections(rng: &mut Rng) -> Scene {
    let rises = rng.log_range(40.0, 10.0 * MINUTE);
    burst(rng, rises, false, true)
}
