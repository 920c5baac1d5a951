//! Overloads because accepting becomes slow or stops.

use super::{
    super::{
        line::Line,
        plan::{Plan, Scarce, Shape, Socket},
    },
    draw::{Server, backlog, plan, poisson, regular},
    load::{ahead, lasts},
};
use crate::corpus::rng::Rng;

/// Factor by which service must slow down so that `load` is between 1.2 and 3 times the remaining
/// capacity.
fn factor(rng: &mut Rng, load: f64) -> f64 {
    rng.range(1.2, 3.0) / load
}

/// Server at some load that slows down; `slows` changes its socket, given the time and the factor.
fn slowing(
    rng: &mut Rng,
    server: Server,
    scarce: Scarce,
    slows: impl Fn(&mut Rng, &mut Socket, f64, f64),
) -> Plan {
    let load = rng.range(0.3, 0.8);
    let (c, factor) = (server.capacity, factor(rng, load));
    let from = ahead(rng, c);
    let secs = from + 30.0 + lasts(rng, c * load, 1.0 - 1.0 / (load * factor));
    let limit = backlog(rng, server.depth(load, from, 1.0));
    let mut socket = server.socket();
    slows(rng, &mut socket, from, factor);
    let mut plan = plan(rng, socket, poisson(Line::flat(c * load)), secs, limit);
    plan.scarce = scarce;
    plan
}

pub(super) fn noisy_neighbour(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    slowing(rng, server, Scarce::Cpu, |rng, socket, from, factor| {
        let over = rng.log_range(0.5, 20.0);
        socket.slow = Line::through(vec![(from, 1.0), (from + over, factor)]);
    })
}

pub(super) fn quota(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    slowing(rng, server, Scarce::Cpu, |_, socket, from, factor| {
        socket.quota = Line::step(1.0, from, 1.0 / factor);
    })
}

pub(super) fn swapping(rng: &mut Rng) -> Plan {
    let server = Server { shape: Shape::LogNormal(1.0), ..Server::pool(rng) };
    slowing(rng, server, Scarce::Memory, |rng, socket, from, factor| {
        // The working set is evicted piece by piece.
        let (mut t, mut points) = (from, Vec::new());
        for step in 0..4 {
            let at = |step: i32| 1.0 + (factor - 1.0) * f64::from(step) / 4.0;
            points.extend([(t, at(step)), (t, at(step + 1))]);
            t += rng.range(0.5, 2.0);
        }
        socket.slow = Line::through(points);
    })
}

pub(super) fn reclaim(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    slowing(rng, server, Scarce::Memory, |rng, socket, from, factor| {
        let over = rng.range(2.0, 15.0);
        socket.slow =
            Line::through(vec![(from, 1.0), (from + over, factor), (from + over, factor * 1.2)]);
    })
}

pub(super) fn dependency(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let mut plan = slowing(rng, server, Scarce::Workers, |_, socket, from, factor| {
        socket.slow = Line::step(1.0, from, factor * 2.0);
    });
    plan.runs_share = 0.05;
    plan
}

pub(super) fn lock_convoy(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let mut plan = slowing(rng, server, Scarce::Workers, |rng, socket, from, factor| {
        let over = rng.range(10.0, 30.0);
        socket.slow = Line::through(vec![(from, 1.0), (from + over, factor)]);
    });
    plan.runs_share = 0.1;
    plan
}

/// Server that stops, at any load down to two connections a second.
fn stopping(rng: &mut Rng, server: Server) -> (Plan, f64) {
    let c = server.capacity;
    let load = rng.pick(&[2.0 / c, 2.0 / c, 10.0_f64.min(0.5 * c) / c, 0.1, 0.4, 0.7]);
    let stop = ahead(rng, c) + rng.unit();
    let limit = backlog(rng, server.depth(load, stop, 1.0));
    let source =
        if rng.chance(0.5) { poisson(Line::flat(c * load)) } else { regular(Line::flat(c * load)) };
    (plan(rng, server.socket(), source, stop + 15.0, limit), stop)
}

pub(super) fn stopped(rng: &mut Rng) -> Plan {
    let server = Server::event_loop(rng);
    let (mut plan, stop) = stopping(rng, server);
    plan.sockets[0].pauses = vec![(stop, f64::INFINITY)];
    plan.runs_share = if rng.chance(0.5) { 1.0 } else { 0.0 };
    plan
}

pub(super) fn stopped_by_workers(rng: &mut Rng) -> Plan {
    let server = Server::pool(rng);
    let (mut plan, stop) = stopping(rng, server);
    // Each poisoned request takes one worker.
    let apart = rng.log_range(0.01, 2.0);
    plan.sockets[0].lost_workers =
        (0..server.workers).map(|worker| stop + apart * f64::from(worker)).collect();
    let served = plan.sources[0].rate.at(0.0);
    plan.secs =
        stop + apart * f64::from(server.workers) + f64::from(server.workers) / served * 3.0 + 15.0;
    plan.runs_share = 0.0;
    plan
}

/// Few connections, from some a minute to some a second.
fn trickle(rng: &mut Rng) -> (Plan, f64) {
    let server = Server::event_loop(rng);
    let rate = rng.log_range(0.1, 5.0);
    let stop = rng.range(60.0, 240.0);
    let limit = backlog(rng, server.depth(rate / server.capacity, stop, 1.0));
    let mut plan =
        plan(rng, server.socket(), poisson(Line::flat(rate)), stop + 20.0 + 10.0 / rate, limit);
    plan.runs_share = 0.0;
    (plan, stop)
}

pub(super) fn stopped_at_night(rng: &mut Rng) -> Plan {
    let (mut plan, stop) = trickle(rng);
    plan.sockets[0].pauses = vec![(stop, f64::INFINITY)];
    plan
}

pub(super) fn stopped_for_a_while(rng: &mut Rng) -> Plan {
    let (mut plan, stop) = trickle(rng);
    // A debugger, a suspended virtual machine, or a hanging disk.
    let lasts = 20.0 + 5.0 / plan.sources[0].rate.at(0.0);
    plan.sockets[0].pauses = vec![(stop, stop + lasts)];
    plan.secs = stop + lasts + 30.0;
    plan
}

/// Sockets that share an address, each with its own process.
fn shared(rng: &mut Rng, sockets: u32) -> (Plan, f64) {
    let server = Server::event_loop(rng);
    let server = server.of(rng.pick(&[50.0, 200.0, 1_000.0, 2_500.0]));
    let (c, load) = (server.capacity, rng.range(0.1, 0.7));
    let total = c * load * f64::from(sockets);
    let stop = ahead(rng, total);
    let limit = backlog(rng, server.depth(load, stop, 1.0).max(16.0));
    let mut plan = plan(rng, server.socket(), poisson(Line::flat(total)), stop + 30.0, limit);
    plan.sockets = vec![plan.sockets[0].clone(); sockets as usize];
    (plan, stop)
}

pub(super) fn one_stuck_of_eight(rng: &mut Rng) -> Plan {
    let (mut plan, stop) = shared(rng, 8);
    let stuck = rng.below(8) as usize;
    plan.sockets[stuck].pauses = vec![(stop, f64::INFINITY)];
    plan.runs_share = 0.0;
    plan
}

pub(super) fn one_busy_of_many(rng: &mut Rng) -> Plan {
    let sockets = rng.pick(&[4, 6, 12, 16]);
    let (mut plan, stop) = shared(rng, sockets);
    let stuck = rng.below(u64::from(sockets)) as usize;
    // A long request that ends eventually.
    let lasts = rng.range(6.0, 25.0);
    plan.sockets[stuck].pauses = vec![(stop, stop + lasts)];
    plan.secs = stop + lasts + 30.0;
    plan
}
