//! Caches and buffer pools: they grow to a bound and stay.

use super::{Mechanism, scene, service, service_of};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, Sort, old},
        shapes::{DAY, GIB, HOUR, MIB, MINUTE, Shape, aged, heaps, script, steady},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "cache-warms-up",
        why: "fills from birth by a power law, for hours; the rate has halved after minutes",
        scene: warms_up,
    },
    Mechanism {
        name: "pool-of-known-size",
        why: "a buffer pool fills in a straight line for up to an hour and a half; it was mapped whole",
        scene: known_pool,
    },
    Mechanism {
        name: "cache-refills",
        why: "flushed and filled again in a straight line, to where it was before (peak)",
        scene: refills,
    },
    Mechanism {
        name: "cache-switched-on",
        why: "an old process gets a cache that is full within a minute or two",
        scene: switched_on,
    },
    Mechanism {
        name: "cache-large-slow",
        why: "an old cache goes on filling, by less than a quarter of its size",
        scene: large_slow,
    },
    Mechanism {
        name: "redis-snapshots",
        why: "full to maxmemory; forks of snapshots copy what is written meanwhile",
        scene: snapshots,
    },
    Mechanism {
        name: "shared-buffers",
        why: "backends touch shared buffers that others have touched: nothing is charged anew",
        scene: shared_buffers,
    },
    Mechanism {
        name: "mapped-files",
        why: "an index is read through mappings: file pages climb, which are page cache",
        scene: mapped_files,
    },
    Mechanism {
        name: "straight-fill",
        why: "a cache of unique keys fills in a straight line to a bound that only its command line \
            names: nobody can tell before it is full",
        scene: straight_fill,
    },
];

fn warms_up(rng: &mut Rng) -> Scene {
    let born = rng.log_range(10.0, HOUR);
    let program = service(rng, born);
    let (bytes, tau) = (program.bound * rng.log_range(0.5, 20.0), rng.log_range(20.0, 600.0));
    let bytes = bytes.min(24.0 * GIB);
    let power = rng.range(0.4, 1.5);
    let program = program.anon(bytes, heaps(bytes, tau, power));
    let secs = rng.log_range(2.0, 14.0) * HOUR;
    scene(rng, program, secs)
}

/// InnoDB: the pool is one mapping, and pages are touched as they are read.
fn known_pool(rng: &mut Rng) -> Scene {
    let born = rng.log_range(10.0, HOUR);
    let program = Program::new(rng, "mysqld", "/system.slice/mysql.service", born);
    let (base, pool) = (MIB * rng.range(80.0, 400.0), GIB * rng.log_range(0.2, 40.0));
    let secs = rng.range(10.0, 90.0) * MINUTE;
    let program = program
        .anon(base, aged(vec![(0.0, 0.0), (10.0, base)]))
        .anon(pool, aged(vec![(8.0, 0.0), (secs, pool * 0.985), (4.0 * secs, pool)]))
        .whole(base + pool);
    let mut scene = scene(rng, program, born + secs + 2.0 * HOUR);
    scene.needs = Needs { mapped: true, ..Needs::default() };
    scene
}

fn refills(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(2.0 * HOUR, 30.0 * DAY);
    let program = service(rng, born);
    let bytes = program.bound * rng.log_range(0.5, 5.0);
    let (at, left) = (rng.range(-30.0, 120.0) * MINUTE, bytes * rng.range(0.0, 0.3));
    let fills = rng.range(5.0, 120.0) * MINUTE;
    let points = vec![(at, bytes), (at + 20.0, left), (at + 20.0 + fills, bytes)];
    let program = program.anon(bytes, script(points));
    let mut scene = scene(rng, program, (at + fills).max(HOUR) + HOUR);
    scene.needs = Needs { peak: true, ..Needs::default() };
    scene
}

fn switched_on(rng: &mut Rng) -> Scene {
    let (born, at) = (old(rng), rng.range(2.0, 180.0) * MINUTE);
    let program = service(rng, born);
    let (bytes, tau) = (program.bound * rng.range(0.3, 2.0), rng.log_range(4.0, 30.0));
    let fill: Shape = Box::new(move |now| {
        let since = (now.t - at).max(0.0);
        bytes * (1.0 - libm::exp(-since / tau))
    });
    let program = program.anon(bytes, fill);
    scene(rng, program, at + 2.0 * HOUR)
}

fn large_slow(rng: &mut Rng) -> Scene {
    let born = -rng.log_range(HOUR, 30.0 * DAY);
    let program = service(rng, born);
    let more = (program.bound * rng.range(0.05, 0.22)).max(20.0 * MIB);
    let (from, secs) = (rng.range(-HOUR, HOUR), rng.range(0.5, 10.0) * HOUR);
    let program = program.anon(more, script(vec![(from, 0.0), (from + secs, more)]));
    scene(rng, program, (from + secs + HOUR).max(2.0 * HOUR))
}

fn snapshots(rng: &mut Rng) -> Scene {
    let (born, bytes) = (-rng.log_range(HOUR, 60.0 * DAY), GIB * rng.log_range(0.1, 20.0));
    let group = "/system.slice/redis-server.service";
    let flicker = rng.log_range(0.000_5, 0.01);
    let part = steady(rng, bytes, flicker);
    let program = Program::new(rng, "redis-server", group, born).anon(bytes, part);
    let (secs, every) = (rng.range(1.0, 8.0) * HOUR, rng.log_range(60.0, 3_600.0));
    let (mut forks, mut at) = (Vec::new(), -rng.unit() * every);
    while at < secs {
        let lasts = (bytes / (MIB * rng.range(50.0, 300.0))).max(1.0);
        let copied = bytes * rng.log_range(0.005, 0.4);
        let child = Program::new(rng, "redis-server", group, at).until(at + lasts);
        forks.push(
            child
                .with(Sort::Inherited, 0.0, Box::new(move |_| bytes))
                .anon(0.0, Box::new(move |now| copied * (now.age / lasts).min(1.0))),
        );
        at += lasts + every * rng.range(0.8, 1.2);
    }
    let mut scene = scene(rng, program, secs);
    scene.room = 0.5 * bytes;
    scene.and(forks)
}

fn shared_buffers(rng: &mut Rng) -> Scene {
    let group = "/system.slice/postgresql.service";
    let (born, pool) = (-rng.log_range(2.0 * HOUR, 60.0 * DAY), GIB * rng.log_range(0.1, 24.0));
    let part = steady(rng, 12.0 * MIB, 0.01);
    let program = Program::new(rng, "postgres", group, born).anon(12.0 * MIB, part).with(
        Sort::Common,
        pool,
        Box::new(move |_| pool),
    );
    let secs = rng.range(1.0, 6.0) * HOUR;
    let mut backends = Vec::new();
    for _ in 0..4 + rng.below(20) {
        let born = rng.range(-2.0 * HOUR, 0.8 * secs);
        let own = MIB * rng.log_range(3.0, 60.0);
        let (share, touches) = (rng.range(0.05, 0.9), rng.log_range(2.0 * MINUTE, 4.0 * HOUR));
        let (power, tau) = (rng.range(0.5, 2.0), rng.log_range(20.0, 600.0));
        let mut caches = heaps(own, tau, power);
        let mut backend = Program::new(rng, "postgres", group, born);
        backend.ppid = 900;
        backend = backend.anon(own, Box::new(move |now| caches(now) + 3.0 * MIB)).with(
            Sort::Common,
            0.0,
            Box::new(move |now| share * pool * (now.age / touches).min(1.0)),
        );
        if rng.chance(0.5) {
            let dies = born + rng.log_range(MINUTE, secs);
            backend = backend.until(dies);
        }
        backends.push(backend);
    }
    scene(rng, program, secs).and(backends)
}

fn mapped_files(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service_of(rng, Kind::Java, born, 0.2);
    let (bytes, from) = (GIB * rng.log_range(0.2, 30.0), rng.range(-HOUR, HOUR));
    let secs = rng.log_range(5.0 * MINUTE, 8.0 * HOUR);
    let grows = script(vec![(from, 0.0), (from + secs, bytes)]);
    let program = program.with(Sort::File, 0.0, grows);
    scene(rng, program, (from + secs + HOUR).max(2.0 * HOUR))
}

fn straight_fill(rng: &mut Rng) -> Scene {
    let born = if rng.chance(0.5) { old(rng) } else { rng.range(10.0, 600.0) };
    let program = service_of(rng, Kind::C, born, 0.0);
    let (bytes, from) = (MIB * rng.log_range(200.0, 16_000.0), born.max(0.0) + 300.0);
    let secs = rng.range(30.0, 120.0) * MINUTE;
    let program = program.anon(bytes, script(vec![(from, 0.0), (from + secs, bytes)]));
    let mut scene = scene(rng, program, from + secs + HOUR);
    scene.untellable = true;
    scene
}
