//! Workloads of several processes, in parallel or in sequence: the workload counts, not the pid.

use spillway_agent::sense::ProcessId;

use super::{
    super::{
        curve::{
            Curve, DAY, GIB, HOUR, MIB, MINUTE, at_most, breathing, flat, noise, ramp, saturating,
            since, sum,
        },
        rng::Rng,
        run::{Leak, Plan, Room},
        sim::Actor,
    },
    leaks::{Pace, settled},
};

/// Successive lives of a service that leaks from the start of each; none reaches its limit.
fn lives(rng: &mut Rng, lengths: &mut dyn FnMut(&mut Rng) -> f64) -> Plan {
    let mean = lengths(rng);
    let secs = (mean * rng.range(3.0, 6.0)).min(3.0 * DAY);
    // Each life uses a quarter to nine tenths of its headroom.
    let left = rng.log_range(0.1, 4.0) * GIB;
    let rate = left * rng.range(0.25, 0.9) / (mean * 1.3);
    let base = rng.log_range(40.0, 400.0) * MIB;
    let (mut actors, mut born, mut pid) =
        (Vec::new(), f64::NEG_INFINITY, 3_000 + rng.below(20_000) as u32);
    let mut dies = mean * rng.range(0.5, 1.0);
    while !born.is_finite() || born < secs {
        let origin = if born.is_finite() { born } else { 0.0 };
        let life = sum(vec![breathing(rng, base), ramp(origin, rate)]);
        actors.push(
            Actor::new(pid, "billing", "/system.slice/billing.service", life).living(born, dies),
        );
        born = dies + rng.range(1.0, 20.0);
        dies = born + lengths(rng).clamp(mean * 0.4, mean * 1.3);
        pid += 1 + rng.below(900) as u32;
    }
    let leak = Leak { start: 0.0, leaked: ramp(0.0, rate), never_ends: true, due: None };
    let room = Room::Left(left);
    Plan {
        subjects: actors,
        secs,
        leak: Some(leak),
        room,
        interval_secs: None,
        gaps: Vec::new(),
        loss: 0.0,
    }
}

pub(super) fn nightly(rng: &mut Rng) -> Plan {
    let period = rng.pick(&[HOUR, 4.0 * HOUR, 12.0 * HOUR, DAY]);
    lives(rng, &mut |_| period)
}

pub(super) fn crashing(rng: &mut Rng) -> Plan {
    let mean = rng.log_range(30.0 * MINUTE, 12.0 * HOUR);
    lives(rng, &mut |rng| mean * rng.range(0.4, 1.6))
}

/// Master and workers; `leaks` gives each worker's rate.
fn pool(rng: &mut Rng, pace: &Pace, leaks: &dyn Fn(u64) -> f64, workers: u64) -> Plan {
    let base = rng.log_range(20.0, 200.0) * MIB;
    let (comm, cgroup) = rng.pick(&[
        ("gunicorn", "/system.slice/web.service"),
        ("php-fpm", "/system.slice/php-fpm.service"),
        ("puma", "/kubepods.slice/pod-51aa/puma"),
    ]);
    let master = 1_500 + rng.below(20_000) as u32;
    let mut actors: Vec<_> = (0..workers)
        .map(|worker| {
            let anon = sum(vec![breathing(rng, base), ramp(pace.start, leaks(worker))]);
            let mut actor = Actor::new(master + 1 + worker as u32, comm, cgroup, anon);
            (actor.ppid, actor.execs) = (master, false);
            actor
        })
        .collect();
    actors.push(Actor::new(master, comm, cgroup, flat(base / 2.0)));
    let total = (0..workers).map(leaks).sum();
    Plan::leaking(actors, pace.start, pace.secs, pace.left, ramp(pace.start, total))
}

pub(super) fn all_workers(rng: &mut Rng) -> Plan {
    let workers = 4 + rng.below(13);
    let rate = rng.log_range(2e4, 3e6);
    let start = settled(rng);
    let pace = Pace::new(rng, rate, start, HOUR);
    let each = rate / workers as f64;
    // Requests are not spread evenly.
    pool(rng, &pace, &|worker| each * (0.6 + 0.8 * worker as f64 / (workers - 1) as f64), workers)
}

pub(super) fn one_worker(rng: &mut Rng) -> Plan {
    let workers = 8 + rng.below(25);
    let start = settled(rng);
    let pace = Pace::constant(rng, start);
    let guilty = rng.below(workers);
    pool(rng, &pace, &|worker| if worker == guilty { pace.rate } else { 0.0 }, workers)
}

pub(super) fn rolling(rng: &mut Rng) -> Plan {
    let every = rng.log_range(20.0 * MINUTE, 12.0 * HOUR);
    let versions = 3 + rng.below(4);
    let (mut base, tau) = (rng.log_range(60.0, 400.0) * MIB, every * rng.range(0.03, 0.15));
    let mut pid = 4_000 + rng.below(20_000) as u32;
    let mut actors = Vec::new();
    for version in 0..versions {
        let born = if version == 0 { f64::NEG_INFINITY } else { version as f64 * every };
        // The old process drains for a while beside the new one.
        let dies = (version + 1) as f64 * every + rng.range(5.0, 60.0);
        let warm = saturating(born.max(-every), base * rng.range(0.3, 1.0), tau);
        let anon = sum(vec![breathing(rng, base), warm]);
        actors.push(
            Actor::new(pid, "checkout", "/kubepods.slice/pod-c4/checkout", anon).living(born, dies),
        );
        pid += 1 + rng.below(300) as u32;
        base *= rng.range(1.0, 1.12);
    }
    Plan::healthy(rng, actors, versions as f64 * every)
}

/// Short processes in sequence, with one pid or new ones, of equal or growing size.
fn series(rng: &mut Rng, secs: f64, lanes: u64, growing: bool, one_pid: bool) -> Plan {
    let (comm, cgroup) = if one_pid {
        ("convert", "/system.slice/thumbs.service")
    } else {
        ("cc1plus", "/user.slice/build")
    };
    let size = rng.log_range(20.0, 300.0) * MIB;
    let life = rng.log_range(8.0, 90.0);
    let mut pid = 5_000 + rng.below(10_000) as u32;
    let mut actors = Vec::new();
    for lane in 0..lanes {
        let mut t = rng.range(0.0, life);
        while t < secs {
            let lives = life * rng.range(0.3, 2.0);
            let height = size * rng.range(0.3, 1.0) * if growing { 0.3 + t / secs } else { 1.0 };
            let anon: Curve =
                at_most(since(t, ramp(0.0, height / (lives * rng.range(0.5, 1.5)))), height);
            let anon = sum(vec![flat(3.0 * MIB), anon, noise(rng.bits(), 2.0, height / 50.0)]);
            let mut actor = Actor::new(pid, comm, cgroup, anon).living(t, t + lives);
            if one_pid {
                let start_ticks = actor.id.start_ticks + lane;
                actor.id = ProcessId { pid: 4_242, start_ticks };
            }
            actors.push(actor);
            pid += 1;
            t += lives + if one_pid { rng.range(0.0, 3.0) } else { rng.log_range(0.5, 60.0) };
        }
    }
    Plan::healthy(rng, actors, secs)
}

pub(super) fn pid_reuse(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(HOUR, 3.0 * HOUR);
    series(rng, secs, 1, true, true)
}

pub(super) fn churn(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(30.0 * MINUTE, 2.0 * HOUR);
    let lanes = 2 + rng.below(5);
    series(rng, secs, lanes, false, false)
}
