//! Memory that follows load, with the connections that it comes with.

use super::{Mechanism, connected, peaked, service, settled, with_kernel};
use crate::{
    corpus::rng::Rng,
    independent::{
        loads::{bursty_load, rising_load, scripted_load},
        programs::{Program, old},
        shapes::{DAY, HOUR, KIB, MINUTE, Now, Shape, daily_load, decaying, script, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "connections-rise",
        why: "traffic rises for minutes to hours, and memory with the number of connections",
        scene: rise,
    },
    Mechanism {
        name: "connections-churn",
        why: "clients come in bursts and go; memory is in proportion to their connections",
        scene: churn,
    },
    Mechanism {
        name: "failover",
        why: "another server's clients arrive within minutes: connections jump, memory too",
        scene: failover,
    },
    Mechanism {
        name: "day-follows",
        why: "memory follows the day's load; it was as high on the day before",
        scene: day,
    },
    Mechanism {
        name: "day-keeps",
        why: "an allocator gives back in hours what the day's load took; it was higher before",
        scene: day_keeps,
    },
    Mechanism {
        name: "threads-follow",
        why: "a server with a thread for each client: stacks come and go with them",
        scene: threads,
    },
    Mechanism {
        name: "sockets-follow",
        why: "buffers of sockets follow the connections, in kernel memory of the cgroup",
        scene: sockets,
    },
];

/// Server whose open files are connections: so many for one unit of load.
fn server(rng: &mut Rng, program: Program) -> Program {
    let each = rng.log_range(20.0, 4_000.0);
    let still = program.files.0;
    Program { files: (still, each), ..program }
}

fn rise(rng: &mut Rng) -> Scene {
    let (at, lasts) = (rng.log_range(5.0, 60.0) * MINUTE, rng.log_range(5.0, 200.0) * MINUTE);
    let factor = rng.range(1.4, 5.0);
    let load = rising_load(rng, at, at + lasts, factor);
    let program = settled(rng);
    let program = server(rng, program).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.05, 0.5), rng.log_range(2.0, 60.0));
    let program = program.anon(1.7 * factor * bytes, with_load(bytes, lag));
    let secs = at + lasts * rng.range(1.2, 2.0);
    connected(rng, program, secs)
}

fn churn(rng: &mut Rng) -> Scene {
    let load = bursty_load(rng);
    let program = settled(rng);
    let program = server(rng, program).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.01, 0.08), rng.log_range(1.0, 30.0));
    let follows = with_load(bytes, lag);
    let gives = rng.log_range(2.0, 120.0);
    let program = program.anon(56.0 * bytes, decaying(follows, gives));
    let secs = rng.log_range(0.5, 6.0) * HOUR;
    connected(rng, program, secs)
}

fn failover(rng: &mut Rng) -> Scene {
    let (at, lasts) = (rng.log_range(2.0 * MINUTE, 2.0 * HOUR), rng.log_range(5.0, 300.0));
    let factor = rng.range(1.5, 3.0);
    let stays = rng.log_range(10.0, 120.0) * MINUTE;
    let points = vec![
        (at, 1.0),
        (at + lasts, factor),
        (at + lasts + stays, factor),
        (at + 2.0 * lasts + stays, 1.0),
    ];
    let load = scripted_load(rng, points);
    let program = settled(rng);
    let program = server(rng, program).load(load);
    let (bytes, lag) = (program.bound * rng.range(0.1, 0.8), rng.log_range(2.0, 30.0));
    let program = program.anon(1.7 * factor * bytes, with_load(bytes, lag));
    let secs = at + stays * rng.range(0.8, 1.5);
    connected(rng, program, secs)
}

/// Server that has lived through at least two days under this load.
fn daily(rng: &mut Rng, depth: f64) -> Program {
    let load = daily_load(rng, depth);
    let born = old(rng).min(-DAY * rng.range(2.1, 20.0));
    let program = service(rng, born);
    server(rng, program).load(load)
}

fn day(rng: &mut Rng) -> Scene {
    let depth = rng.range(0.2, 0.7);
    let program = daily(rng, depth);
    let (bytes, lag) = (program.bound * rng.range(0.2, 1.0), rng.log_range(10.0, 900.0));
    let program = program.anon(2.4 * bytes, with_load(bytes, lag));
    let secs = rng.range(6.0, 26.0) * HOUR;
    peaked(rng, program, secs)
}

fn day_keeps(rng: &mut Rng) -> Scene {
    let depth = rng.range(0.2, 0.7);
    let program = daily(rng, depth);
    let (bytes, lag) = (program.bound * rng.range(0.2, 0.8), rng.log_range(10.0, 900.0));
    let (follows, gives) = (with_load(bytes, lag), rng.log_range(0.3, 6.0) * HOUR);
    let program = program.anon(2.4 * bytes, decaying(follows, gives));
    let secs = rng.range(6.0, 26.0) * HOUR;
    peaked(rng, program, secs)
}

fn threads(rng: &mut Rng) -> Scene {
    let (at, lasts) = (rng.log_range(5.0, 90.0) * MINUTE, rng.log_range(3.0, 120.0) * MINUTE);
    let factor = rng.range(1.5, 4.0);
    let load =
        if rng.chance(0.5) { bursty_load(rng) } else { rising_load(rng, at, at + lasts, factor) };
    let program = settled(rng).load(load);
    let (count, each) = (rng.log_range(10.0, 400.0), KIB * rng.log_range(60.0, 900.0));
    let still = program.threads.0;
    let mut program = server(rng, program);
    program.threads = (still, count);
    let lag = rng.log_range(1.0, 60.0);
    let program = program.anon(56.0 * count * each, with_load(count * each, lag));
    let secs = at + lasts * rng.range(1.2, 2.0);
    connected(rng, program, secs)
}

fn sockets(rng: &mut Rng) -> Scene {
    let (at, lasts) = (rng.log_range(5.0, 60.0) * MINUTE, rng.log_range(2.0, 90.0) * MINUTE);
    let factor = rng.range(1.5, 4.0);
    // The kernel's part of the same load, without its flicker.
    let points = vec![(at, 1.0), (at + lasts, factor)];
    let load = scripted_load(rng, points.clone());
    let program = settled(rng);
    let program = server(rng, program).load(load);
    let bytes = program.bound * rng.range(0.02, 0.3);
    let mut line = script(points);
    let kernel: Shape = Box::new(move |now: &Now| bytes * line(now));
    let secs = at + lasts * rng.range(1.2, 3.0);
    let scene = with_kernel(Scene::healthy(program, secs), 1.1 * factor * bytes, kernel);
    let mut scene = super::complete(rng, scene);
    (scene.needs.handles, scene.needs.cgroups) = (true, true);
    scene
}
