//! Overloads because load increases: ramps, steps, closed loops, retries, and backlogs that are too
//! small.

use super::{
    super::{
        line::Line,
        plan::{Loop, Plan, Scarce, Shape, Source, Spacing},
    },
    draw::{Server, backlog, plan, poisson, regular},
};
use crate::corpus::rng::Rng;

/// Limit on simulated connections in the overloaded part of a run.
const CONNECTIONS: f64 = 250_000.0;

/// Length of the healthy time before: minutes, or one if simulating them takes long.
pub(super) fn ahead(rng: &mut Rng, capacity: f64) -> f64 {
    let most = (CONNECTIONS / capacity).clamp(40.0, 240.0);
    rng.range(most / 2.0, most).round()
}

/// Length of an overload whose load exceeds the capacity by the share `excess`: three times as long
/// as it takes until chance cannot explain it (a drift of six standard deviations), and at least
/// half a minute unless connections are many.
pub(super) fn lasts(rng: &mut Rng, capacity: f64, excess: f64) -> f64 {
    let detectable = 36.0 * (2.0 + excess) / (excess * excess * capacity);
    let least = (CONNECTIONS / capacity / (1.0 + excess)).clamp(10.0, 30.0);
    (3.0 * detectable).clamp(least, 400.0) * rng.range(1.0, 1.5)
}

/// Rates over time: `healthy` until `from`, then following `points`, and in half of the runs
/// healthy again at `to`.
fn rates(rng: &mut Rng, healthy: f64, from: f64, points: &[(f64, f64)], to: f64) -> (Line, f64) {
    let last = points.last().map_or(healthy, |point| point.1);
    let mut line = vec![(from, healthy)];
    line.extend_from_slice(points);
    line.push((to, last));
    let recovers = rng.chance(0.5);
    if recovers {
        line.push((to, healthy));
    }
    (Line::through(line), if recovers { to + 30.0 } else { to })
}

pub(super) fn linear_ramp(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    let (c, healthy, peak) = (server.capacity, rng.range(0.2, 0.8), rng.range(1.2, 2.0));
    let (from, over) = (ahead(rng, c), rng.range(5.0, 60.0));
    let to = from + over + lasts(rng, c, peak - 1.0);
    let points = [(from, c), (from + over, c * peak)];
    let (rate, secs) = rates(rng, c * healthy, from, &points, to);
    let limit = backlog(rng, server.depth(healthy, from, 1.0));
    plan(rng, server.socket(), poisson(rate), secs, limit)
}

pub(super) fn compound_ramp(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let (c, healthy, peak) = (server.capacity, rng.range(0.2, 0.7), rng.range(1.2, 2.0));
    let (from, over) = (ahead(rng, c), rng.range(5.0, 60.0));
    let to = from + over + lasts(rng, c, peak - 1.0);
    // Clients tell their friends: growth proportional to the present load.
    let point = |step: u32| {
        let done = f64::from(step) / 8.0;
        (from + done * over, c * libm::exp(done * libm::log(peak)))
    };
    let points: Vec<_> = (0..=8).map(point).collect();
    let (rate, secs) = rates(rng, c * healthy, from, &points, to);
    let most = rng.pick(&[2, 4, 6]);
    let source = Source {
        rate,
        spacing: Spacing::Poisson,
        clump: [1, most],
        spread_secs: rng.range(0.0, 0.02),
    };
    let limit = backlog(rng, server.depth(healthy, from, f64::from(most)));
    plan(rng, server.socket(), source, secs, limit)
}

fn step(rng: &mut Rng, server: Server, healthy: f64, source: fn(Line) -> Source) -> Plan {
    let (c, peak) = (server.capacity, rng.range(1.2, 3.0));
    let from = ahead(rng, c);
    let to = from + lasts(rng, c, peak - 1.0);
    let (rate, secs) = rates(rng, c * healthy, from, &[(from, c * peak)], to);
    let limit = backlog(rng, server.depth(healthy, from, 1.0));
    plan(rng, server.socket(), source(rate), secs, limit)
}

pub(super) fn poisson_step(rng: &mut Rng) -> Plan {
    let (server, healthy) = (Server::pool(rng), rng.range(0.1, 0.8));
    step(rng, server, healthy, poisson)
}

pub(super) fn regular_step(rng: &mut Rng) -> Plan {
    // A balancer that loses one of its servers moves its load to this one.
    let (server, healthy) = (Server::event_loop(rng), rng.range(0.3, 0.8));
    step(rng, server, healthy, regular)
}

/// Wait in a queue of constant depth, in seconds.
fn flat_wait(rng: &mut Rng) -> f64 {
    rng.log_range(0.015, 0.4)
}

pub(super) fn flat_loop(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    let (c, healthy) = (server.capacity, rng.range(0.1, 0.4));
    let from = ahead(rng, c);
    // A job with many connections that never pause.
    let clients = (flat_wait(rng) * c).clamp(3.0, 2_000.0) as u32 + 1;
    let to = from + lasts(rng, c, 0.3).max(2_600.0 / c);
    let need = server.depth(healthy, to, 1.0).max(f64::from(clients) * 1.2 + 10.0);
    let limit = backlog(rng, need);
    let secs = to + 30.0;
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(c * healthy)), secs, limit);
    plan.loops.push(Loop { clients, from, to, think_secs: 0.0 });
    plan
}

pub(super) fn flat_pool(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let (c, service) = (server.capacity, f64::from(server.workers) / server.capacity);
    let think = service * rng.log_range(1.0, 30.0);
    let demand = |load: f64| ((load * c * (think + service)).round() as u32).max(1);
    let healthy = demand(rng.range(0.3, 0.6));
    let from = ahead(rng, c);
    // Clients beyond the capacity, so that the rest waits.
    let more =
        demand(1.0) - healthy.min(demand(1.0)) + (flat_wait(rng) * c).clamp(3.0, 2_000.0) as u32;
    let to = from + lasts(rng, c, 0.3).max(2_600.0 / c);
    let limit = backlog(rng, f64::from(healthy + more) * 1.1 + 5.0);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(0.0)), to, limit);
    plan.loops.push(Loop { clients: healthy, from: 0.0, to, think_secs: think });
    let stages = rng.pick(&[1, 2, 4]);
    for stage in 0..stages {
        let clients = more * (stage + 1) / stages - more * stage / stages;
        plan.loops.push(Loop {
            clients,
            from: from + 3.0 * f64::from(stage),
            to,
            think_secs: think,
        });
    }
    plan
}

/// Server whose queue is longer than its clients' patience.
fn impatient(rng: &mut Rng) -> (Server, f64, f64, u32) {
    let server = Server::pool(rng);
    let server = server.of(rng.pick(&[200.0, 400.0, 1_000.0]));
    let patience = rng.range(0.5, 2.0);
    let healthy = rng.range(0.5, 0.75);
    let limit = backlog(
        rng,
        (server.capacity * patience * 1.3).min(4_000.0).max(server.depth(healthy, 400.0, 1.0)),
    );
    (server, patience, healthy, limit)
}

pub(super) fn storm_after_slowdown(rng: &mut Rng) -> Plan {
    let (server, patience, healthy, limit) = impatient(rng);
    let (from, spell, factor) =
        (ahead(rng, server.capacity), rng.range(5.0, 15.0), rng.range(2.5, 6.0));
    let mut socket = server.socket();
    socket.slow = Line::spell(1.0, from, from + spell, factor);
    let source = poisson(Line::flat(server.capacity * healthy));
    let mut plan = plan(rng, socket, source, from + spell + 30.0, limit);
    plan.patience_secs = Some(patience);
    plan
}

pub(super) fn storm_after_crowd(rng: &mut Rng) -> Plan {
    let (server, patience, healthy, limit) = impatient(rng);
    let (c, from, spell) = (server.capacity, ahead(rng, server.capacity), rng.range(5.0, 15.0));
    let rate = Line::spell(c * healthy, from, from + spell, c * rng.range(1.5, 3.0));
    let mut plan = plan(rng, server.socket(), poisson(rate), from + spell + 30.0, limit);
    plan.patience_secs = Some(patience);
    plan
}

/// Backlogs of 1 to 5 on servers so fast that waits are short.
fn small(rng: &mut Rng) -> (Server, u32, f64) {
    let server = Server::new(rng, 1, Shape::Exponential);
    let server = server.of(rng.pick(&[200.0, 1_000.0, 4_000.0]));
    (server, rng.pick(&[1, 2, 3, 5]), 0.01 * server.capacity)
}

pub(super) fn small_backlog(rng: &mut Rng) -> Plan {
    let (server, limit, quiet) = small(rng);
    let from = ahead(rng, server.capacity);
    let load = rng.range(0.5, 0.85);
    let secs = from + 60.0;
    let mut plan = plan(rng, server.socket(), regular(Line::flat(quiet)), secs, limit);
    plan.sources.push(poisson(Line::step(0.0, from, server.capacity * load)));
    plan.scarce = Scarce::Backlog;
    plan
}

pub(super) fn small_backlog_clumps(rng: &mut Rng) -> Plan {
    let (server, limit, quiet) = small(rng);
    let from = ahead(rng, server.capacity);
    // A browser opens about six at once.
    let rate = Line::step(0.0, from, rng.range(0.05, 0.3) * server.capacity);
    let most = limit + rng.pick(&[6, 8, 12]);
    let clumps = Source {
        rate,
        spacing: Spacing::Poisson,
        clump: [4, most],
        spread_secs: rng.range(0.0, 0.004),
    };
    let mut plan = plan(rng, server.socket(), regular(Line::flat(quiet)), from + 60.0, limit);
    plan.sources.push(clumps);
    plan.scarce = Scarce::Backlog;
    plan
}
