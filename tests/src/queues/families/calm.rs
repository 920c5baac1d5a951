//! Healthy load: steady, in bursts, in waves, on the minute, all at once, and almost none.

use super::{
    super::{
        line::Line,
        plan::{Burst, Loop, Plan, Shape, Source, Spacing},
    },
    draw::{Server, backlog, healthy_secs, plan, poisson, regular},
};
use crate::corpus::rng::Rng;

/// Maximum time to work off a healthy burst. A guess.
const WORKED_OFF_SECS: f64 = 20.0;

fn steady(rng: &mut Rng, server: Server, source: fn(Line) -> Source) -> Plan {
    let load = rng.range(0.1, 0.8);
    let rate = server.capacity * load;
    let secs = healthy_secs(rate);
    let limit = backlog(rng, server.depth(load, secs, 1.0));
    plan(rng, server.socket(), source(Line::flat(rate)), secs, limit)
}

pub(super) fn steady_loop(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    steady(rng, server, poisson)
}

pub(super) fn steady_pool(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    steady(rng, server, poisson)
}

/// Bursts on top of a steady load, as large as the backlog holds; `apart` and `spread` give their
/// distance and length.
fn bursting(rng: &mut Rng, apart: [f64; 2], spread: [f64; 2], sequel: u32) -> Plan {
    let server = if rng.chance(0.5) { Server::event_loop(rng) } else { Server::pool(rng) };
    let load = rng.range(0.1, 0.8);
    let (rate, left) = (server.capacity * load, server.capacity * (1.0 - load));
    let secs = healthy_secs(rate);
    let chance = server.depth(load, secs, 1.0);
    let limit = backlog(rng, chance + 6.0);
    let room = f64::from(limit) - chance - server.capacity * load * spread[1];
    let most = room.min(left * WORKED_OFF_SECS).max(2.0) / f64::from(sequel);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), secs, limit);
    let mut t = rng.range(0.2, 1.0) * apart[0];
    while t < secs - WORKED_OFF_SECS * 1.5 {
        let spread_secs = rng.range(spread[0], spread[1]);
        for one in 0..sequel {
            let count = rng.log_range(2.0, most.max(2.5)) as u32;
            plan.bursts.push(Burst { t: t + 0.1 * f64::from(one), count, spread_secs });
        }
        // The next burst comes after this one is worked off.
        t += (room / left * 2.0).min(WORKED_OFF_SECS * 2.0) + rng.range(apart[0], apart[1]);
    }
    plan
}

pub(super) fn burst_at_once(rng: &mut Rng) -> Plan {
    bursting(rng, [5.0, 60.0], [0.0, 0.01], 1)
}

pub(super) fn burst_spread(rng: &mut Rng) -> Plan {
    let sequel = rng.pick(&[1, 1, 2]);
    bursting(rng, [3.0, 30.0], [0.02, 0.1], sequel)
}

/// Crowd that arrives at some time, stays for some, and fits the server's capacity.
fn crowd(rng: &mut Rng, server: Server, over: f64, clump: u32) -> Plan {
    let (c, after) = (server.capacity, rng.range(0.6, 0.8));
    let secs = healthy_secs(0.5 * c);
    let (from, to) = (secs * rng.range(0.2, 0.5), secs * rng.range(0.7, 1.2));
    let points = vec![(from, 0.2 * c), (from + over, after * c), (to, after * c), (to, 0.2 * c)];
    let limit = backlog(rng, server.depth(after, secs, f64::from(clump)));
    let source = Source {
        rate: Line::through(points),
        spacing: Spacing::Poisson,
        clump: [1, clump],
        spread_secs: if clump > 1 { 0.01 } else { 0.0 },
    };
    plan(rng, server.socket(), source, secs, limit)
}

pub(super) fn crowd_surge(rng: &mut Rng) -> Plan {
    let (server, over) = (Server::pool(rng), rng.range(0.5, 5.0));
    let clump = rng.pick(&[1, 4]);
    crowd(rng, server, over, clump)
}

pub(super) fn crowd_at_once(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    crowd(rng, server, 0.0, 1)
}

/// Day compressed into an hour or less; `shape` is the share of the peak at a phase from 0 to 1.
fn day(rng: &mut Rng, server: Server, shape: fn(f64) -> f64) -> Plan {
    let peak = rng.range(0.5, 0.8);
    let secs = healthy_secs(server.capacity * peak * 0.5);
    let days = rng.pick(&[1.0, 1.0, 2.0]);
    let phase = rng.unit();
    let point = |step: u32| {
        let at = f64::from(step) / 96.0;
        (at * secs, server.capacity * peak * shape((at * days + phase).fract()))
    };
    let rate = Line::through((0..=96).map(point).collect());
    let limit = backlog(rng, server.depth(peak, secs, 1.0));
    plan(rng, server.socket(), poisson(rate), secs, limit)
}

pub(super) fn day_wave(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    day(rng, server, |phase| 0.55 + 0.45 * libm::cos(phase * std::f64::consts::TAU))
}

pub(super) fn day_office(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    day(rng, server, |phase| if (0.35..0.75).contains(&phase) { 1.0 } else { 0.15 })
}

/// Thousands of open, silent connections with almost no arrivals.
fn idle(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    let rate = rng.log_range(0.02, 1.0);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), 5_400.0, 511);
    plan.keepalives = rng.log_range(1_000.0, 20_000.0) as u64;
    plan
}

pub(super) fn idle_quiet(rng: &mut Rng) -> Plan {
    idle(rng)
}

pub(super) fn idle_that_reconnects(rng: &mut Rng) -> Plan {
    let mut plan = idle(rng);
    // A balancer's pool reconnects, all at once or as each connection reaches its end of life.
    let (mut t, capacity) = (rng.range(20.0, 120.0), plan.sockets[0].capacity(0.0));
    while t < plan.secs - 60.0 {
        let count = rng.range(0.02, 1.0) * (plan.keepalives as f64).min(5.0 * capacity).min(400.0);
        plan.bursts.push(Burst { t, count: count as u32, spread_secs: rng.range(0.0, 0.1) });
        t += rng.range(60.0, 600.0);
    }
    plan
}

/// Jobs that start on the minute by their own clocks; `late` is the spread of those clocks.
fn timers(rng: &mut Rng, every: f64, jobs: u32, late: f64) -> Plan {
    let server = Server::event_loop(rng);
    let load = rng.range(0.02, 0.5);
    let rate = server.capacity * load;
    let secs = healthy_secs(rate).max(5.0 * every);
    let left = server.capacity * (1.0 - load);
    let most = (left * every.min(WORKED_OFF_SECS) * 0.5).min(1_500.0 / f64::from(jobs)).max(1.0);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), secs, 4_096);
    for _ in 0..jobs {
        let count = rng.log_range(1.0, (most / f64::from(jobs)).max(1.5)) as u32;
        let offset = rng.range(0.0, late);
        let mut t = every + offset;
        while t < secs {
            plan.bursts.push(Burst { t, count: count.max(1), spread_secs: rng.range(0.0, 0.1) });
            t += every;
        }
    }
    plan.bursts.sort_by(|a, b| a.t.total_cmp(&b.t));
    plan
}

pub(super) fn cron(rng: &mut Rng) -> Plan {
    let jobs = 1 + rng.below(4) as u32;
    timers(rng, 60.0, jobs, 0.05)
}

pub(super) fn scrapers(rng: &mut Rng) -> Plan {
    let every = rng.pick(&[10.0, 15.0, 30.0]);
    let jobs = 2 + rng.below(10) as u32;
    timers(rng, every, jobs, every)
}

pub(super) fn backlog_one(rng: &mut Rng) -> Plan {
    let server = Server::new(rng, 1, Shape::Fixed);
    // Evenly spaced, so that there are never three at once.
    let rate = server.capacity * rng.range(0.02, 0.4);
    plan(rng, server.socket(), regular(Line::flat(rate)), healthy_secs(rate), 1)
}

pub(super) fn backlog_one_pooled(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    // Two clients that each wait for a response: one is served, one waits, none is dropped.
    let think_secs = rng.range(4.0, 40.0) / server.capacity;
    let secs = healthy_secs(2.0 / think_secs);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(0.0)), secs, 1);
    plan.loops.push(Loop { clients: 2, from: 0.0, to: secs, think_secs });
    plan
}
