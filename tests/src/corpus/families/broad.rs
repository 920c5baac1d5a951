//! Leaks and look-alikes on hosts of any size: what the other families, whose hosts are as small as
//! their subjects allow, have too little of.
//!
//! The host is drawn first, from 2 to 512 GiB, and half of the subjects have a limit of their own.
//! Leaks begin with the process, before the agent, or after quiet times of minutes to hours. What
//! is healthy is met at any phase. A leak is due once it has taken 64 MiB, or half of its process's
//! size if that is more, after a minute at least and a day at most; 25 minutes later if the time
//! before it was not seen.

use super::{
    super::{
        curve::{
            Curve, DAY, GIB, HOUR, KIB, MIB, MINUTE, at_most, breathing, flat, high_water, noise,
            purges, ramp, saturating, sawtooth, since, stairs, sum,
        },
        rng::Rng,
        run::{Leak, Plan, Room},
        sim::Actor,
    },
    leaks::{connections, service},
};

/// Least and greatest time from a leak's start until it is due, and the time that an unseen start
/// adds.
const DUE_SECS: [f64; 2] = [MINUTE, DAY];
const UNSEEN_SECS: f64 = 25.0 * MINUTE;

/// Least that a leak has taken when it is due.
const DUE_BYTES: f64 = 64.0 * MIB;

/// Host of any size, of which a part is in use.
fn host(rng: &mut Rng, gib_min: f64, max_bytes: f64) -> Room {
    let sizes = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
    let from = sizes.iter().position(|gib| *gib >= gib_min).unwrap_or(sizes.len() - 1);
    Room::Host {
        total_bytes: rng.pick(&sizes[from..]) * GIB,
        used_share: rng.range(0.1, 0.5),
        restless_share: rng.log_range(0.001, 0.02),
        max_bytes: rng.chance(0.5).then_some(max_bytes),
    }
}

/// Leak of a steady rate in a process of `size` bytes, that began `ago` before the run if that is
/// positive.
struct Steady {
    start: f64,
    ago: f64,
    rate: f64,
    size: f64,
    unseen: bool,
}

impl Steady {
    fn due(&self) -> f64 {
        let takes = DUE_BYTES.max(self.size / 2.0) / self.rate;
        let more = if self.unseen { UNSEEN_SECS } else { 0.0 };
        self.start + takes.clamp(DUE_SECS[0], DUE_SECS[1]) + more
    }

    fn plan(self, rng: &mut Rng, mut subject: Actor) -> Plan {
        let (start, rate, due) = (self.start, self.rate, self.due());
        subject.anon = sum(vec![subject.anon, ramp(start - self.ago, rate)]);
        let secs = start + (due - start) * 1.3 + 5.0 * MINUTE;
        let taken = rate * (secs - start + self.ago) + self.size;
        // The limit is beyond what is due, so that the leak is not over before.
        let room = host(rng, 3.0 * taken / GIB, 2.5 * taken);
        Plan {
            subjects: vec![subject],
            secs,
            leak: Some(Leak { start, leaked: ramp(start, rate), never_ends: true, due: Some(due) }),
            room,
            interval_secs: None,
            gaps: Vec::new(),
            loss: 0.0,
        }
    }
}

fn healthy(rng: &mut Rng, subject: Actor, secs: f64, most: f64) -> Plan {
    let max = most * rng.range(1.2, 3.0);
    let room = host(rng, 3.0 * most / GIB, max);
    Plan { room, ..Plan::healthy(rng, vec![subject], secs) }
}

fn size(rng: &mut Rng) -> f64 {
    rng.log_range(15.0, 600.0) * MIB
}

/// Rate of a leak; half of them are between the usual tens and hundreds of KiB a second.
fn rate(rng: &mut Rng) -> f64 {
    if rng.chance(0.5) { rng.log_range(1e4, 5e5) } else { rng.log_range(2e3, 4e6) }
}

pub(super) fn from_birth(rng: &mut Rng) -> Plan {
    let (born, rate, size) = (rng.range(20.0, 300.0), rate(rng), size(rng));
    let warms = saturating(0.0, size * rng.range(0.0, 0.6), rng.log_range(5.0, 200.0));
    let anon = since(born, sum(vec![breathing(rng, size), warms]));
    let subject = service(rng, anon).living(born, f64::INFINITY);
    Steady { start: born, ago: 0.0, rate, size, unseen: true }.plan(rng, subject)
}

pub(super) fn already_running(rng: &mut Rng) -> Plan {
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

pub(super) fn after_short_quiet(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.range(10.0, 30.0) * MINUTE, rate(rng), size(rng));
    after(rng, quiet, rate, size)
}

pub(super) fn after_long_quiet(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.5, 6.0) * HOUR, rate(rng), size(rng));
    after(rng, quiet, rate, size)
}

/// A collector of some 45 MB that leaks a little more than a megabyte a minute.
pub(super) fn collector(rng: &mut Rng) -> Plan {
    let quiet = rng.range(60.0, 120.0) * MINUTE;
    let (rate, size) = (rng.range(1.0, 1.5) * 1e6 / MINUTE, rng.range(40.0, 50.0) * 1e6);
    after(rng, quiet, rate, size)
}

pub(super) fn megabytes_a_day(rng: &mut Rng) -> Plan {
    let (rate, size) = (rng.range(60.0, 110.0) * 1e6 / DAY, rng.log_range(8.0, 80.0) * MIB);
    after(rng, 2.0 * HOUR, rate, size)
}

pub(super) fn tall_stairs(rng: &mut Rng) -> Plan {
    let (period, step) = (rng.range(2.0, 10.0) * MINUTE, rng.range(8.0, 48.0) * MIB);
    let (start, size, seed) = (rng.range(10.0, 60.0) * MINUTE, size(rng), rng.bits());
    let parts = vec![breathing(rng, size), stairs(seed, start, period, step)];
    let mut subject = service(rng, sum(parts));
    let rate = step / period;
    let steady = Steady { start, ago: 0.0, rate, size, unseen: false };
    // A line says little before its third step.
    let due = steady.due().max(start + 4.0 * period);
    let anon = std::mem::replace(&mut subject.anon, flat(0.0));
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

/// Lives that all climb alike and end at the limit; it is due by the third.
pub(super) fn crash_loop(rng: &mut Rng) -> Plan {
    let life = rng.log_range(3.0, 30.0) * MINUTE;
    let (size, height) = (rng.log_range(10.0, 100.0) * MIB, rng.log_range(64.0, 2_000.0) * MIB);
    let (lives, rate) = (5, height / life);
    let (comm, cgroup) = ("billing", "/kubepods.slice/pod-7a1e/billing");
    let (mut subjects, mut born, mut third) = (Vec::new(), rng.range(-0.9, 0.3) * life, 0.0);
    let mut pid = 3_000 + rng.below(20_000) as u32;
    for nth in 0..lives {
        let dies = born + life * rng.range(0.93, 1.07);
        let starts = if born < 0.0 { f64::NEG_INFINITY } else { born };
        let anon = sum(vec![breathing(rng, size), ramp(born, height / (dies - born))]);
        subjects.push(Actor::new(pid, comm, cgroup, anon).living(starts, dies));
        if nth == 2 {
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

pub(super) fn long_cycles(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(4.0, 120.0) * MINUTE);
    let height = size * rng.log_range(0.2, 4.0);
    let (seed, turns) = (rng.bits(), rng.range(2.5, 8.0));
    let teeth =
        if rng.chance(0.5) { sawtooth(seed, period, height) } else { purges(seed, period, height) };
    let parts = vec![breathing(rng, size), teeth];
    let subject = service(rng, sum(parts));
    healthy(rng, subject, period * turns, size + 2.0 * height)
}

pub(super) fn burst_to_plateau(rng: &mut Rng) -> Plan {
    let size = size(rng);
    let (height, fills) = (size * rng.log_range(0.3, 6.0), rng.log_range(1.0, 12.0) * MINUTE);
    let seen = rng.chance(0.5);
    let born = if seen { rng.range(20.0, 300.0) } else { -rng.range(0.0, 0.9) * fills };
    let parts = vec![breathing(rng, size), at_most(ramp(0.0, height / fills), height)];
    let lives = if seen { born } else { f64::NEG_INFINITY };
    let subject = service(rng, since(born, sum(parts))).living(lives, f64::INFINITY);
    let secs = 3.0 * HOUR;
    healthy(rng, subject, secs, size + height)
}

/// A job that reads its input when the agent starts, works on it, and begins again.
pub(super) fn running_job(rng: &mut Rng) -> Plan {
    let (size, period) = (rng.log_range(10.0, 100.0) * MIB, rng.log_range(10.0, 180.0) * MINUTE);
    let (height, reads) = (rng.log_range(100.0, 6_000.0) * MIB, rng.range(0.1, 0.6));
    let phase = rng.unit() * period;
    let seed = rng.bits();
    let job: Curve = Box::new(move |t| {
        let turns = (t + phase) / period;
        let into = turns - turns.floor();
        let much = 0.8 + 0.2 * super::super::rng::unit_at(seed, turns.floor() as i64);
        if into > 0.95 { 0.0 } else { height * much * (into / reads).min(1.0) }
    });
    let parts = vec![breathing(rng, size), job];
    let subject = service(rng, sum(parts));
    let secs = period * rng.range(2.0, 5.0);
    healthy(rng, subject, secs, size + height)
}

/// Memory that is mapped at the start and filled for up to an hour.
pub(super) fn buffer_pool(rng: &mut Rng) -> Plan {
    let size = rng.log_range(40.0, 400.0) * MIB;
    let (pool, fills) = (rng.log_range(128.0, 16_000.0) * MIB, rng.log_range(5.0, 90.0) * MINUTE);
    let born = rng.range(20.0, 300.0);
    let straight = at_most(ramp(0.0, pool / fills), pool);
    let bent = saturating(0.0, pool, fills / 2.0);
    let parts = vec![breathing(rng, size), if rng.chance(0.5) { straight } else { bent }];
    let mut subject = service(rng, since(born, sum(parts))).living(born, f64::INFINITY);
    subject.mapped_bytes = size * 1.03 + pool;
    healthy(rng, subject, fills * 2.0 + HOUR, size + pool)
}

/// A new release that needs more memory than the one before, and warms up.
pub(super) fn heavier_release(rng: &mut Rng) -> Plan {
    let (size, born) = (size(rng), rng.range(20.0, 600.0));
    let height = size * rng.log_range(0.2, 3.0);
    let warms = saturating(0.0, height, rng.log_range(1.0, 30.0) * MINUTE);
    let teeth = sawtooth(rng.bits(), rng.log_range(3.0, 90.0), size * rng.log_range(0.01, 0.4));
    let parts = vec![breathing(rng, size), warms, teeth];
    let subject = service(rng, since(born, sum(parts))).living(born, f64::INFINITY);
    healthy(rng, subject, 5.0 * HOUR, 2.0 * size + height)
}

/// Memory for each connection; connections come and go over hours, or climb for one.
pub(super) fn for_connections(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(0.5, 12.0) * HOUR);
    let (phase, height) = (rng.unit(), size * rng.log_range(0.2, 3.0));
    let load = move || -> Curve {
        Box::new(move |t| 0.5 - 0.5 * libm::cos(std::f64::consts::TAU * (t / period + phase)))
    };
    let keeps = rng.chance(0.4);
    let mut held = if keeps { high_water(load()) } else { load() };
    let parts = vec![breathing(rng, size), Box::new(move |t| height * held(t)) as Curve];
    let mut subject = service(rng, sum(parts));
    subject.fds = connections(rng, load());
    let secs = period * rng.range(1.0, 2.5);
    healthy(rng, subject, secs, size + height)
}

/// Noise alone: a sawtooth of seconds, slow swings, counters.
pub(super) fn restless(rng: &mut Rng) -> Plan {
    let size = size(rng);
    let teeth = sawtooth(rng.bits(), rng.log_range(2.0, 200.0), size * rng.log_range(0.01, 1.5));
    let swings = noise(rng.bits(), rng.log_range(60.0, 7_200.0), size * rng.log_range(0.01, 0.3));
    let counters = noise(rng.bits(), 2.0, rng.log_range(16.0, 2_048.0) * KIB);
    let parts = vec![flat(size * 1.3), teeth, swings, counters];
    let subject = service(rng, sum(parts));
    let secs = rng.log_range(2.0, 20.0) * HOUR;
    healthy(rng, subject, secs, 4.0 * size)
}
