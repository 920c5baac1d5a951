//! Pools: processes come and go, and the sum is what counts.

use super::Mechanism;
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, Sort, cgroup, neighbours},
        shapes::{DAY, HOUR, MIB, MINUTE, daily_load, heaps},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "pool-recycled",
        why: "workers grow and are replaced after so many requests (max_requests), again and again",
        scene: recycled,
    },
    Mechanism {
        name: "pool-recycled-slowly",
        why: "the same over hours, by less than a quarter of a worker's size",
        scene: recycled_slowly,
    },
    Mechanism {
        name: "pool-dynamic",
        why: "the number of workers follows the load (pm = dynamic); each is flat",
        scene: dynamic,
    },
    Mechanism {
        name: "pool-backends",
        why: "database connections with caches of their own, kept for hours and replaced",
        scene: backends,
    },
];

fn master(rng: &mut Rng, comm: &str) -> (String, f64, Program) {
    let group = cgroup(rng, "pool");
    let (born, bytes) = (-rng.log_range(HOUR, 30.0 * DAY), MIB * rng.log_range(15.0, 200.0));
    let kind = Kind::C;
    let program = kind.program(rng, (&group, comm), born, bytes, 0.0);
    (group, bytes, program)
}

/// Workers that grow by `share` of their size within a life of `life` seconds and are replaced.
fn cycle(rng: &mut Rng, secs: f64, life: f64, share: f64) -> Scene {
    let comm = rng.pick(&["gunicorn", "php-fpm", "unicorn", "apache2"]);
    let (group, bytes, program) = master(rng, comm);
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Php]);
    let mut workers = Vec::new();
    for _ in 0..3 + rng.below(6) {
        // Staggered, since each takes its own requests, and with a jitter, as advised.
        let mut born = -(1.0 + rng.unit()) * life;
        while born < secs {
            let dies = born + life * rng.range(0.85, 1.15);
            let (grows, inherited) = (share * bytes / life, bytes * rng.range(0.1, 0.5));
            let mut worker = kind.program(rng, (&group, comm), born, bytes, 0.2).until(dies);
            worker.ppid = 700;
            worker.bound = if born < 0.0 { bytes * (1.3 + share) } else { 0.0 };
            workers.push(
                worker
                    .with(Sort::Inherited, 0.0, Box::new(move |_| inherited))
                    .anon(0.0, Box::new(move |now| grows * now.age)),
            );
            born = dies + rng.range(0.05, 1.0);
        }
    }
    Scene::healthy(program, secs).and(workers).and(neighbours(rng, 2))
}

fn recycled(rng: &mut Rng) -> Scene {
    let (life, share) = (rng.log_range(2.0 * MINUTE, 14.0 * MINUTE), rng.range(0.1, 1.2));
    let secs = rng.range(1.0, 4.0) * HOUR;
    cycle(rng, secs, life, share)
}

fn recycled_slowly(rng: &mut Rng) -> Scene {
    let (life, share) = (rng.log_range(14.0 * MINUTE, 4.0 * HOUR), rng.range(0.05, 0.22));
    let secs = rng.range(2.0, 8.0) * HOUR;
    cycle(rng, secs, life, share)
}

fn dynamic(rng: &mut Rng) -> Scene {
    let (group, bytes, program) = master(rng, "php-fpm");
    let (secs, most) = (rng.range(2.0, 10.0) * HOUR, 4 + rng.below(12));
    let depth = rng.range(0.3, 0.9);
    let mut load = daily_load(rng, depth);
    let (mut workers, mut since) = (Vec::new(), vec![None; most as usize]);
    let mut at = -HOUR;
    while at < secs {
        let wanted = (load(at, 60.0) * most as f64 / 2.0).clamp(1.0, most as f64) as usize;
        for (place, since) in since.iter_mut().enumerate() {
            match (*since, place < wanted) {
                (None, true) => *since = Some(at + rng.range(0.0, 10.0)),
                (Some(born), false) => {
                    let worker = Kind::Php.program(rng, (&group, "php-fpm"), born, bytes, 0.3);
                    workers.push(worker.until(at.max(born + 1.0)));
                    *since = None;
                }
                _ => {}
            }
        }
        at += 60.0;
    }
    for born in since.into_iter().flatten() {
        workers.push(Kind::Php.program(rng, (&group, "php-fpm"), born, bytes, 0.3));
    }
    for worker in &mut workers {
        worker.ppid = 800;
        worker.bound = 0.0;
    }
    let mut scene = Scene::healthy(program, secs).and(workers).and(neighbours(rng, 2));
    scene.room = 2.0 * bytes * most as f64;
    scene
}

fn backends(rng: &mut Rng) -> Scene {
    let (group, _, program) = master(rng, "postgres");
    let secs = rng.range(2.0, 8.0) * HOUR;
    let (mut workers, count) = (Vec::new(), 3 + rng.below(8));
    for _ in 0..count {
        let mut born = -rng.range(0.0, 2.0) * HOUR;
        while born < secs {
            let dies = born + rng.log_range(10.0 * MINUTE, 6.0 * HOUR);
            let (bytes, tau) = (MIB * rng.log_range(5.0, 250.0), rng.log_range(10.0, 400.0));
            let power = rng.range(0.6, 2.0);
            let mut worker = Program::new(rng, "postgres", &group, born).until(dies);
            worker.ppid = 700;
            let part = heaps(bytes, tau, power);
            worker = worker.anon(if born < 0.0 { bytes } else { 0.0 }, part);
            workers.push(worker);
            born = dies + rng.range(0.1, 30.0);
        }
    }
    let mut scene = Scene::healthy(program, secs).and(workers).and(neighbours(rng, 2));
    scene.room = 250.0 * MIB * count as f64;
    scene
}
