//! Leaks among many processes: pools of workers, and hosts full of short jobs.

use super::{Mechanism, need, rate};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, Sort, cgroup, neighbours},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, flat_load, steady},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "pool-all",
        why: "every worker of a pool leaks, and none is recycled",
        scene: all,
    },
    Mechanism {
        name: "pool-one",
        why: "one worker of a pool leaks, the others are healthy",
        scene: one,
    },
    Mechanism {
        name: "pool-master",
        why: "workers are recycled after some requests, and the master leaks",
        scene: master,
    },
    Mechanism {
        name: "crowd",
        why: "a service leaks on a host where jobs come and go all the time",
        scene: crowd,
    },
];

/// Pre-fork pool: a master with shared pages, and workers.
struct Pool {
    group: String,
    comm: &'static str,
    born: f64,
    bytes: f64,
    kind: Kind,
}

impl Pool {
    fn new(rng: &mut Rng) -> Self {
        let kind = rng.pick(&[Kind::Python, Kind::Php, Kind::Ruby]);
        let comm = kind.comm(rng);
        Self {
            group: cgroup(rng, "pool"),
            comm,
            born: -rng.log_range(20.0 * MINUTE, 20.0 * 24.0 * HOUR),
            bytes: MIB * rng.log_range(25.0, 300.0),
            kind,
        }
    }

    fn worker(&self, rng: &mut Rng, born: f64) -> Program {
        let own = (self.group.as_str(), self.comm);
        let mut worker = self.kind.program(rng, own, born, self.bytes, 0.3);
        // Pages of the master's imports that are still shared.
        let inherited = self.bytes * rng.range(0.1, 0.6);
        worker = worker.with(Sort::Inherited, 0.0, Box::new(move |_| inherited));
        worker.ppid = 4_000;
        worker
    }
}

fn all(rng: &mut Rng) -> Scene {
    let pool = Pool::new(rng);
    let (count, start) = (2 + rng.below(10), rng.range(3.0, 120.0) * MINUTE);
    let workers: Vec<_> = (0..count)
        .map(|_| {
            let born = pool.born + rng.range(0.0, 5.0);
            pool.worker(rng, born)
        })
        .collect();
    // Due for the pool: half of all its workers' size.
    let rate = rate(rng, &workers[0], (KIB, MIB), (15.0 * MINUTE, 8.0 * HOUR));
    let mut workers: Vec<_> = workers
        .into_iter()
        .map(|worker| {
            let own = rate * rng.range(0.6, 1.4);
            worker.leaks(rng, start, own, Pace::WithLoad)
        })
        .collect();
    let first = workers.remove(0);
    let mut scene = Scene::leaking(first, start);
    scene.room *= count as f64;
    scene.and(workers).and(neighbours(rng, 3))
}

fn one(rng: &mut Rng) -> Scene {
    let pool = Pool::new(rng);
    let (count, start) = (2 + rng.below(10), rng.range(3.0, 120.0) * MINUTE);
    let others: Vec<_> = (0..count)
        .map(|_| {
            let born = pool.born + rng.range(0.0, 5.0);
            pool.worker(rng, born)
        })
        .collect();
    let born = pool.born;
    let worker = pool.worker(rng, born);
    let rate = rate(rng, &worker, (KIB, 2.0 * MIB), (10.0 * MINUTE, 8.0 * HOUR));
    let worker = worker.leaks(rng, start, rate, Pace::WithLoad);
    Scene::leaking(worker, start).and(others).and(neighbours(rng, 3))
}

fn master(rng: &mut Rng) -> Scene {
    let pool = Pool::new(rng);
    let start = rng.range(3.0, 120.0) * MINUTE;
    let own = (pool.group.as_str(), "pool-master");
    let master = pool.kind.program(rng, own, pool.born, pool.bytes, 0.05);
    let rate = rate(rng, &master, (2.0 * KIB, MIB), (15.0 * MINUTE, 5.0 * HOUR));
    let secs = start + 1.5 * need(&master) / rate + HOUR;
    let mut workers = Vec::new();
    for _ in 0..2 + rng.below(6) {
        let life = rng.log_range(3.0 * MINUTE, HOUR);
        let mut born = -rng.unit() * life;
        while born < secs {
            let dies = born + life * rng.range(0.8, 1.2);
            let grows = pool.bytes * rng.range(0.05, 0.4) / life;
            let worker = pool.worker(rng, born).until(dies);
            let limit = pool.bytes;
            let growth = Box::new(move |now: &crate::independent::shapes::Now| {
                (grows * now.age).clamp(0.0, limit)
            });
            workers.push(worker.anon(0.3 * limit / 40.0, growth));
            born = dies + rng.range(0.05, 2.0);
        }
    }
    let master = master.leaks(rng, start, rate, Pace::WithLoad);
    Scene::leaking(master, start).and(workers).and(neighbours(rng, 2))
}

/// Jobs of cron, of a build server or of a shell loop: tens a minute, most of them small.
pub(in crate::independent) fn jobs(rng: &mut Rng, secs: f64, every: f64) -> Vec<Program> {
    let names = ["sh", "cc1plus", "rsync", "logrotate", "python3", "tar", "find", "curl"];
    let (mut jobs, mut at) = (Vec::new(), -60.0);
    while at < secs {
        at += every * rng.exponential();
        let (lasts, bytes) = (rng.log_range(0.3, 120.0), MIB * rng.log_range(1.0, 150.0));
        let comm = rng.pick(&names);
        let mut job = Program::new(rng, comm, "/system.slice/cron.service", at).until(at + lasts);
        job.load = flat_load(rng);
        job = job.anon(0.02 * bytes, Box::new(move |now| bytes * (2.0 * now.age / lasts).min(1.0)));
        jobs.push(job);
    }
    jobs
}

fn crowd(rng: &mut Rng) -> Scene {
    let start = rng.range(3.0, 30.0) * MINUTE;
    let born = -rng.log_range(20.0 * MINUTE, 20.0 * 24.0 * HOUR);
    let group = cgroup(rng, "api");
    let bytes = MIB * rng.log_range(30.0, 1_500.0);
    let program = Program::new(rng, "api", &group, born);
    let part = steady(rng, bytes, 0.003);
    let program = program.anon(bytes, part);
    let rate = rate(rng, &program, (20.0 * KIB, 10.0 * MIB), (2.0 * MINUTE, HOUR));
    let secs = start + 1.5 * need(&program) / rate + 600.0;
    let still: Vec<_> = (0..30 + rng.below(60))
        .map(|nth| {
            let (bytes, born) = (MIB * rng.log_range(1.0, 60.0), -rng.log_range(HOUR, 1e6));
            let group = format!("/user.slice/session-{nth}.scope");
            let other = Program::new(rng, "bash", &group, born);
            let part = steady(rng, bytes, 0.001);
            other.anon(bytes, part)
        })
        .collect();
    let every = rng.log_range(1.0, 20.0);
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    Scene::leaking(program, start).and(still).and(jobs(rng, secs, every))
}
