//! Memory that is charged to a cgroup and that none of its processes holds: leaks, and what looks
//! like one.
//!
//! The hosts are those of [`super::broad`], and so is the time by which a leak is due. The processes
//! of a cgroup go on as others do: they breathe, and collect garbage, on top of what they leave
//! behind. A cgroup without such memory is charged with that of its processes alone.

use super::{
    super::{
        curve::{
            Curve, HOUR, KIB, MIB, MINUTE, at_most, breathing, flat, noise, purges, ramp,
            saturating, sawtooth, since, sum,
        },
        rng::Rng,
        run::Plan,
        sim::{Actor, Beside},
    },
    broad::{Steady, healthy, rate, size},
    leaks::{connections, service},
};

/// Process under a sawtooth, which says nothing about what it leaves behind.
fn worker(rng: &mut Rng, size: f64) -> Actor {
    let teeth = sawtooth(rng.bits(), rng.log_range(2.0, 120.0), size * rng.log_range(0.01, 1.0));
    let parts = vec![breathing(rng, size), teeth];
    service(rng, sum(parts))
}

/// Part of a cgroup's memory that leaks.
#[derive(Clone, Copy, PartialEq)]
enum Leaking {
    Files,
    Kernel,
}

/// Leak in one part, from the start of the process, from before the agent's, or after a quiet time.
fn leak(rng: &mut Rng, part: Leaking) -> Plan {
    let (rate, size, held) = (rate(rng), size(rng), rng.log_range(4.0, 200.0) * MIB);
    let mut subject = worker(rng, size);
    // The size that counts is that of the part.
    let steady = Steady { start: 0.0, ago: 0.0, rate, size: held, unseen: true };
    let steady = match rng.below(3) {
        0 => {
            let born = rng.range(20.0, 300.0);
            let anon = std::mem::replace(&mut subject.anon, flat(0.0));
            subject.anon = since(born, anon);
            subject = subject.living(born, f64::INFINITY);
            Steady { start: born, ..steady }
        }
        1 => {
            let ago = rng.log_range(10.0 * MINUTE, 10.0 * HOUR);
            Steady { ago, size: held + rate * ago, ..steady }
        }
        _ => Steady { start: rng.log_range(0.2, 6.0) * HOUR, unseen: false, ..steady },
    };
    let from = steady.start - steady.ago;
    let wobble = noise(rng.bits(), rng.log_range(5.0, 600.0), held * rng.log_range(0.001, 0.05));
    let grows = sum(vec![flat(held), wobble, ramp(from, rate)]);
    let steadily = sum(vec![flat(held), noise(rng.bits(), 300.0, held / 20.0)]);
    let (files, kernel) = match part {
        Leaking::Files => (grows, flat(rng.log_range(2.0, 40.0) * MIB)),
        Leaking::Kernel => (steadily, grows),
    };
    let anon = std::mem::replace(&mut subject.anon, flat(0.0));
    // The limit must leave room for the process as well.
    let steady = Steady { size: steady.size + 2.0 * size, ..steady };
    let due = Steady { size: steady.size - 2.0 * size, ..steady }.due();
    let mut plan = steady.plan(rng, subject);
    plan.subjects[0].anon = anon;
    plan.subjects[0].beside = Some(Beside { files, kernel });
    if let Some(leak) = &mut plan.leak {
        leak.due = Some(due);
    }
    plan
}

pub(super) fn files_left(rng: &mut Rng) -> Plan {
    leak(rng, Leaking::Files)
}

pub(super) fn kernel_memory(rng: &mut Rng) -> Plan {
    leak(rng, Leaking::Kernel)
}

/// Healthy run of a process with memory beside it, which is at most `most`.
fn beside(rng: &mut Rng, mut subject: Actor, part: Beside, secs: f64, most: f64) -> Plan {
    subject.beside = Some(part);
    healthy(rng, subject, secs, most)
}

pub(super) fn tmpfs_cache(rng: &mut Rng) -> Plan {
    let (size, cache) = (size(rng), rng.log_range(32.0, 4_000.0) * MIB);
    let (fills, start) = (rng.log_range(0.5, 15.0) * MINUTE, rng.range(-5.0, 40.0) * MINUTE);
    let straight = at_most(ramp(start, cache / fills), cache);
    let filled: Curve =
        if rng.chance(0.5) { straight } else { since(start, saturating(0.0, cache, fills / 2.0)) };
    // Entries come and go once it is full.
    let files = sum(vec![filled, noise(rng.bits(), rng.log_range(5.0, 900.0), cache / 50.0)]);
    let kernel = flat(rng.log_range(2.0, 40.0) * MIB);
    let subject = worker(rng, size);
    beside(rng, subject, Beside { files, kernel }, 4.0 * HOUR, 2.2 * size + 1.1 * cache)
}

pub(super) fn temporary_files(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(0.5, 15.0) * MINUTE);
    let height = rng.log_range(16.0, 2_000.0) * MIB;
    let seed = rng.bits();
    let files =
        if rng.chance(0.5) { sawtooth(seed, period, height) } else { purges(seed, period, height) };
    let kernel = sum(vec![flat(8.0 * MIB), noise(rng.bits(), 30.0, 512.0 * KIB)]);
    let subject = worker(rng, size);
    let secs = (period * rng.range(6.0, 40.0)).max(HOUR);
    beside(rng, subject, Beside { files, kernel }, secs, 2.2 * size + 2.0 * height)
}

pub(super) fn shared_buffers(rng: &mut Rng) -> Plan {
    let size = size(rng);
    let (pool, fills) = (rng.log_range(128.0, 16_000.0) * MIB, rng.log_range(5.0, 90.0) * MINUTE);
    let born = rng.range(20.0, 300.0);
    let mapped = || saturating(0.0, pool, fills / 2.0);
    let anon = sum(vec![breathing(rng, size)]);
    let mut subject = service(rng, since(born, anon)).living(born, f64::INFINITY);
    subject.shmem = since(born, mapped());
    let part = Beside { files: flat(2.0 * MIB), kernel: flat(12.0 * MIB) };
    beside(rng, subject, part, fills * 2.0 + HOUR, size + pool)
}

pub(super) fn connection_buffers(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(0.5, 12.0) * HOUR);
    let (phase, most) = (rng.unit(), rng.log_range(8.0, 400.0) * MIB);
    let load = move || -> Curve {
        Box::new(move |t| 0.5 - 0.5 * libm::cos(std::f64::consts::TAU * (t / period + phase)))
    };
    let mut follows = load();
    let kernel = sum(vec![flat(4.0 * MIB), Box::new(move |t| most * follows(t)) as Curve]);
    let mut subject = worker(rng, size);
    subject.fds = connections(rng, load());
    let secs = period * rng.range(1.0, 2.5);
    beside(rng, subject, Beside { files: flat(MIB), kernel }, secs, 2.2 * size + most)
}

/// A process that leaks by itself; its page tables grow with it.
pub(super) fn process_beside(rng: &mut Rng) -> Plan {
    let (quiet, rate, size) = (rng.log_range(0.5, 6.0) * HOUR, rate(rng), size(rng));
    let parts = vec![breathing(rng, size)];
    let subject = service(rng, sum(parts));
    let steady = Steady { start: quiet, ago: 0.0, rate, size, unseen: false };
    let mut plan = steady.plan(rng, subject);
    let tables = sum(vec![flat(4.0 * MIB), ramp(quiet, rate / 200.0)]);
    plan.subjects[0].beside = Some(Beside { files: flat(8.0 * MIB), kernel: tables });
    plan
}
