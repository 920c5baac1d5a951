//! Leaks, by the circumstances in which they are met.

mod birth;
mod fast_and_slow;
mod lives;
mod pools;
mod quiet;
mod running;
mod shared;
mod swings;

use crate::corpus::rng::Rng;
use crate::independent::{
    Mechanism,
    programs::{KINDS, Kind, Program, cgroup},
    shapes::{KIB, MIB},
};

pub(super) use pools::jobs;

/// Groups of leaking mechanisms.
pub(in crate::independent) const GROUPS: &[&[Mechanism]] = &[
    birth::MECHANISMS,
    running::MECHANISMS,
    quiet::MECHANISMS,
    swings::MECHANISMS,
    fast_and_slow::MECHANISMS,
    pools::MECHANISMS,
    shared::MECHANISMS,
    lives::MECHANISMS,
];

/// Name of the service that a run is about.
fn name(rng: &mut Rng) -> &'static str {
    rng.pick(&["api", "orders", "ingest", "billing", "search", "mailer", "sync", "gateway"])
}

/// Bytes that a leak in this program must take until it is due.
fn need(program: &Program) -> f64 {
    (64.0 * MIB).max(0.5 * program.bound)
}

/// Rate between these bounds in bytes a second at which a leak is due after `least` to `most`
/// seconds.
fn rate(
    rng: &mut Rng,
    program: &Program,
    (low, high): (f64, f64),
    (least, most): (f64, f64),
) -> f64 {
    let need = need(program);
    let (low, high) = (low.max(need / most), high.min(need / least));
    if low < high { rng.log_range(low, high) } else { low.min(need / least) }
}

/// Service of any kind that was born at `born`.
fn service(rng: &mut Rng, born: f64) -> Program {
    let kind = rng.pick(&KINDS);
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    let group = cgroup(rng, name);
    let swing = rng.log_range(0.03, 0.6);
    kind.program(rng, (&group, comm), born, bytes, swing)
}

/// Service whose collector or allocator moves by `swing` of its size.
fn service_of(rng: &mut Rng, kind: Kind, born: f64, swing: f64) -> Program {
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    let group = cgroup(rng, name);
    kind.program(rng, (&group, comm), born, bytes, swing)
}

/// Rates from half a kilobyte to fifty megabytes a second.
const ANY: (f64, f64) = (0.5 * KIB, 50.0 * MIB);
