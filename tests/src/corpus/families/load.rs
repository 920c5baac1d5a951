//! Healthy memory that follows load and is given back with it, or at the end.

use super::{
    super::{
        curve::{
            Curve, DAY, HOUR, MIB, MINUTE, at_most, breathing, bursts, day_wave, high_water, noise,
            office_hours, ramp, sawtooth, scaled, since, sum,
        },
        rng::Rng,
        run::Plan,
        sim::Actor,
    },
    leaks::{connections, service},
};

fn one(parts: Vec<Curve>, secs: f64, rng: &mut Rng) -> Plan {
    let subject = service(rng, sum(parts));
    Plan::healthy(rng, vec![subject], secs)
}

/// Healthy plan with the connections that a load brings.
fn loaded(parts: Vec<Curve>, load: Curve, secs: f64, rng: &mut Rng) -> Plan {
    let mut plan = one(parts, secs, rng);
    plan.subjects[0].fds = connections(rng, load);
    plan
}

/// Load that climbs from a fifth to its maximum and stays there.
fn rising(from: f64, over: f64) -> Curve {
    Box::new(move |t| 0.2 + 0.8 * ((t - from) / over).clamp(0.0, 1.0))
}

pub(super) fn go_gc(rng: &mut Rng) -> Plan {
    let over = rng.log_range(5.0 * MINUTE, 6.0 * HOUR);
    let live = rng.log_range(40.0, 1_000.0) * MIB;
    let (period, seed, base) =
        (rng.log_range(2.0, 90.0), rng.bits(), rng.log_range(20.0, 100.0) * MIB);
    let (from, mut set) = (over * 0.2, rising(over * 0.2, over));
    // GOGC=100: the heap climbs to twice the live set before it is collected.
    let mut teeth = sawtooth(seed, period, 1.0);
    let heap: Curve = Box::new(move |t| live * set(t) * (1.0 + teeth(t)));
    let parts = vec![breathing(rng, base), heap];
    loaded(parts, rising(from, over), from + over * rng.range(3.0, 5.0), rng)
}

pub(super) fn node_gc(rng: &mut Rng) -> Plan {
    let over = rng.log_range(5.0 * MINUTE, 6.0 * HOUR);
    let base = rng.log_range(50.0, 400.0) * MIB;
    let young = sawtooth(rng.bits(), rng.log_range(1.0, 8.0), rng.pick(&[16.0, 32.0, 64.0]) * MIB);
    let old =
        sawtooth(rng.bits(), rng.log_range(MINUTE, 30.0 * MINUTE), base * rng.range(0.2, 0.8));
    let old = scaled(old, rising(over * 0.3, over));
    let (mut kept, height) = (rising(over * 0.3, over), base * rng.range(0.3, 1.5));
    let parts =
        vec![breathing(rng, base), young, old, Box::new(move |t| height * kept(t)) as Curve];
    loaded(parts, rising(over * 0.3, over), over * rng.range(3.0, 5.0), rng)
}

fn daily(rng: &mut Rng, load: fn(f64) -> Curve, phase: f64) -> Plan {
    let base = rng.log_range(60.0, 1_500.0) * MIB;
    let swing = base * rng.log_range(0.1, 1.5);
    let wobble = noise(rng.bits(), rng.range(2.0, 20.0) * MINUTE, swing * 0.05);
    let mut now = load(phase);
    let parts = vec![breathing(rng, base), wobble, Box::new(move |t| swing * now(t)) as Curve];
    let secs = rng.range(1.5, 4.0) * DAY;
    loaded(parts, load(phase), secs, rng)
}

pub(super) fn wave(rng: &mut Rng) -> Plan {
    let phase = rng.unit();
    daily(rng, day_wave, phase)
}

pub(super) fn office(rng: &mut Rng) -> Plan {
    let phase = rng.range(0.0, 7.0);
    daily(rng, office_hours, phase)
}

pub(super) fn cron(rng: &mut Rng) -> Plan {
    let period = rng.pick(&[5.0 * MINUTE, 15.0 * MINUTE, HOUR, 6.0 * HOUR]);
    let busy = period * rng.log_range(0.02, 0.5);
    let base = rng.log_range(20.0, 300.0) * MIB;
    let swell = bursts(rng.bits(), period, busy, rng.log_range(30.0, 2_000.0) * MIB);
    let parts = vec![breathing(rng, base), swell];
    one(parts, period * rng.range(6.0, 12.0), rng)
}

pub(super) fn batch(rng: &mut Rng) -> Plan {
    let busy = rng.log_range(3.0 * MINUTE, 1.5 * HOUR);
    let period = busy * rng.range(1.5, 4.0);
    let (jobs, loads) = (3 + rng.below(4), rng.range(0.05, 0.3));
    let mut pid = 4_000 + rng.below(20_000) as u32;
    // Each job is a process: it reads its table, works on it and ends. Sizes of tables and lengths
    // differ by up to a third.
    let height = rng.log_range(60.0, 6_000.0) * MIB;
    let mut actors = Vec::new();
    for job in 0..jobs {
        let born = (job as f64 + rng.range(0.05, 0.2)) * period;
        let size = height * rng.range(0.67, 1.0);
        let table = at_most(ramp(0.0, size / (busy * loads)), size);
        let base = rng.log_range(20.0, 60.0) * MIB;
        let anon = since(born, sum(vec![breathing(rng, base), table, breathing(rng, size * 0.02)]));
        let lasts = busy * rng.range(0.67, 1.0);
        actors.push(
            Actor::new(pid, "report", "/system.slice/report.service", anon)
                .living(born, born + lasts),
        );
        pid += 1 + rng.below(300) as u32;
    }
    Plan::healthy(rng, actors, jobs as f64 * period)
}

/// Old process that loads a large amount once, in a straight line, and keeps it.
pub(super) fn import(rng: &mut Rng) -> Plan {
    let (fills, start) =
        (rng.log_range(2.0 * MINUTE, 3.0 * HOUR), rng.log_range(20.0 * MINUTE, 3.0 * HOUR));
    let capacity = rng.log_range(50.0, 8_000.0) * MIB;
    let base = rng.log_range(20.0, 200.0) * MIB;
    let parts = vec![breathing(rng, base), at_most(ramp(start, capacity / fills), capacity)];
    one(parts, start + fills * rng.range(2.0, 4.0), rng)
}

/// Old process that builds a table in a straight line and frees it, for the first time under watch.
pub(super) fn first_job(rng: &mut Rng) -> Plan {
    let (busy, start) =
        (rng.log_range(3.0 * MINUTE, 3.0 * HOUR), rng.log_range(20.0 * MINUTE, 3.0 * HOUR));
    let height = rng.log_range(60.0, 6_000.0) * MIB;
    let base = rng.log_range(20.0, 200.0) * MIB;
    let table: Curve = Box::new(move |t| {
        if (start..start + busy).contains(&t) { height * (t - start) / busy } else { 0.0 }
    });
    let parts = vec![breathing(rng, base), table];
    one(parts, start + busy * rng.range(1.5, 3.0), rng)
}

pub(super) fn arena_connections(rng: &mut Rng) -> Plan {
    let over = rng.log_range(10.0 * MINUTE, 12.0 * HOUR);
    let base = rng.log_range(40.0, 400.0) * MIB;
    let each = rng.log_range(0.05, 1.0) * MIB;
    let connections = rng.log_range(50.0, 2_000.0);
    // Connections fluctuate around a level that rises to the day's maximum; their memory is not
    // given back.
    let (seed, every) = (rng.bits(), rng.range(5.0, 120.0));
    let now = || {
        sum(vec![
            at_most(ramp(over * 0.2, connections / over), connections),
            noise(seed, every, connections * 0.05),
        ])
    };
    let (mut open, mut most) = (now(), high_water(now()));
    let parts = vec![breathing(rng, base), Box::new(move |t| most(t).floor() * each) as Curve];
    let mut plan = one(parts, over * rng.range(3.0, 5.0), rng);
    plan.subjects[0].fds = Box::new(move |t| 12.0 + open(t).floor());
    plan
}
