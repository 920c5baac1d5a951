//! Leaks in pools of workers and in crowds of processes.

use super::{Mechanism, leaking, name, need, rate};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Kind, Program, Sort, cgroup, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, boot, saturating, steady},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "pool-one",
        why: "one worker of a pool leaks: the one that a broken client is bound to",
        scene: one,
    },
    Mechanism {
        name: "pool-all",
        why: "all workers of a pool leak at about the same rate",
        scene: all,
    },
    Mechanism {
        name: "pool-recycled",
        why: "workers of a new release leak, and are replaced after so many requests, too late",
        scene: recycled,
    },
    Mechanism {
        name: "crowd-one",
        why: "one of dozens of processes of one name, in one cgroup, leaks",
        scene: crowd,
    },
    Mechanism {
        name: "hung-jobs",
        why: "a job starts every minute or so and some never end: processes pile up in a cgroup",
        scene: hung,
    },
];

/// Pool of workers behind a master, with what they share by copy on write.
pub(in crate::independent) struct Pool {
    group: String,
    comm: &'static str,
    shared: f64,
    own: f64,
    swing: f64,
    kind: Kind,
}

impl Pool {
    pub(in crate::independent) fn new(rng: &mut Rng) -> Self {
        let name = name(rng);
        let (comm, kind) = rng.pick(&[
            ("gunicorn", Kind::Python),
            ("php-fpm", Kind::Php),
            ("puma", Kind::Ruby),
            ("celery", Kind::Python),
            ("nginx", Kind::C),
        ]);
        Self {
            group: cgroup(rng, name),
            comm,
            shared: MIB * rng.log_range(8.0, 200.0),
            own: MIB * rng.log_range(6.0, 200.0),
            swing: rng.log_range(0.02, 0.4),
            kind,
        }
    }

    /// Bytes of one worker.
    pub(in crate::independent) fn each(&self) -> f64 {
        self.shared + 1.3 * self.own
    }

    pub(in crate::independent) fn master(&self, rng: &mut Rng, born: f64) -> Program {
        let program = Program::new(rng, self.comm, &self.group, born);
        program.anon(self.shared, steady(rng, self.shared, 0.001)).with(
            Sort::File,
            0.0,
            boot(20.0 * MIB, 3.0),
        )
    }

    pub(in crate::independent) fn worker(&self, rng: &mut Rng, born: f64) -> Program {
        let own = self.own * rng.range(0.8, 1.2);
        let worker = self.kind.program(rng, (&self.group, self.comm), born, own, self.swing);
        let mut worker = worker.with(Sort::Inherited, 0.0, boot(self.shared, 1.0));
        worker.bound += self.shared;
        worker.ppid = 250;
        worker
    }
}

fn start(rng: &mut Rng) -> f64 {
    if rng.chance(0.3) {
        -rng.log_range(MINUTE, 2.0 * HOUR)
    } else {
        rng.log_range(10.0 * MINUTE, 3.0 * HOUR)
    }
}

fn one(rng: &mut Rng) -> Scene {
    let (pool, count, born) = (Pool::new(rng), 3 + rng.below(28), old(rng));
    let start = start(rng).max(born + MINUTE);
    let mut others = vec![pool.master(rng, born)];
    others.extend((0..count).map(|_| pool.worker(rng, born + 1.0)));
    let program = pool.worker(rng, born + 1.0);
    let rate = rate(rng, program.bound, (2.0 * KIB, 4.0 * MIB), (5.0 * MINUTE, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::WithLoad);
    leaking(rng, program, others, (start, rate))
}

fn all(rng: &mut Rng) -> Scene {
    let (pool, count, born) = (Pool::new(rng), 3 + rng.below(20), old(rng));
    let start = start(rng).max(born + MINUTE);
    let sum = pool.each() * (count + 1) as f64;
    let rate = rate(rng, sum, (8.0 * KIB, 8.0 * MIB), (15.0 * MINUTE, 20.0 * HOUR));
    let each = rate / (count + 1) as f64;
    let worker = |rng: &mut Rng| {
        let own = each * rng.range(0.7, 1.3);
        pool.worker(rng, born + 1.0).leaks(rng, start, own, Pace::WithLoad)
    };
    let mut others = vec![pool.master(rng, born)];
    others.extend((0..count).map(|_| worker(rng)));
    let program = worker(rng);
    leaking(rng, program, others, (start, rate))
}

fn recycled(rng: &mut Rng) -> Scene {
    let (pool, count) = (Pool::new(rng), 3 + rng.below(12));
    let born = rng.log_range(10.0 * MINUTE, 2.0 * HOUR);
    let sum = pool.each() * (count + 1) as f64;
    let rate = rate(rng, sum, (8.0 * KIB, 4.0 * MIB), (30.0 * MINUTE, 12.0 * HOUR));
    // The first worker is replaced when it is due, the last after twice of that.
    let lasts = need(sum) / rate;
    let each = rate / (count + 1) as f64;
    let mut begins = Vec::new();
    for place in 0..=count {
        let begin = born + 2.0 + place as f64 * rng.range(0.1, 2.0);
        let end = begin + lasts * rng.range(1.2, 2.4);
        begins.push((begin, end));
        begins.push((end, f64::INFINITY));
    }
    let workers: Vec<Program> = begins
        .into_iter()
        .map(|(begin, end)| {
            let worker = pool.worker(rng, begin).leaks(rng, begin, each, Pace::WithLoad);
            worker.until(end)
        })
        .collect();
    let master = pool.master(rng, born);
    let begins = old(rng);
    let mut before = vec![pool.master(rng, begins).until(born)];
    before.extend((0..=count).map(|_| pool.worker(rng, begins + 1.0).until(born + 1.0)));
    let mut workers = workers;
    let first = workers.remove(0);
    workers.push(master);
    workers.extend(before);
    leaking(rng, first, workers, (born + 2.0, rate))
}

fn crowd(rng: &mut Rng) -> Scene {
    let (name, count, start) = (name(rng), 20 + rng.below(40), start(rng));
    let comm = rng.pick(&["sessiond", "exporter", "tunnel", "agent"]);
    let group = cgroup(rng, name);
    let bytes = MIB * rng.log_range(4.0, 120.0);
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Go, Kind::Node]);
    let member = |rng: &mut Rng| {
        let (born, size) = (old(rng), bytes * rng.range(0.6, 1.6));
        let (cache, tau) = (0.2 * size, rng.log_range(60.0, HOUR));
        let member = kind.program(rng, (&group, comm), born, size, 0.1);
        member.anon(cache, saturating(cache, tau))
    };
    let program = member(rng);
    let start = start.max(program.born + MINUTE);
    let others = (0..count).map(|_| member(rng)).collect();
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (10.0 * MINUTE, 20.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, others, (start, rate))
}

fn hung(rng: &mut Rng) -> Scene {
    let name = name(rng);
    let group = format!("/system.slice/{name}.service");
    let comm = rng.pick(&["curl", "rsync", "php", "check_http"]);
    let (bytes, every) = (MIB * rng.log_range(3.0, 14.0), rng.log_range(20.0, 90.0));
    let (begins, start) = (old(rng), rng.log_range(10.0 * MINUTE, 2.0 * HOUR));
    let size = MIB * rng.log_range(8.0, 100.0);
    let program = Kind::Python.program(rng, (&group, "scheduler"), begins, size, 0.02);
    let hangs = rng.range(0.4, 1.0);
    let rate = hangs * bytes / every;
    let secs = start + super::lasting(1.4 * size, start, rate);
    let mut at = 0.0;
    let mut jobs = Vec::new();
    while at < 1.6 * secs {
        at += every * (0.5 + 0.5 * rng.exponential());
        let own = bytes * rng.range(0.7, 1.3);
        let job = Program::new(rng, comm, &group, at);
        if at > start && rng.chance(hangs) {
            // Its memory is what leaks.
            jobs.push(job.leaking(Sort::Anon, boot(own, 2.0)));
        } else {
            let ends = at + rng.range(1.0, 15.0);
            jobs.push(job.anon(0.0, boot(own, 2.0)).until(ends));
        }
    }
    let scene = leaking(rng, program, jobs, (start, rate));
    let needs = Needs { cgroups: true, ..scene.needs };
    let mut scene = Scene { size_of_all: true, needs, ..scene };
    scene.subject.comm.clear();
    scene
}
