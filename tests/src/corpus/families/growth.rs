//! Healthy growth that begins with the process and ends or slows down: caches, warm-up of runtimes,
//! fragmentation, deploys, arenas.

use super::{
    super::{
        curve::{
            Curve, DAY, HOUR, MIB, MINUTE, at_most, breathing, high_water, in_steps, logarithmic,
            ramp, saturating, sawtooth, since, stairs, sum,
        },
        rng::Rng,
        run::Plan,
    },
    leaks::started,
};

fn one(parts: Vec<Curve>, secs: f64, rng: &mut Rng) -> Plan {
    let subject = started(rng, parts);
    let secs = subject.born + secs;
    Plan::healthy(rng, vec![subject], secs)
}

pub(super) fn lru_fill(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(2.0 * MINUTE, 6.0 * HOUR);
    let capacity = rng.log_range(50.0, 8_000.0) * MIB;
    let base = rng.log_range(20.0, 200.0) * MIB;
    let parts = vec![breathing(rng, base), saturating(0.0, capacity, tau)];
    one(parts, tau * rng.range(6.0, 10.0), rng)
}

pub(super) fn bulk_fill(rng: &mut Rng) -> Plan {
    // Longer starts are unrealistic: supervisors give up before.
    let fills = rng.log_range(10.0, 20.0 * MINUTE);
    let capacity = rng.log_range(50.0, 8_000.0) * MIB;
    let base = rng.log_range(20.0, 200.0) * MIB;
    let start = rng.range(0.5, 10.0);
    let parts = vec![breathing(rng, base), at_most(ramp(start, capacity / fills), capacity)];
    one(parts, fills * rng.range(3.0, 6.0) + 30.0 * MINUTE, rng)
}

pub(super) fn dotnet(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(2.0 * MINUTE, HOUR);
    let cores = rng.pick(&[2.0, 4.0, 8.0, 16.0]);
    let (base, settled) = (rng.log_range(40.0, 150.0) * MIB, rng.log_range(60.0, 900.0) * MIB);
    // Each core's generation 0 budget is some MiB; generation 2 settles; regions are committed in 4
    // MiB.
    let young = sawtooth(rng.bits(), rng.log_range(2.0, 30.0), cores * rng.range(2.0, 8.0) * MIB);
    let old = in_steps(saturating(0.0, settled, tau), 4.0 * MIB);
    let parts = vec![breathing(rng, base), young, old];
    one(parts, tau * rng.range(6.0, 12.0), rng)
}

pub(super) fn jvm(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(2.0 * MINUTE, HOUR);
    let heap_max = rng.log_range(256.0, 8_192.0) * MIB;
    // The old generation fills between full collections, and committed memory is not given back up
    // to -Xmx.
    let live = saturating(0.0, heap_max * rng.range(0.3, 0.7), tau);
    let teeth = sawtooth(rng.bits(), rng.log_range(5.0, 120.0), heap_max * rng.range(0.1, 0.4));
    let region = (heap_max / 128.0).max(MIB);
    let heap = in_steps(at_most(high_water(sum(vec![live, teeth])), heap_max), region);
    let metaspace = saturating(0.0, rng.log_range(40.0, 250.0) * MIB, tau * 0.7);
    let code = logarithmic(0.0, rng.range(4.0, 12.0) * MIB, tau / 4.0);
    let base = rng.range(40.0, 90.0) * MIB;
    let parts = vec![breathing(rng, base), heap, metaspace, code];
    one(parts, tau * rng.range(6.0, 12.0), rng)
}

pub(super) fn fragmentation_steps(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(2.0 * HOUR, 2.0 * DAY);
    let base = rng.log_range(80.0, 1_500.0) * MIB;
    let grown =
        logarithmic(0.0, base * rng.log_range(0.03, 0.15), secs / rng.log_range(20.0, 200.0));
    let chunk = rng.pick(&[1.0, 2.0, 4.0, 16.0]) * MIB;
    let parts = vec![breathing(rng, base), in_steps(grown, chunk)];
    one(parts, secs, rng)
}

pub(super) fn fragmentation_log(rng: &mut Rng) -> Plan {
    let secs = rng.log_range(2.0 * HOUR, 2.5 * DAY);
    let base = rng.log_range(80.0, 1_500.0) * MIB;
    let grown =
        logarithmic(0.0, base * rng.log_range(0.03, 0.15), secs / rng.log_range(20.0, 500.0));
    let parts = vec![breathing(rng, base), grown];
    one(parts, secs, rng)
}

pub(super) fn lazy_deploy(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(10.0 * MINUTE, 5.0 * HOUR);
    let base = rng.log_range(60.0, 500.0) * MIB;
    let (modules, seed, rare) = (rng.range(8.0, 40.0), rng.bits(), base * rng.range(0.2, 0.8));
    // Modules are loaded in order of frequency: stairs on a saturating clock.
    let mut steps = stairs(seed, 0.0, 1.0, rare / modules);
    let mut clock = saturating(0.0, modules, tau);
    let parts = vec![breathing(rng, base), Box::new(move |t| steps(clock(t))) as Curve];
    one(parts, tau * rng.range(5.0, 9.0), rng)
}

pub(super) fn arena_pool(rng: &mut Rng) -> Plan {
    let threads = rng.pick(&[8.0, 16.0, 32.0, 64.0, 128.0]);
    let every = rng.log_range(2.0, 5.0 * MINUTE);
    let base = rng.log_range(40.0, 300.0) * MIB;
    let arena = rng.log_range(0.5, 16.0) * MIB;
    let (seed, from) = (rng.bits(), rng.range(0.0, 300.0));
    let pool = || at_most(stairs(seed, from, every, arena), threads * arena);
    let parts = vec![breathing(rng, base), pool()];
    let mut plan = one(parts, 300.0 + every * threads * rng.range(2.5, 5.0), rng);
    let mut running = since(plan.subjects[0].born, pool());
    plan.subjects[0].threads = Box::new(move |t| 4.0 + (running(t) / arena).floor());
    plan
}
