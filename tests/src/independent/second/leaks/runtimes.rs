//! Leaks of particular runtimes, outside or inside of the heap that they collect.

use super::{Mechanism, leaking, rate, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::collected,
        programs::{Kind, Mapped, Program, Sort, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, Teeth, leak},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "jvm-metaspace",
        why: "each reload leaves a class loader behind; metaspace grows beside a settled heap",
        scene: metaspace,
    },
    Mechanism {
        name: "jvm-direct-buffers",
        why: "an arena of direct buffers grows by chunks of 4 to 16 MB that nobody releases",
        scene: direct_buffers,
    },
    Mechanism {
        name: "go-goroutines",
        why: "goroutines wait for a channel for ever; garbage grows with what their stacks hold",
        scene: goroutines,
    },
    Mechanism {
        name: "python-cycles",
        why: "cycles pile up faster than the oldest generation is collected, and some stay",
        scene: python_cycles,
    },
    Mechanism {
        name: "thread-stacks",
        why: "threads that never end: of each a stack is mapped and a little of it touched",
        scene: thread_stacks,
    },
];

/// Old server of this kind, and when its leak begins: before the agent in a third of the runs.
fn server(rng: &mut Rng, kind: Kind, swing: f64) -> (Program, f64) {
    let (born, bytes) = (old(rng), kind.size(rng));
    let program = sized(rng, kind, born, bytes, swing);
    let start = if rng.chance(0.33) {
        -rng.log_range(MINUTE, 3.0 * HOUR)
    } else {
        rng.log_range(5.0 * MINUTE, 3.0 * HOUR)
    };
    let start = start.max(program.born + MINUTE);
    (program, start)
}

fn metaspace(rng: &mut Rng) -> Scene {
    let (program, start) = server(rng, Kind::Java, 0.1);
    // Sixteen reloads at least until it is due.
    let most = super::need(program.bound) / 16.0;
    let loader = (MIB * rng.log_range(2.0, 30.0)).min(most);
    let every = rng.log_range(1.0, 12.0) * MINUTE;
    let rate = (loader / every).max(super::need(program.bound) / (23.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::Stairs(loader));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn direct_buffers(rng: &mut Rng) -> Scene {
    let (program, start) = server(rng, Kind::Java, 0.1);
    let chunk = MIB * rng.pick(&[4.0, 16.0]);
    let chunk = chunk.min(super::need(program.bound) / 12.0);
    let rate = rate(rng, program.bound, (8.0 * KIB, 2.0 * MIB), (20.0 * MINUTE, 20.0 * HOUR));
    let live = leak(rng, start, rate, Pace::WithLoad, chunk);
    let program = program.leaking(Sort::Anon, live);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn goroutines(rng: &mut Rng) -> Scene {
    let (mut program, start) = server(rng, Kind::Go, 0.1);
    let (each, share) = (KIB * rng.log_range(2.5, 40.0), rng.range(0.1, 0.8));
    let secs = rng.log_range(5.0, 240.0);
    let least = (10.0 * secs).max(10.0 * MINUTE);
    let rate = rate(rng, program.bound, (2.0 * KIB, 2.0 * MIB), (least, 20.0 * HOUR));
    // Some of them hold a connection.
    if rng.chance(0.4) {
        program.leaks_too = (1.0 / each, 0.0);
    }
    let live = leak(rng, start, rate / (1.0 + 0.5 * share), Pace::WithLoad, each);
    let program = program.leaking(Sort::Anon, collected(rng, live, share, secs));
    leaking(rng, program, Vec::new(), (start, rate))
}

fn python_cycles(rng: &mut Rng) -> Scene {
    let (program, start) = server(rng, Kind::Python, 0.2);
    let (secs, bytes) = (rng.log_range(20.0, 900.0), program.bound * rng.range(0.05, 0.3));
    let teeth = Teeth { bytes, secs, ragged: 0.2, keeps: 0.0, phase: None }.shape(rng);
    let program = program.anon(1.2 * bytes, teeth);
    let least = (10.0 * secs).max(10.0 * MINUTE);
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (least, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn thread_stacks(rng: &mut Rng) -> Scene {
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Ruby]);
    let (mut program, start) = server(rng, kind, 0.1);
    let each = KIB * rng.log_range(24.0, 400.0);
    program.leaks_too = (0.0, 1.0 / each);
    // A stack of 1 to 8 MiB is mapped for what is touched of it.
    program.mapped = Mapped::Grows(rng.range(2.0, 20.0));
    let rate = rate(rng, program.bound, (KIB, 512.0 * KIB), (10.0 * MINUTE, 20.0 * HOUR));
    let live = leak(rng, start, rate, Pace::WithLoad, each);
    let program = program.leaking(Sort::Anon, live);
    leaking(rng, program, Vec::new(), (start, rate))
}
