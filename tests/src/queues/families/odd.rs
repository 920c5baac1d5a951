//! Healthy servers with unusual behaviour: collections, acceptors that take turns, restarts,
//! counters that wrap, and a delayed agent.

use super::{
    super::{
        line::Line,
        plan::{Accepts, Burst, Plan, Shape},
    },
    draw::{Server, backlog, healthy_secs, pauses, plan, poisson},
};
use crate::corpus::rng::Rng;

/// Garbage-collected server, at a load that leaves it room: pauses take at most a tenth of its
/// time.
fn collecting(rng: &mut Rng, server: Server, lasts: [f64; 2], apart: [f64; 2]) -> Plan {
    let load = rng.range(0.1, 0.8);
    let rate = server.capacity * load;
    let secs = healthy_secs(rate);
    let awake = 1.0 - (lasts[0] + lasts[1]) / (apart[0] + apart[1]);
    let need = server.depth((load / awake).min(0.93), secs, 1.0) + rate * lasts[1] * 2.0;
    let limit = backlog(rng, need);
    let mut socket = server.socket();
    socket.pauses = pauses(rng, secs, lasts, apart);
    plan(rng, socket, poisson(Line::flat(rate)), secs, limit)
}

pub(super) fn collections(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    let (every, lasts) = (rng.range(2.0, 5.0), rng.range(0.1, 0.2));
    collecting(rng, server, [lasts * 0.9, lasts], [every * 0.98, every * 1.02])
}

pub(super) fn young_and_full(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let mut plan = collecting(rng, server, [0.1, 0.2], [2.0, 5.0]);
    let secs = plan.secs;
    let full = std::mem::take(&mut plan.sockets[0].pauses);
    let young = pauses(rng, secs, [0.003, 0.02], [0.4, 1.2]);
    let apart = |young: &(f64, f64)| {
        let next = full.partition_point(|pause| pause.1 + 0.01 < young.0);
        full.get(next).is_none_or(|pause| young.1 + 0.01 < pause.0)
    };
    let mut all: Vec<_> = young.iter().copied().filter(apart).collect();
    all.extend(full.iter().copied());
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    plan.sockets[0].pauses = all;
    plan
}

/// Acceptor that empties its queue at each turn of its loop.
fn by_turns(rng: &mut Rng, secs: [f64; 2], most: u32) -> Plan {
    let rate = rng.pick(&[5.0, 50.0, 500.0, 5_000.0]) * rng.range(0.3, 1.0);
    let lasts = healthy_secs(rate);
    let mean = rate * secs[1];
    // Arrivals between two turns, plus seven standard deviations.
    let limit = backlog(rng, mean + 7.0 * libm::sqrt(mean) + 10.0);
    let server = Server::event_loop(rng);
    let mut socket = server.socket();
    socket.accepts = Accepts::Turns { secs, most };
    plan(rng, socket, poisson(Line::flat(rate)), lasts, limit)
}

pub(super) fn ticking(rng: &mut Rng) -> Plan {
    let secs = rng.range(0.01, 0.05);
    by_turns(rng, [secs, secs], u32::MAX)
}

pub(super) fn long_turns(rng: &mut Rng) -> Plan {
    by_turns(rng, [0.005, 0.05], u32::MAX)
}

/// Server that is restarted now and then; `down` is the time without a listener, or with two.
fn restarting(rng: &mut Rng, down: [f64; 2]) -> Plan {
    let server = if rng.chance(0.5) { Server::event_loop(rng) } else { Server::pool(rng) };
    let load = rng.range(0.1, 0.7);
    let rate = server.capacity * load;
    let secs = healthy_secs(rate);
    let limit = backlog(rng, server.depth(load, secs, 1.0) + rate * 0.1);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), secs, limit);
    let first = plan.sockets[0].clone();
    let (mut opens, times) = (0.0, 2 + rng.below(4));
    plan.sockets.clear();
    for time in 0..=times {
        let closes = if time == times {
            f64::INFINITY
        } else {
            opens + secs / (times + 1) as f64 * rng.range(0.7, 1.1)
        };
        plan.sockets.push(super::super::plan::Socket { opens, closes, ..first.clone() });
        opens = closes + rng.range(down[0], down[1]);
    }
    plan
}

pub(super) fn restarts(rng: &mut Rng) -> Plan {
    let mut plan = restarting(rng, [0.05, 3.0]);
    // Refused clients retry.
    let rate = plan.sources[0].rate.at(0.0);
    let again: Vec<_> = plan
        .sockets
        .windows(2)
        .map(|pair| (pair[1].opens, pair[1].opens - pair[0].closes))
        .collect();
    for (t, down) in again {
        let count = (rate * down * 0.5).min(f64::from(plan.backlog_max) * 0.3);
        plan.bursts.push(Burst { t: t + 0.01, count: count as u32, spread_secs: 0.09 });
    }
    plan
}

pub(super) fn reloads(rng: &mut Rng) -> Plan {
    restarting(rng, [-3.0, -0.2])
}

/// Server whose counters wrap; in half of the runs, one burst of a tenth of a second overflows
/// once.
pub(super) fn wrapping(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    lone_overflow(rng, server)
}

pub(super) fn wrapping_pool(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    lone_overflow(rng, server)
}

fn lone_overflow(rng: &mut Rng, mut server: Server) -> Plan {
    let (load, overflows) = (rng.range(0.1, 0.6), rng.chance(0.5));
    if overflows {
        // The overflow has drained before the dropped clients retry a second later.
        server.capacity = rng.pick(&[1_000.0, 4_000.0, 20_000.0]);
    }
    let rate = server.capacity * load;
    let secs = healthy_secs(rate);
    let holds = server.depth(load, secs, 1.0);
    let limit = if overflows { holds.max(16.0) as u32 } else { backlog(rng, holds) };
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), secs, limit);
    let wraps_at = rng.range(0.1, 0.9);
    plan.counted_before = (1 << 32) - 1 - (rate * secs * wraps_at) as u64;
    if overflows {
        let count = limit + 2 + rng.below(u64::from(limit / 4) + 1) as u32;
        plan.bursts.push(Burst { t: secs * 0.5, count, spread_secs: rng.range(0.0, 0.0005) });
        // The counter of drops wraps too.
        plan.counted_before = (1 << 32) - 1;
    }
    plan
}

/// Agent that is delayed by two seconds now and then.
pub(super) fn held_up(rng: &mut Rng) -> Plan {
    let mut plan = busy(rng);
    let mut t = rng.range(5.0, 30.0);
    while t < plan.secs {
        plan.looks.gaps.push((t, t + rng.range(1.8, 2.2)));
        t += rng.range(10.0, 90.0);
    }
    plan
}

/// Agent whose timers are often late, as on a host without spare CPU time.
pub(super) fn late_looks(rng: &mut Rng) -> Plan {
    let mut plan = busy(rng);
    plan.looks.late = (rng.range(0.1, 0.5), rng.range(0.1, 0.6));
    plan
}

fn busy(rng: &mut Rng) -> Plan {
    let server = if rng.chance(0.5) { Server::event_loop(rng) } else { Server::pool(rng) };
    let load = rng.range(0.5, 0.8);
    let rate = server.capacity * load;
    let secs = healthy_secs(rate);
    let limit = backlog(rng, server.depth(load, secs, 1.0));
    plan(rng, server.socket(), poisson(Line::flat(rate)), secs, limit)
}

/// Workers with their own sockets that collect one after another, so that some queue nearly always
/// waits and none stands.
fn collecting_by_turns(rng: &mut Rng, sockets: usize, lasts: [f64; 2], apart: [f64; 2]) -> Plan {
    let server = Server::new(rng, 1, Shape::Exponential).of(rng.pick(&[50.0, 200.0, 1_000.0]));
    let load = rng.range(0.2, 0.7);
    let rate = server.capacity * load * sockets as f64;
    let secs = healthy_secs(rate);
    let need =
        server.depth((load * 1.15).min(0.9), secs, 1.0) + 2.0 * server.capacity * load * lasts[1];
    let limit = backlog(rng, need);
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(rate)), secs, limit);
    plan.sockets = vec![plan.sockets[0].clone(); sockets];
    let shift = apart[0] / sockets as f64;
    for (place, socket) in plan.sockets.iter_mut().enumerate() {
        let begin =
            if apart[0] == apart[1] { shift * place as f64 } else { rng.range(0.0, apart[1]) };
        let mut t = begin;
        while t < secs {
            socket.pauses.push((t, t + rng.range(lasts[0], lasts[1])));
            t += rng.range(apart[0], apart[1]);
        }
    }
    plan
}

pub(super) fn eight_by_turns(rng: &mut Rng) -> Plan {
    let every = rng.range(1.6, 3.0);
    collecting_by_turns(rng, 8, [0.15, 0.2], [every, every])
}

pub(super) fn many_at_odd_times(rng: &mut Rng) -> Plan {
    let sockets = rng.pick(&[4, 8, 12, 16]);
    collecting_by_turns(rng, sockets, [0.05, 0.2], [2.0, 5.0])
}
