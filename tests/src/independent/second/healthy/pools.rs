//! Pools of buffers, connections and workers, and what allocators keep.

use super::{Mechanism, complete, connected, fillable, peaked, scene, service, settled, small};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::{from, high_water},
        programs::{Kind, Program, Sort, old},
        second::leaks::Pool,
        shapes::{DAY, HOUR, MIB, MINUTE, Now, aged, saturating, script, steady},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "buffers-private",
        why: "a pool of buffers, mapped as a whole from the start, is touched for up to an hour",
        scene: private,
    },
    Mechanism {
        name: "buffers-shared",
        why: "pages are read into a shared region, ever fewer that are new: the rate falls",
        scene: shared,
    },
    Mechanism {
        name: "buffers-touched",
        why: "new workers touch a region that is full already: their cgroup does not grow",
        scene: touched,
    },
    Mechanism {
        name: "workers-recycled",
        why: "workers warm up, slow down, and are replaced; the ones before were as large",
        scene: recycled,
    },
    Mechanism {
        name: "copy-on-write",
        why: "children write to pages of their parent: what they share becomes their own",
        scene: copy_on_write,
    },
    Mechanism {
        name: "connection-pool",
        why: "a pool of connections grows in steps to its maximum, each with its buffers",
        scene: connections,
    },
    Mechanism {
        name: "high-water",
        why: "the allocator keeps the most that was ever asked for; records get rarer",
        scene: records,
    },
];

fn private(rng: &mut Rng) -> Scene {
    let born = if rng.chance(0.6) { rng.log_range(10.0, HOUR) } else { old(rng) };
    let program = service(rng, born);
    let bytes = (program.bound * rng.range(0.3, 3.0)).max(32.0 * MIB);
    let (at, lasts) = (born.max(5.0 * MINUTE), rng.log_range(3.0, 60.0) * MINUTE);
    let fill = aged(vec![(0.0, 0.0), (lasts, bytes)]);
    let whole = program.bound + 1.05 * bytes;
    let program = program.anon(bytes, from(at, fill)).whole(whole);
    let secs = at + lasts * rng.range(1.2, 2.5);
    let scene = scene(rng, program, secs);
    Scene { needs: Needs { mapped: true, ..scene.needs }, ..scene }
}

fn shared(rng: &mut Rng) -> Scene {
    let born = rng.log_range(10.0, HOUR);
    let program = service(rng, born);
    let bytes = fillable(program.bound) * rng.range(0.3, 1.0);
    let tau = rng.log_range(2.0, 25.0) * MINUTE;
    let program = program.with(Sort::Shmem, bytes, saturating(bytes, tau));
    let secs = born + tau * rng.range(2.5, 6.0);
    scene(rng, program, secs)
}

fn touched(rng: &mut Rng) -> Scene {
    let (pool, begins) = (Pool::new(rng), old(rng));
    let region = MIB * rng.log_range(64.0, 6_000.0);
    let master = pool.master(rng, begins);
    let master = master.with(Sort::Common, region, steady(rng, region, 0.0));
    let mut scene = Scene::healthy(master, rng.log_range(0.5, 4.0) * HOUR);
    for _ in 0..2 + rng.below(8) {
        let born = rng.range(10.0, 0.7 * scene.secs);
        let (share, tau) = (rng.range(0.2, 1.0), rng.log_range(60.0, HOUR));
        let worker = pool.worker(rng, born);
        let worker = worker.with(Sort::Common, 0.0, saturating(share * region, tau));
        scene = scene.and([worker]);
    }
    scene.needs.cgroups = true;
    complete(rng, scene)
}

fn recycled(rng: &mut Rng) -> Scene {
    let (pool, begins) = (Pool::new(rng), old(rng));
    let lasts = rng.log_range(10.0, 90.0) * MINUTE;
    let secs = lasts * rng.range(1.5, 4.0);
    let mut scene = Scene::healthy(pool.master(rng, begins), secs);
    let bytes = pool.each() * rng.range(0.2, 0.9);
    for _ in 0..3 + rng.below(8) {
        let mut at = -lasts * rng.range(1.0, 3.0);
        while at < secs {
            let (tau, size) = (lasts * rng.range(0.1, 0.35), bytes * rng.range(0.8, 1.0));
            let worker = pool.worker(rng, at);
            let worker = worker.anon(0.0, saturating(size, tau));
            at += lasts * rng.range(0.7, 1.3);
            // What two of one place would need is counted once.
            scene = scene.and([Program { bound: 0.0, ..worker }.until(at)]);
            at += rng.range(0.1, 3.0);
        }
    }
    scene.room = 12.0 * (1.4 * pool.each() + bytes);
    complete(rng, scene)
}

fn copy_on_write(rng: &mut Rng) -> Scene {
    let name = super::name(rng);
    let group = format!("/system.slice/{name}.service");
    let comm = rng.pick(&["redis-server", "zygote", "unicorn"]);
    let (begins, bytes) = (old(rng), MIB * rng.log_range(100.0, 8_000.0));
    let parent = Kind::C.program(rng, (&group, comm), begins, bytes, 0.0);
    let every = rng.log_range(3.0, 40.0) * MINUTE;
    let secs = every * rng.range(2.5, 6.0);
    let mut scene = Scene::healthy(parent, secs);
    let mut at = rng.range(0.1, 0.9) * every;
    while at < secs {
        let (tau, share) = (rng.log_range(20.0, 600.0), rng.range(0.05, 0.5));
        let own = move |now: &Now| share * bytes * (1.0 - libm::exp(-now.age / tau));
        let child = Program::new(rng, comm, &group, at);
        let child = child
            .with(Sort::Inherited, 0.0, Box::new(move |now: &Now| bytes - own(now)))
            .anon(0.0, Box::new(move |now: &Now| own(now)));
        scene = scene.and([child.until(at + every * rng.range(0.1, 0.6))]);
        at += every * rng.range(0.8, 1.2);
    }
    scene.room = 0.6 * bytes;
    complete(rng, scene)
}

fn connections(rng: &mut Rng) -> Scene {
    let (mut program, at) = (settled(rng), rng.log_range(MINUTE, HOUR));
    let (count, bytes) = ((5 + rng.below(60)) as f64, small(program.bound) * rng.range(0.3, 0.9));
    let lasts = count * rng.log_range(2.0, 200.0);
    // Load is the share of the pool that is open.
    let mut open = script(vec![(at, 0.1), (at + lasts, 1.0)]);
    program.load = Box::new(move |t, dt| open(&Now { t, age: t, dt, load: 1.0 }));
    program.files.1 = count;
    let steps = Box::new(move |now: &Now| bytes * libm::floor(now.load * count) / count);
    let program = program.anon(bytes, steps);
    let secs = at + 1.3 * lasts + 10.0 * MINUTE;
    connected(rng, program, secs)
}

fn records(rng: &mut Rng) -> Scene {
    let born = old(rng).min(-2.0 * DAY);
    let program = service(rng, born);
    let bytes = program.bound * rng.range(0.1, 0.8);
    let every = rng.log_range(20.0, 900.0);
    let program = program.anon(bytes, high_water(rng, bytes, every));
    let secs = rng.log_range(1.0, 10.0) * HOUR;
    peaked(rng, program, secs)
}
