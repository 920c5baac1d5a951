//! Leaks on hosts of any size.

use super::{
    super::super::{
        curve::{
            Curve, DAY, GIB, HOUR, KIB, MIB, MINUTE, at_most, breathing, day_wave, flat, in_steps,
            integral, logarithmic, noise, ramp, saturating, sawtooth, scaled, since, stairs, sum,
        },
        rng::Rng,
        run::{Leak, Plan, Room},
        sim::Actor,
    },
    Steady, connections, host, rate, service, size,
};

/// Pace of a leak from birth, and a size of which it takes at least two fifths in a day.
fn pace_and_size(rng: &mut Rng) -> (f64, f64) {
    let rate = if rng.chance(0.6) { rng.log_range(5e3, 2e6) } else { rng.log_range(500.0, 5e7) };
    let most = (rate * DAY / 0.4).clamp(20.0 * MIB, 3.0 * GIB);
    (rate, rng.log_range(8.0 * MIB, most))
}

/// Start of a program of some size: tables read in, then what its first requests make it keep.
fn start_up(rng: &mut Rng, size: f64) -> Vec<Curve> {
    let loaded = size * rng.range(0.3, 0.9);
    let boots = rng.log_range(2.0, 180.0);
    let boot = at_most(ramp(0.0, loaded / boots), loaded);
    let warms = saturating(0.0, size - loaded, rng.log_range(5.0, 300.0));
    vec![breathing(rng, size * 0.05), boot, warms]
}

fn from_birth_with(rng: &mut Rng, more: fn(&mut Rng, f64) -> Vec<Curve>) -> Plan {
    let (born, (rate, size)) = (rng.range(20.0, 300.0), pace_and_size(rng));
    let mut parts = start_up(rng, size);
    parts.extend(more(rng, size));
    let subject = service(rng, since(born, sum(parts))).living(born, f64::INFINITY);
    Steady { start: born, ago: 0.0, rate, size, unseen: true }.plan(rng, subject)
}

pub(in super::super) fn from_birth(rng: &mut Rng) -> Plan {
    from_birth_with(rng, |_, _| Vec::new())
}

pub(in super::super) fn from_birth_under_teeth(rng: &mut Rng) -> Plan {
    from_birth_with(rng, |rng, size| {
        let period = rng.log_range(2.0, 180.0);
        vec![sawtooth(rng.bits(), period, size * rng.log_range(0.05, 0.8))]
    })
}

/// A cache warms up for an hour or so, and an allocator keeps a bit more and more seldom, beside a
/// leak.
pub(in super::super) fn from_birth_beside_cache(rng: &mut Rng) -> Plan {
    from_birth_with(rng, |rng, size| {
        let cache = saturating(0.0, size * rng.range(0.1, 0.5), rng.log_range(2.0, 40.0) * MINUTE);
        let kept = logarithmic(0.0, size * rng.log_range(0.003, 0.02), MINUTE);
        vec![cache, kept]
    })
}

/// A leak of shared memory, in ever more segments, in a process that has long been steady.
pub(in super::super) fn shared(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.5, 4.0) * HOUR, rate(rng), size(rng));
    let mut plan = after(rng, quiet, rate, size);
    let subject = &mut plan.subjects[0];
    let step = rng.pick(&[64.0 * KIB, MIB, 4.0 * MIB]);
    subject.shmem = in_steps(ramp(quiet, rate), step);
    subject.anon = breathing(rng, size);
    plan
}

/// Such a leak in memory that all workers of a pool map: each shows all of it, one is charged.
pub(in super::super) fn shared_by_workers(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.5, 4.0) * HOUR, rate(rng), size(rng));
    let mut plan = after(rng, quiet, rate, size);
    let step = rng.pick(&[64.0 * KIB, MIB, 4.0 * MIB]);
    let first = &plan.subjects[0];
    let (pid, comm, cgroup) = (first.id.pid, first.comm.clone(), first.cgroup.clone());
    plan.subjects = (0..rng.below(14) as u32 + 2)
        .map(|nth| {
            let anon = breathing(rng, size / 4.0);
            let mut worker = Actor::new(pid + nth, &comm, &cgroup, anon);
            worker.shmem = in_steps(ramp(quiet, rate), step);
            worker.shmem_charged = nth == 0;
            worker
        })
        .collect();
    plan
}

/// A leak on each request, whose number changes from minute to minute, from birth or after a while.
pub(in super::super) fn by_requests(rng: &mut Rng) -> Plan {
    let (births, seed) = (rng.chance(0.6), rng.bits());
    let (rate, size) = if births { pace_and_size(rng) } else { (rate(rng), size(rng)) };
    let start = if births { rng.range(20.0, 300.0) } else { rng.log_range(0.3, 3.0) * HOUR };
    let (period, swing) = (rng.log_range(0.2, 20.0) * MINUTE, rng.range(0.2, 0.8));
    let load = || sum(vec![flat(1.0), noise(seed, period, swing)]);
    let leaked = |from: f64| integral(from, rate, load());
    let parts = if births { start_up(rng, size) } else { vec![breathing(rng, size)] };
    let mut subject = service(rng, flat(0.0));
    if births {
        subject = subject.living(start, f64::INFINITY);
    }
    let mut plan = Steady { start, ago: 0.0, rate, size, unseen: births }.plan(rng, subject);
    let rest = if births { since(start, sum(parts)) } else { sum(parts) };
    plan.subjects[0].anon = sum(vec![rest, leaked(start)]);
    if let Some(leak) = &mut plan.leak {
        leak.leaked = leaked(start);
    }
    plan
}

/// A leak after a while, beside memory that follows a daily load and its connections.
pub(in super::super) fn under_daily_load(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.3, 3.0) * HOUR, rng.log_range(5e3, 3e5), size(rng));
    let (phase, swings) = (rng.unit(), size * rng.log_range(0.02, 0.3));
    let parts = vec![breathing(rng, size), scaled(flat(swings), day_wave(phase))];
    let mut subject = service(rng, sum(parts));
    subject.fds = connections(rng, day_wave(phase));
    Steady { start: quiet, ago: 0.0, rate, size: size + swings, unseen: false }.plan(rng, subject)
}

pub(in super::super) fn already_running(rng: &mut Rng) -> Plan {
    let (rate, size) = (rate(rng), size(rng));
    let ago = rng.log_range(10.0 * MINUTE, 10.0 * HOUR);
    let teeth = sawtooth(rng.bits(), rng.log_range(2.0, 60.0), size * rng.log_range(0.001, 0.3));
    let parts = vec![breathing(rng, size), teeth];
    let subject = service(rng, sum(parts));
    let now = size + rate * ago;
    Steady { start: 0.0, ago, rate, size: now, unseen: true }.plan(rng, subject)
}

/// Steady for so long, then leaks.
fn after(rng: &mut Rng, quiet: f64, rate: f64, size: f64) -> Plan {
    let parts = vec![breathing(rng, size)];
    let subject = service(rng, sum(parts));
    Steady { start: quiet, ago: 0.0, rate, size, unseen: false }.plan(rng, subject)
}

pub(in super::super) fn after_short_quiet(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.range(10.0, 30.0) * MINUTE, rate(rng), size(rng));
    after(rng, quiet, rate, size)
}

pub(in super::super) fn after_long_quiet(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.5, 6.0) * HOUR, rate(rng), size(rng));
    after(rng, quiet, rate, size)
}

/// A collector of some 45 MB that leaks a little more than a megabyte a minute.
pub(in super::super) fn collector(rng: &mut Rng) -> Plan {
    let quiet = rng.range(60.0, 120.0) * MINUTE;
    let (rate, size) = (rng.range(1.0, 1.5) * 1e6 / MINUTE, rng.range(40.0, 50.0) * 1e6);
    after(rng, quiet, rate, size)
}

pub(in super::super) fn megabytes_a_day(rng: &mut Rng) -> Plan {
    let (rate, size) = (rng.range(60.0, 110.0) * 1e6 / DAY, rng.log_range(8.0, 80.0) * MIB);
    after(rng, 2.0 * HOUR, rate, size)
}

/// Stairs, from birth or after a while.
pub(in super::super) fn tall_stairs(rng: &mut Rng) -> Plan {
    let (period, step) = (rng.range(2.0, 10.0) * MINUTE, rng.range(8.0, 48.0) * MIB);
    let (size, seed, births) = (size(rng), rng.bits(), rng.chance(0.4));
    let start = if births { rng.range(20.0, 300.0) } else { rng.range(10.0, 60.0) * MINUTE };
    let mut parts = if births { start_up(rng, size) } else { vec![breathing(rng, size)] };
    parts.push(stairs(seed, 0.0, period, step));
    // Before it starts its process is only the base.
    let anon = if births {
        since(start, sum(parts))
    } else {
        parts.pop();
        sum(vec![sum(parts), stairs(seed, start, period, step)])
    };
    let mut subject = service(rng, flat(0.0));
    if births {
        subject = subject.living(start, f64::INFINITY);
    }
    let rate = step / period;
    let steady = Steady { start, ago: 0.0, rate, size, unseen: births };
    // A line says little before its third step.
    let due = steady.due().max(start + 4.0 * period);
    let mut plan = steady.plan(rng, subject);
    plan.subjects[0].anon = anon;
    plan.secs = due * 1.3 + 5.0 * MINUTE;
    plan.leak = Some(Leak {
        start,
        leaked: stairs(seed, start, period, step),
        never_ends: true,
        due: Some(due),
    });
    plan
}

/// Lives that all climb alike and end at the limit; it is due by the third that began under watch.
pub(in super::super) fn crash_loop(rng: &mut Rng) -> Plan {
    let life = rng.log_range(3.0, 30.0) * MINUTE;
    let (size, height) = (rng.log_range(10.0, 100.0) * MIB, rng.log_range(64.0, 2_000.0) * MIB);
    let (lives, rate) = (6, height / life);
    let (comm, cgroup) = ("billing", "/kubepods.slice/pod-7a1e/billing");
    let (mut subjects, mut born, mut third) = (Vec::new(), rng.range(-0.9, 0.3) * life, 0.0);
    let mut pid = 3_000 + rng.below(20_000) as u32;
    let mut seen = 0;
    for _ in 0..lives {
        let dies = born + life * rng.range(0.93, 1.07);
        let starts = if born < 0.0 { f64::NEG_INFINITY } else { born };
        let anon = sum(vec![breathing(rng, size), ramp(born, height / (dies - born))]);
        subjects.push(Actor::new(pid, comm, cgroup, anon).living(starts, dies));
        seen += u32::from(born >= 0.0);
        if seen == 3 && third == 0.0 {
            third = dies;
        }
        pid += 1 + rng.below(50) as u32;
        born = dies + rng.log_range(1.0, 40.0);
    }
    let most = size * 1.03 + height;
    let Room::Host { total_bytes, used_share, restless_share, .. } =
        host(rng, 3.0 * most / GIB, most)
    else {
        unreachable!("a host has no other room")
    };
    let room = Room::Host { total_bytes, used_share, restless_share, max_bytes: Some(most) };
    Plan {
        subjects,
        secs: born,
        // The successor is there by then, and has shown that it climbs as well.
        leak: Some(Leak {
            start: 0.0,
            leaked: ramp(0.0, rate),
            never_ends: true,
            due: Some(third + MINUTE),
        }),
        room,
        interval_secs: None,
        gaps: Vec::new(),
        loss: 0.0,
    }
}
