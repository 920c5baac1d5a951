//! Leaks and look-alikes on hosts of any size: what the other families, whose hosts are as small as
//! their subjects allow, have too little of.
//!
//! The host is drawn first, from 2 to 512 GiB, and half of the subjects have a limit of their own.
//! Leaks begin with the process, before the agent, or after quiet times of minutes to hours. What
//! is healthy is met at any phase. In half of the runs the kernel's record of each process's peak
//! is known. A leak is due once it has taken 64 MiB, or half of its process's size if that is more,
//! after a minute at least and a day at most; 25 minutes later if the time before it was not seen.

mod healthy;
mod leaks;

pub(super) use self::{healthy::*, leaks::*};
use super::{
    super::{
        curve::{DAY, GIB, HOUR, MIB, MINUTE, ramp, sum},
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

/// Length of a run from which it is scanned every five seconds, so that a score takes minutes.
const LONG_SECS: f64 = 6.0 * HOUR;

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

fn interval(secs: f64) -> Option<f64> {
    (secs > LONG_SECS).then_some(5.0)
}

/// Leak of a steady rate in a process of `size` bytes, that began `ago` before the run if that is
/// positive.
pub(super) struct Steady {
    pub(super) start: f64,
    pub(super) ago: f64,
    pub(super) rate: f64,
    pub(super) size: f64,
    pub(super) unseen: bool,
}

impl Steady {
    pub(super) fn due(&self) -> f64 {
        let takes = DUE_BYTES.max(self.size / 2.0) / self.rate;
        let more = if self.unseen { UNSEEN_SECS } else { 0.0 };
        self.start + takes.clamp(DUE_SECS[0], DUE_SECS[1]) + more
    }

    pub(super) fn plan(self, rng: &mut Rng, mut subject: Actor) -> Plan {
        let (start, rate, due) = (self.start, self.rate, self.due());
        subject.anon = sum(vec![subject.anon, ramp(start - self.ago, rate)]);
        let secs = start + (due - start) * 1.3 + 5.0 * MINUTE;
        let taken = rate * (secs - start + self.ago) + 1.5 * self.size;
        // The limit is beyond what is due, so that the leak is not over before.
        let room = host(rng, 3.0 * taken / GIB, 2.5 * taken);
        Plan {
            subjects: vec![subject],
            secs,
            leak: Some(Leak { start, leaked: ramp(start, rate), never_ends: true, due: Some(due) }),
            room,
            interval_secs: interval(secs),
            gaps: Vec::new(),
            loss: 0.0,
        }
    }
}

pub(super) fn healthy(rng: &mut Rng, subject: Actor, secs: f64, most: f64) -> Plan {
    let max = most * rng.range(1.2, 3.0);
    let room = host(rng, 3.0 * most / GIB, max);
    Plan { room, interval_secs: interval(secs), ..Plan::healthy(rng, vec![subject], secs) }
}

pub(super) fn size(rng: &mut Rng) -> f64 {
    rng.log_range(15.0, 600.0) * MIB
}

/// Rate of a leak; half of them are between the usual tens and hundreds of KiB a second.
pub(super) fn rate(rng: &mut Rng) -> f64 {
    if rng.chance(0.5) { rng.log_range(1e4, 5e5) } else { rng.log_range(2e3, 4e6) }
}
