//! Growth caused by the kernel, or that only appears as growth: huge pages, copy-on-write, file
//! pages, swap, sleep, lost scans.

use super::{
    super::{
        curve::{
            Curve, DAY, HOUR, MIB, MINUTE, at_most, breathing, day_wave, flat, in_steps, noise,
            ramp, saturating, sawtooth, since, sum,
        },
        rng::Rng,
        run::Plan,
        sim::Actor,
    },
    leaks::{service, started},
};

const HUGE: f64 = 2.0 * MIB;

fn one(parts: Vec<Curve>, secs: f64, rng: &mut Rng) -> Plan {
    let subject = service(rng, sum(parts));
    Plan::healthy(rng, vec![subject], secs)
}

pub(super) fn huge_fault(rng: &mut Rng) -> Plan {
    let over = rng.log_range(MINUTE, 3.0 * HOUR);
    let (base, size) = (rng.log_range(20.0, 200.0) * MIB, rng.log_range(64.0, 4_000.0) * MIB);
    let touched = in_steps(saturating(rng.range(0.0, 30.0), size, over / 3.0), HUGE);
    let parts = vec![breathing(rng, base), touched];
    let mut subject = started(rng, parts);
    subject.mapped_bytes = base + size;
    let secs = subject.born + over * rng.range(2.0, 4.0);
    Plan::healthy(rng, vec![subject], secs)
}

pub(super) fn khugepaged(rng: &mut Rng) -> Plan {
    // By default 4,096 pages are scanned every 10 s, so at most 8 huge pages are made; sparse ones
    // add memory that was not there before.
    let sparse = rng.range(0.1, 0.6);
    let base = rng.log_range(100.0, 2_000.0) * MIB;
    let rate = rng.range(0.5, 8.0) * HUGE * sparse / 10.0;
    let grown = in_steps(at_most(ramp(rng.range(60.0, 900.0), rate), base * sparse), HUGE);
    let parts = vec![breathing(rng, base), grown];
    let mut plan = one(parts, 900.0 + base * sparse / rate * rng.range(2.0, 4.0), rng);
    // All of it was mapped long ago, which is why there are holes to fill.
    plan.subjects[0].mapped_bytes = base * (1.0 + sparse) * 1.02;
    plan
}

pub(super) fn cow_workers(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(2.0 * MINUTE, 4.0 * HOUR);
    let size = rng.log_range(40.0, 600.0) * MIB;
    let master = 2_000 + rng.below(20_000) as u32;
    let secs = tau * rng.range(5.0, 8.0);
    let born = rng.range(5.0, 60.0);
    let mut actors = vec![Actor::new(master, "unicorn", "/system.slice/shop.service", flat(size))];
    for worker in 0..2 + rng.below(7) {
        // From the start, a child counts its parent's pages as its own, as fork() does. When it
        // writes to them they are copied, which costs the host memory and shows in no counter of
        // the process. It also allocates memory of its own.
        let (copied, own) = (rng.range(0.2, 0.7), rng.range(0.05, 0.4));
        let wrote = since(born, saturating(0.0, size * copied, tau * rng.range(0.7, 1.3)));
        let added = since(born, saturating(0.0, size * own, tau * rng.range(0.7, 1.3)));
        let anon = sum(vec![breathing(rng, size), added]);
        let mut wrote = wrote;
        let mut actor =
            Actor::new(master + 1 + worker as u32, "unicorn", "/system.slice/shop.service", anon);
        (actor.ppid, actor.execs) = (master, false);
        actor.shared = Box::new(move |t| size - wrote(t));
        actors.push(actor.living(born + worker as f64 * 0.4, f64::INFINITY));
    }
    Plan::healthy(rng, actors, secs)
}

pub(super) fn cow_snapshot(rng: &mut Rng) -> Plan {
    let every = rng.log_range(5.0 * MINUTE, 2.0 * HOUR);
    let snapshots = 4 + rng.below(6);
    let size = rng.log_range(200.0, 6_000.0) * MIB;
    let parent = 2_000 + rng.below(20_000) as u32;
    let cgroup = "/system.slice/redis.service";
    let store = breathing(rng, size);
    let mut actors = vec![Actor::new(parent, "redis-server", cgroup, store)];
    for snapshot in 0..snapshots {
        let born = (snapshot as f64 + 0.5) * every;
        let lasts = every * rng.range(0.1, 0.6);
        let mut copied = since(born, saturating(0.0, size * rng.range(0.1, 0.6), lasts));
        let anon = sum(vec![flat(size), ramp(born, size * 0.02 / lasts)]);
        let mut actor =
            Actor::new(parent + 11 + snapshot as u32 * 17, "redis-server", cgroup, anon);
        (actor.ppid, actor.execs) = (parent, false);
        actor.shared = Box::new(move |t| size - copied(t));
        actors.push(actor.living(born, born + lasts));
    }
    Plan::healthy(rng, actors, snapshots as f64 * every)
}

fn with_file(rng: &mut Rng, file: Curve, secs: f64) -> Plan {
    let base = rng.log_range(30.0, 600.0) * MIB;
    let anon = breathing(rng, base);
    let subject = service(rng, anon).file(file);
    Plan::healthy(rng, vec![subject], secs)
}

pub(super) fn page_cache(rng: &mut Rng) -> Plan {
    let (secs, rate) = (rng.log_range(HOUR, DAY), rng.log_range(1e4, 1e6));
    // Rotated logs: mapped growth, then a new file.
    let file = sum(vec![flat(10.0 * MIB), sawtooth(rng.bits(), secs / 3.0, rate * secs / 3.0)]);
    with_file(rng, file, secs)
}

pub(super) fn leak_shaped_cache(rng: &mut Rng) -> Plan {
    let (secs, rate) = (rng.log_range(HOUR, 2.0 * DAY), rng.log_range(1e4, 1e6));
    with_file(rng, ramp(0.0, rate), secs)
}

pub(super) fn mapped_index(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(10.0 * MINUTE, 4.0 * HOUR);
    let file = saturating(0.0, rng.log_range(200.0, 20_000.0) * MIB, tau);
    with_file(rng, file, tau * 5.0)
}

pub(super) fn mapped_database(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(2.0 * HOUR, 2.0 * DAY);
    let size = rng.log_range(500.0, 40_000.0) * MIB;
    let scan = at_most(ramp(secs * 0.1, size / secs * 1.5), size);
    let file = sum(vec![scan, noise(rng.bits(), 20.0 * MINUTE, size * 0.02)]);
    with_file(rng, file, secs)
}

pub(super) fn lossy(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(30.0 * MINUTE, 12.0 * HOUR);
    let base = rng.log_range(50.0, 800.0) * MIB;
    let teeth = sawtooth(rng.bits(), rng.log_range(5.0, 10.0 * MINUTE), base * rng.range(0.1, 0.8));
    let parts = vec![breathing(rng, base), teeth];
    Plan { loss: rng.range(0.2, 0.45), ..one(parts, secs, rng) }
}

pub(super) fn suspend(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(10.0 * MINUTE, 4.0 * HOUR);
    let secs = tau * rng.range(8.0, 14.0);
    let mut gaps = Vec::new();
    let mut t = 200.0 + tau * rng.range(0.3, 1.0);
    while t < secs {
        let to = t + tau * rng.log_range(0.2, 3.0);
        gaps.push((t, to));
        t = to + tau * rng.range(0.5, 3.0);
    }
    // The process sleeps too: its own time excludes the gaps.
    let slept = gaps.clone();
    let base = rng.log_range(50.0, 500.0) * MIB;
    let mut fill = saturating(0.0, rng.log_range(50.0, 3_000.0) * MIB, tau);
    let born = rng.range(20.0, 200.0);
    let awake: Curve = Box::new(move |t| {
        fill(t - born - slept.iter().map(|(from, to)| (t.min(*to) - from).max(0.0)).sum::<f64>())
    });
    let anon = sum(vec![breathing(rng, base), awake]);
    let subject = service(rng, anon).living(born, f64::INFINITY);
    Plan { gaps, ..Plan::healthy(rng, vec![subject], secs) }
}

pub(super) fn swapped(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(2.0 * HOUR, 2.0 * DAY);
    let base = rng.log_range(100.0, 2_000.0) * MIB;
    let (mut wave, deepest) = (day_wave(rng.unit()), rng.range(0.2, 0.7));
    let stretch = DAY / secs * rng.range(1.0, 4.0);
    let anon = breathing(rng, base);
    let mut subject = service(rng, anon);
    subject.swapped = Box::new(move |t| deepest * (wave(t * stretch) - 0.2));
    Plan::healthy(rng, vec![subject], secs)
}

pub(super) fn steady(rng: &mut Rng) -> Plan {
    let base = rng.log_range(10.0, 3_000.0) * MIB;
    let parts = vec![breathing(rng, base)];
    let secs = rng.range(3.0, 7.0) * DAY;
    one(parts, secs, rng)
}
