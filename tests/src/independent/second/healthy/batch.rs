//! Programs that work and end: jobs, pipelines, builds, dumps.

use super::{Mechanism, complete, name, scene, settled, small};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::from,
        programs::{Program, Sort, cgroup},
        shapes::{HOUR, MIB, MINUTE, aged, boot, steady},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "job-met",
        why: "a young job grows in a straight line when the agent starts, and ends in 20 minutes",
        scene: met,
    },
    Mechanism {
        name: "job-starts",
        why: "a job loads at many megabytes a second for at most three minutes, works and ends",
        scene: starts,
    },
    Mechanism {
        name: "pipeline",
        why: "each stage is a process of its own that loads quickly and ends within minutes",
        scene: pipeline,
    },
    Mechanism {
        name: "compile",
        why: "a build runs hundreds of compilers, each of which ends within minutes",
        scene: compile,
    },
    Mechanism {
        name: "dump-child",
        why: "a dump runs beside its database for minutes; its own memory stays small",
        scene: dump,
    },
];

/// Program that does a job, and the commands that are used for it.
fn job(rng: &mut Rng, group: &str, born: f64) -> Program {
    let comm = rng.pick(&["spark", "python3", "pandoc", "ffmpeg", "sort", "duckdb", "java"]);
    let program = Program::new(rng, comm, group, born);
    let libraries = MIB * rng.log_range(5.0, 80.0);
    program.with(Sort::File, 0.0, boot(libraries, 2.0))
}

fn met(rng: &mut Rng) -> Scene {
    let (name, born) = (name(rng), -rng.log_range(30.0, 20.0 * MINUTE));
    let group = cgroup(rng, name);
    let ends = rng.log_range(2.0, 20.0) * MINUTE;
    let rate = MIB * rng.log_range(0.05, 8.0);
    let start = MIB * rng.log_range(5.0, 100.0);
    let (still, most) = (0.8 * (ends - born), rate * 0.8 * (ends - born));
    let grows = aged(vec![(0.0, 0.0), (still, most)]);
    let program = job(rng, &group, born).anon(start, boot(start, 5.0)).anon(most, grows);
    let secs = ends + rng.log_range(2.0, 30.0) * MINUTE;
    let quiet = settled(rng);
    let scene = scene(rng, program.until(ends), secs);
    scene.and([quiet])
}

fn starts(rng: &mut Rng) -> Scene {
    let (name, born) = (name(rng), rng.log_range(30.0, HOUR));
    let group = cgroup(rng, name);
    let loads = rng.log_range(5.0, 180.0);
    let bytes = MIB * rng.log_range(4.0, 60.0) * loads;
    let (works, start) = (rng.log_range(0.5, 60.0) * MINUTE, MIB * rng.log_range(5.0, 100.0));
    let rises = aged(vec![(1.0, 0.0), (1.0 + loads, bytes)]);
    let program = job(rng, &group, born).anon(start, boot(start, 2.0)).anon(bytes, rises);
    let ends = born + loads + works;
    scene(rng, program.until(ends), ends + 5.0 * MINUTE)
}

fn pipeline(rng: &mut Rng) -> Scene {
    let name = name(rng);
    let group = cgroup(rng, name);
    let (mut at, mut stages) = (rng.log_range(10.0, 20.0 * MINUTE), Vec::new());
    for _ in 0..3 + rng.below(9) {
        let (loads, works) = (rng.log_range(3.0, 120.0), rng.log_range(5.0, 400.0));
        let bytes = MIB * rng.log_range(5.0, 30.0) * loads;
        let rises = aged(vec![(0.5, 0.0), (0.5 + loads, bytes)]);
        let stage = job(rng, &group, at).anon(bytes, rises);
        at += loads + works;
        stages.push(stage.until(at));
        at += rng.log_range(0.1, 60.0);
    }
    let first = stages.remove(0);
    let scene = Scene::healthy(first, at + 60.0).and(stages);
    complete(rng, scene)
}

fn compile(rng: &mut Rng) -> Scene {
    let group = "/system.slice/ci-runner.service";
    let comm = rng.pick(&["cc1plus", "rustc", "javac", "ld.lld"]);
    let secs = rng.log_range(15.0, 60.0) * MINUTE;
    let size = MIB * rng.log_range(60.0, 500.0);
    let mut compilers = Vec::new();
    for _ in 0..2 + rng.below(6) {
        let mut at = rng.range(5.0, 120.0);
        while at < secs {
            let (lasts, most) = (rng.log_range(4.0, 200.0), size * rng.log_range(0.2, 2.0));
            let grows = aged(vec![(0.0, 4.0 * MIB), (lasts * rng.range(0.3, 1.0), most)]);
            let born = at;
            at += lasts;
            let compiler = Program::new(rng, comm, group, born).anon(0.0, grows).until(at);
            at += rng.log_range(0.05, 3.0);
            compilers.push(compiler);
        }
    }
    let (born, most) = (-HOUR, 60.0 * MIB);
    let runner = Program::new(rng, "runner", group, born);
    let runner = runner.anon(most, steady(rng, most, 0.01));
    let scene = Scene::healthy(runner, secs).and(compilers);
    // Eight at once, each up to twice its usual size.
    complete(rng, Scene { room: 16.0 * size, ..scene })
}

fn dump(rng: &mut Rng) -> Scene {
    let (server, at) = (settled(rng), rng.log_range(MINUTE, HOUR));
    let lasts = rng.log_range(1.0, 15.0) * MINUTE;
    let born = at;
    let bytes = 20.0 * MIB + small(server.bound).min(60.0 * MIB) * rng.range(0.1, 0.8);
    let dump = Program::new(rng, "pg_dump", &server.cgroup.clone(), born);
    let dump = dump.anon(bytes, boot(bytes, 4.0)).until(at + lasts);
    // The server's buffers for it.
    let held = small(server.bound) * rng.range(0.05, 0.6);
    let server = server.anon(held, from(at, boot(held, 30.0)));
    let secs = at + lasts + 10.0 * MINUTE;
    let scene = Scene::healthy(server, secs).and([dump]);
    complete(rng, scene)
}
