//! Healthy programs on hosts of any size.

use super::{
    super::super::{
        curve::{
            Curve, HOUR, KIB, MIB, MINUTE, at_most, breathing, flat, high_water, in_steps,
            logarithmic, noise, purges, ramp, saturating, sawtooth, since, sum,
        },
        rng::Rng,
        run::Plan,
        sim::Actor,
    },
    connections, healthy, service, size,
};

pub(in super::super) fn long_cycles(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(4.0, 120.0) * MINUTE);
    let height = size * rng.log_range(0.2, 4.0);
    let (seed, turns) = (rng.bits(), rng.range(2.5, 8.0));
    let teeth =
        if rng.chance(0.5) { sawtooth(seed, period, height) } else { purges(seed, period, height) };
    let parts = vec![breathing(rng, size), teeth];
    let past = period * rng.log_range(0.3, 20.0);
    let subject = service(rng, sum(parts)).remembering(past);
    healthy(rng, subject, period * turns, size + 2.0 * height)
}

pub(in super::super) fn burst_to_plateau(rng: &mut Rng) -> Plan {
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
pub(in super::super) fn running_job(rng: &mut Rng) -> Plan {
    let (size, period) = (rng.log_range(10.0, 100.0) * MIB, rng.log_range(10.0, 180.0) * MINUTE);
    let (height, reads) = (rng.log_range(100.0, 6_000.0) * MIB, rng.range(0.1, 0.6));
    let phase = rng.unit() * period;
    let seed = rng.bits();
    let job: Curve = Box::new(move |t| {
        let turns = (t + phase) / period;
        let into = turns - turns.floor();
        let much = 0.8 + 0.2 * super::super::super::rng::unit_at(seed, turns.floor() as i64);
        if into > 0.95 { 0.0 } else { height * much * (into / reads).min(1.0) }
    });
    let parts = vec![breathing(rng, size), job];
    let past = period * rng.range(0.5, 4.0);
    let subject = service(rng, sum(parts)).remembering(past);
    let secs = period * rng.range(2.0, 5.0);
    healthy(rng, subject, secs, size + height)
}

/// Memory that is mapped at the start and filled for up to an hour.
pub(in super::super) fn buffer_pool(rng: &mut Rng) -> Plan {
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
pub(in super::super) fn heavier_release(rng: &mut Rng) -> Plan {
    let (size, born) = (size(rng), rng.range(20.0, 600.0));
    let height = size * rng.log_range(0.2, 3.0);
    let warms = saturating(0.0, height, rng.log_range(1.0, 30.0) * MINUTE);
    let teeth = sawtooth(rng.bits(), rng.log_range(3.0, 90.0), size * rng.log_range(0.01, 0.4));
    let parts = vec![breathing(rng, size), warms, teeth];
    let subject = service(rng, since(born, sum(parts))).living(born, f64::INFINITY);
    healthy(rng, subject, 5.0 * HOUR, 2.0 * size + height)
}

/// Memory for each connection; connections come and go over hours, or climb for one.
pub(in super::super) fn for_connections(rng: &mut Rng) -> Plan {
    let (size, period) = (size(rng), rng.log_range(0.5, 12.0) * HOUR);
    let (phase, height) = (rng.unit(), size * rng.log_range(0.2, 3.0));
    let load = move || -> Curve {
        Box::new(move |t| 0.5 - 0.5 * libm::cos(std::f64::consts::TAU * (t / period + phase)))
    };
    let keeps = rng.chance(0.4);
    let mut held = if keeps { high_water(load()) } else { load() };
    let parts = vec![breathing(rng, size), Box::new(move |t| height * held(t)) as Curve];
    let past = rng.log_range(0.1, 20.0) * period;
    let mut subject = service(rng, sum(parts)).remembering(past);
    subject.fds = connections(rng, load());
    let secs = period * rng.range(1.0, 2.5);
    healthy(rng, subject, secs, size + height)
}

/// Noise alone: a sawtooth of seconds, slow swings, counters.
pub(in super::super) fn restless(rng: &mut Rng) -> Plan {
    let size = size(rng);
    let teeth = sawtooth(rng.bits(), rng.log_range(2.0, 200.0), size * rng.log_range(0.01, 1.5));
    let swings = noise(rng.bits(), rng.log_range(60.0, 7_200.0), size * rng.log_range(0.01, 0.3));
    let counters = noise(rng.bits(), 2.0, rng.log_range(16.0, 2_048.0) * KIB);
    let parts = vec![flat(size * 1.3), teeth, swings, counters];
    let past = rng.log_range(0.1, 50.0) * HOUR;
    let subject = service(rng, sum(parts)).remembering(past);
    let secs = rng.log_range(2.0, 20.0) * HOUR;
    healthy(rng, subject, secs, 4.0 * size)
}

/// Start that is born under watch or some of the way through, of a curve in its own time.
fn met_anywhere(rng: &mut Rng, parts: Vec<Curve>, lasts: f64) -> Actor {
    if rng.chance(0.6) {
        let born = rng.range(20.0, 300.0);
        service(rng, since(born, sum(parts))).living(born, f64::INFINITY)
    } else {
        let born = -rng.unit() * lasts;
        service(rng, since(born, sum(parts)))
    }
}

/// A cache that fills ever more slowly, by misses, over minutes to hours.
pub(in super::super) fn warm_cache(rng: &mut Rng) -> Plan {
    let (size, tau) = (size(rng), rng.log_range(1.0, 240.0) * MINUTE);
    let height = size * rng.log_range(0.3, 8.0);
    let parts = vec![breathing(rng, size), saturating(0.0, height, tau)];
    let subject = met_anywhere(rng, parts, tau);
    let secs = tau * rng.range(3.0, 6.0) + HOUR;
    healthy(rng, subject, secs, size + height)
}

/// Fragmentation: growth with the logarithm of time.
pub(in super::super) fn log_growth(rng: &mut Rng) -> Plan {
    let (size, tau) = (size(rng), rng.log_range(0.5, 20.0) * MINUTE);
    let scale = size * rng.log_range(0.02, 0.3);
    let teeth = sawtooth(rng.bits(), rng.log_range(2.0, 90.0), size * rng.log_range(0.005, 0.2));
    let parts = vec![breathing(rng, size), logarithmic(0.0, scale, tau), teeth];
    let subject = met_anywhere(rng, parts, HOUR);
    let secs = rng.log_range(2.0, 16.0) * HOUR;
    healthy(rng, subject, secs, size + 10.0 * scale)
}

/// Boot that reads its data in a straight line, for up to twenty minutes.
pub(in super::super) fn straight_boot(rng: &mut Rng) -> Plan {
    let (size, fills) = (size(rng), rng.log_range(0.2, 20.0) * MINUTE);
    let height = size * rng.log_range(0.5, 20.0);
    let parts = vec![breathing(rng, size), at_most(ramp(0.0, height / fills), height)];
    let born = rng.range(20.0, 300.0);
    let subject = service(rng, since(born, sum(parts))).living(born, f64::INFINITY);
    healthy(rng, subject, fills + 3.0 * HOUR, size + height)
}

/// Buffers in shared memory of a size that is mapped at the start, touched page by page as the
/// load reads them in; another process may have been charged for some.
pub(in super::super) fn shared_buffers(rng: &mut Rng) -> Plan {
    let size = rng.log_range(10.0, 60.0) * MIB;
    let (pool, fills) = (rng.log_range(64.0, 16_000.0) * MIB, rng.log_range(2.0, 90.0) * MINUTE);
    let born = if rng.chance(0.6) { rng.range(20.0, 300.0) } else { -rng.unit() * fills };
    let straight = at_most(ramp(0.0, pool / fills), pool);
    let bent = saturating(0.0, pool, fills / 2.0);
    let own = vec![breathing(rng, size)];
    let mut subject = service(rng, sum(own));
    if born > 0.0 {
        subject = subject.living(born, f64::INFINITY);
    }
    subject.shmem = since(born, if rng.chance(0.6) { straight } else { bent });
    healthy(rng, subject, fills * 2.0 + HOUR, size + pool)
}

/// A runtime warms up: code and tables in steps ever more seldom, arenas thread by thread, young
/// collections on top.
pub(in super::super) fn runtime_warm_up(rng: &mut Rng) -> Plan {
    let (size, tau) = (size(rng), rng.log_range(1.0, 40.0) * MINUTE);
    let region = rng.pick(&[MIB, 2.0 * MIB, 4.0 * MIB, 16.0 * MIB]);
    let settled = size * rng.log_range(0.2, 3.0);
    let old = in_steps(saturating(0.0, settled, tau), region);
    let code = logarithmic(0.0, size * rng.log_range(0.005, 0.05), MINUTE);
    let young = sawtooth(rng.bits(), rng.log_range(1.0, 60.0), size * rng.log_range(0.05, 0.6));
    let parts = vec![breathing(rng, size), old, code, young];
    let subject = met_anywhere(rng, parts, tau);
    healthy(rng, subject, tau * 5.0 + 2.0 * HOUR, 3.0 * size + settled)
}
