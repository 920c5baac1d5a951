//! The families: every mechanism by which requests come to wait, or only seem to.
//!
//! Each is in both parts. Held-out runs have other seeds, and rates, service times and strengths
//! from other ranges, a little wider on either side, so that a bound that was fitted to one number
//! shows. Changing a range makes quoted figures void.

use super::{
    super::{
        line::Line,
        plan::{Scarce, Service, Shape, Source, Spacing},
    },
    plan::{Actor, Evidence, Look, Loop, Open, Patience, Plan, Server, Serving},
};
use crate::corpus::{Part, rng::Rng};

/// A mechanism.
pub struct Family {
    /// Name of the family.
    pub name: &'static str,
    /// Number of runs in each part. Seeds count from 0, those of the held-out part from
    /// [`HELD_OUT_FROM`].
    pub runs: u64,
    /// Set if its runs are meant to be overloads.
    pub overloads: bool,
    /// Description, in a sentence.
    pub why: &'static str,
    pub(super) plan: fn(&mut Draw) -> Plan,
}

/// First seed of the held-out part.
pub const HELD_OUT_FROM: u64 = 1_000;

const RUNS: u64 = 30;

/// Chance, in the ranges of a part.
pub(super) struct Draw {
    pub(super) rng: Rng,
    pub(super) part: Part,
}

impl Draw {
    /// From a range, which is a fifth wider on either side in the held-out part.
    fn log(&mut self, low: f64, high: f64) -> f64 {
        if self.part == Part::HeldOut {
            self.rng.log_range(low / 1.2, high * 1.2)
        } else {
            self.rng.log_range(low, high)
        }
    }

    fn count(&mut self, low: f64, high: f64) -> u32 {
        libm::round(self.log(low, high)) as u32
    }

    fn shape(&mut self) -> Shape {
        let sigma = if self.part == Part::HeldOut { 0.6 } else { 0.8 };
        self.rng.pick(&[Shape::Fixed, Shape::Exponential, Shape::LogNormal(sigma)])
    }

    fn service(&mut self, low: f64, high: f64) -> Service {
        Service { mean_secs: self.log(low, high), shape: self.shape() }
    }

    fn event_loop(&mut self) -> Server {
        let service = self.service(0.002, 0.03);
        Server::new(Serving::Reads, 1, service)
    }

    /// A pool of workers that answers at least some requests a second.
    fn pool(&mut self, serving: Serving) -> Server {
        let service = self.service(0.02, 0.3);
        let workers = self.count(4.0, 24.0);
        Server::new(serving, workers, service)
    }

    fn any_server(&mut self) -> Server {
        match self.rng.below(3) {
            0 => self.event_loop(),
            1 => self.pool(Serving::Queues),
            _ => self.pool(Serving::Reads),
        }
    }

    /// Time before anything happens.
    fn ahead(&mut self) -> f64 {
        self.rng.range(20.0, 90.0)
    }

    fn plan(&mut self, server: Server, secs: f64) -> Plan {
        let scarce = if server.workers == 1 { Scarce::Cpu } else { Scarce::Workers };
        Plan {
            secs,
            server,
            opens: Vec::new(),
            loops: Vec::new(),
            patience: None,
            actors: Vec::new(),
            scarce,
            look: Look::draw(&mut self.rng),
        }
    }
}

fn poisson(rate: Line, anew: bool) -> Open {
    Open {
        source: Source { rate, spacing: Spacing::Poisson, clump: [1, 1], spread_secs: 0.0 },
        anew,
    }
}

/// Load from `from` on at `over` times of capacity, for so long.
fn stepping(draw: &mut Draw, server: Server, strongest: f64) -> Plan {
    let capacity = server.capacity();
    let (before, over) = (draw.rng.range(0.2, 0.6), draw.log(1.15, strongest));
    let from = draw.ahead();
    let lasts = draw.rng.range(25.0, 50.0);
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, from + lasts + 60.0);
    let rate = Line::spell(capacity * before, from, from + lasts, capacity * over);
    plan.opens.push(poisson(rate, anew));
    plan
}

fn loop_open(draw: &mut Draw) -> Plan {
    let server = draw.event_loop();
    stepping(draw, server, 3.0)
}

fn pool_open(draw: &mut Draw) -> Plan {
    let server = draw.pool(Serving::Queues);
    stepping(draw, server, 2.5)
}

fn reader_open(draw: &mut Draw) -> Plan {
    let server = draw.pool(Serving::Reads);
    stepping(draw, server, 2.5)
}

fn pool_ramp(draw: &mut Draw) -> Plan {
    let server = draw.pool(Serving::Queues);
    let capacity = server.capacity();
    let (before, over) = (draw.rng.range(0.2, 0.6), draw.log(1.3, 2.0));
    let (from, rises) = (draw.ahead(), draw.rng.range(10.0, 60.0));
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, from + rises + 40.0);
    let rate = Line::through(vec![(from, capacity * before), (from + rises, capacity * over)]);
    plan.opens.push(poisson(rate, anew));
    plan
}

/// Load that exceeds the capacity by a few percent, so that waits grow over minutes.
fn creeping(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let capacity = server.capacity();
    let (before, over) = (draw.rng.range(0.5, 0.8), 1.0 + draw.log(0.03, 0.1));
    let from = draw.ahead();
    let lasts = draw.rng.range(90.0, 150.0);
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, from + lasts + 60.0);
    let rate = Line::spell(capacity * before, from, from + lasts, capacity * over);
    plan.opens.push(poisson(rate, anew));
    plan
}

/// Clients that wait for each answer: few at first, then far more than can be served.
fn crowding(draw: &mut Draw, server: Server) -> Plan {
    let capacity = server.capacity();
    let think_secs = draw.log(0.2, 5.0);
    // In the end each waits for so long.
    let waits_secs = draw.log(1.0, 6.0).max(5.0 * server.service.mean_secs);
    let clients = (capacity * (waits_secs + think_secs)).min(4_000.0) as u32 + 8;
    let few = (0.3 * capacity * think_secs) as u32 + 1;
    let (from, over) = (draw.ahead(), draw.rng.range(0.5, 10.0));
    let lasts = draw.rng.range(25.0, 40.0);
    let mut plan = draw.plan(server, from + over + lasts + 40.0);
    let all = plan.secs;
    plan.loops.push(Loop { clients: few, from: 0.0, over: think_secs, to: all, think_secs });
    let to = from + over + lasts;
    plan.loops.push(Loop { clients, from, over, to, think_secs });
    plan
}

fn loop_closed(draw: &mut Draw) -> Plan {
    let server = draw.event_loop();
    crowding(draw, server)
}

fn pool_closed(draw: &mut Draw) -> Plan {
    let server = draw.pool(Serving::Queues);
    crowding(draw, server)
}

/// The case: clients without a pause, all at once, on an event loop.
fn loop_saturated(draw: &mut Draw) -> Plan {
    let service = draw.service(0.01, 0.03);
    let server = Server::new(Serving::Reads, 1, service);
    let clients = draw.count(100.0, 400.0);
    let from = draw.rng.range(2.0, 60.0);
    let before = draw.rng.range(0.0, 0.5) * server.capacity();
    let over = draw.rng.range(0.1, 3.0);
    let mut plan = draw.plan(server, from + 60.0);
    let to = from + 30.0;
    plan.loops.push(Loop { clients, from, over, to, think_secs: 0.0 });
    plan.opens.push(poisson(Line::flat(before), false));
    plan
}

fn gives_up(draw: &mut Draw) -> Plan {
    let serving = draw.rng.pick(&[Serving::Queues, Serving::Reads]);
    let server = draw.pool(serving);
    let longest = server.service.mean_secs;
    let mut plan = stepping(draw, server, 2.0);
    let secs = draw.log(1.5, 6.0).max(6.0 * longest);
    let retries = draw.rng.below(4) as u8;
    plan.patience = Some(Patience { secs, retries });
    plan
}

/// A server that slows down under a load that it could carry.
fn slowing(draw: &mut Draw, server: Server, factor: f64) -> Plan {
    let (load, from, over) = (draw.rng.range(0.3, 0.7), draw.ahead(), draw.rng.range(0.01, 10.0));
    let lasts = draw.rng.range(25.0, 40.0);
    let capacity = server.capacity();
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, from + over + lasts + 60.0);
    let to = from + over + lasts;
    let factor = factor / load;
    plan.server.slow =
        Line::through(vec![(from, 1.0), (from + over, factor), (to, factor), (to, 1.0)]);
    plan.opens.push(poisson(Line::flat(capacity * load), anew));
    plan
}

fn slow_cpu(draw: &mut Draw) -> Plan {
    let server = draw.event_loop();
    let factor = draw.log(1.3, 3.0);
    let mut plan = slowing(draw, server, factor);
    plan.scarce = Scarce::Cpu;
    plan
}

/// A proxy whose upstream becomes slow, without a limit of its own.
fn slow_upstream(draw: &mut Draw) -> Plan {
    let evidence = draw.rng.pick(&[Evidence::None, Evidence::Pending, Evidence::Local]);
    let mean_secs = draw.log(0.01, 0.1);
    let service = Service { mean_secs, shape: Shape::LogNormal(0.3) };
    let server = Server::new(Serving::Passes(evidence), 1_000_000, service);
    let rate = draw.log(20.0, 300.0);
    // In the end each takes so long.
    let factor = draw.log(1.5, 8.0).max(8.0 * mean_secs) / mean_secs;
    let (from, over, lasts) = (draw.ahead(), draw.rng.range(0.01, 5.0), draw.rng.range(20.0, 40.0));
    let mut plan = draw.plan(server, from + over + lasts + 60.0);
    let to = from + over + lasts;
    plan.server.slow =
        Line::through(vec![(from, 1.0), (from + over, factor), (to, factor), (to, 1.0)]);
    plan.server.runs_share = 0.0;
    plan.scarce = if evidence == Evidence::None { Scarce::Workers } else { Scarce::Dependency };
    let anew = draw.rng.chance(0.4);
    plan.opens.push(poisson(Line::flat(rate), anew));
    plan
}

/// A proxy before an upstream that has too few workers.
fn full_upstream(draw: &mut Draw) -> Plan {
    let server = draw.pool(Serving::Passes(Evidence::Local));
    let mut plan = stepping(draw, server, 2.5);
    plan.server.runs_share = 0.05;
    plan.scarce = Scarce::Dependency;
    plan
}

fn stuck(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let load = draw.rng.range(0.1, 0.6);
    let (from, lasts) = (draw.ahead(), draw.rng.range(15.0, 30.0));
    let capacity = server.capacity();
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, from + lasts + 45.0);
    plan.server.pauses = vec![(from, from + lasts)];
    plan.scarce = Scarce::AcceptLoop;
    plan.opens.push(poisson(Line::flat((capacity * load).max(2.0)), anew));
    plan
}

/// Steady load that leaves room, so that hardly any request waits a quarter of a second.
fn calm(draw: &mut Draw, server: Server, secs: f64) -> Plan {
    let per_sec = server.capacity();
    // The scale of waits at load r is 1/(capacity (1 - r)).
    let most = (1.0 - 30.0 / per_sec).clamp(0.15, 0.8);
    let load = draw.rng.range(0.1, 1.0) * most;
    let anew = draw.rng.chance(0.4);
    let mut plan = draw.plan(server, secs);
    plan.opens.push(poisson(Line::flat(per_sec * load), anew));
    plan
}

fn steady(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    calm(draw, server, 600.0)
}

fn steady_closed(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let think_secs = draw.log(0.1, 3.0);
    let per_sec = server.capacity();
    let load = draw.rng.range(0.1, 0.6);
    let clients = (load * per_sec * think_secs) as u32 + 1;
    let mut plan = draw.plan(server, 600.0);
    let to = plan.secs;
    plan.loops.push(Loop { clients, from: 0.0, over: think_secs, to, think_secs });
    plan
}

/// Clients as many as workers, which never rest: busy, and nobody waits.
fn benchmark(draw: &mut Draw) -> Plan {
    let serving = draw.rng.pick(&[Serving::Queues, Serving::Reads]);
    let server = draw.pool(serving);
    let clients = server.workers;
    let from = draw.ahead();
    let mut plan = draw.plan(server, 300.0);
    let quiet = 0.1 * plan.server.capacity();
    plan.opens.push(poisson(Line::spell(quiet, from, 300.0, 0.0), false));
    plan.loops.push(Loop { clients, from, over: 1.0, to: 200.0, think_secs: 0.0 });
    plan
}

fn bursts(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let per_sec = server.capacity();
    let mut plan = calm(draw, server, 600.0);
    plan.opens[0].source.rate = Line::flat(0.3 * per_sec);
    // So much work at once as takes less than a second.
    let count = (draw.rng.range(0.1, 0.5) * per_sec) as u32 + 2;
    let every_secs = draw.rng.range(5.0, 60.0);
    let rate = Line::flat(f64::from(count) / every_secs);
    let source = Source {
        rate,
        spacing: Spacing::Regular(0.5),
        clump: [count / 2 + 1, count],
        spread_secs: draw.rng.range(0.001, 0.2),
    };
    plan.opens.push(Open { source, anew: draw.rng.chance(0.5) });
    plan
}

fn pauses(draw: &mut Draw) -> Plan {
    pausing(draw, [0.05, 0.5], [3.0, 60.0])
}

fn stalls(draw: &mut Draw) -> Plan {
    pausing(draw, [0.6, 1.0], [10.0, 60.0])
}

/// Pauses of up to a length, so far apart on average; both are drawn.
fn pausing(draw: &mut Draw, lasts: [f64; 2], apart: [f64; 2]) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    let (length, every) = (draw.log(lasts[0], lasts[1]), draw.log(apart[0], apart[1]));
    let mut t = draw.rng.range(0.5, 1.5) * every;
    while t < plan.secs {
        let lasts = length * draw.rng.range(0.5, 1.0);
        plan.server.pauses.push((t, t + lasts));
        t += lasts + every * draw.rng.range(0.5, 1.5);
    }
    plan
}

/// Actors that come over a time, from the start on or later.
fn actors(draw: &mut Draw, count: u32, actor: impl Fn(&mut Draw, f64) -> Actor) -> Vec<Actor> {
    let from = if draw.rng.chance(0.5) { 0.0 } else { draw.ahead() };
    let over = draw.log(0.5, 120.0);
    (0..count)
        .map(|_| {
            let t = from + over * draw.rng.unit();
            actor(draw, t)
        })
        .collect()
}

fn long_polls(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    if draw.rng.chance(0.3) {
        plan.opens.clear();
    }
    let (count, most) = (draw.count(5.0, 300.0), draw.log(5.0, 60.0));
    let least = most * draw.rng.pick(&[0.02, 0.5, 0.98]);
    plan.actors = actors(draw, count, |_, from| Actor::LongPoll { from, hold_secs: [least, most] });
    plan
}

fn subscribers(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    let (count, news_secs) = (draw.count(5.0, 300.0), draw.log(3.0, 60.0));
    let most_secs = draw.rng.pick(&[25.0, 30.0, 55.0]);
    plan.actors = actors(draw, count, |_, from| Actor::Subscriber { from, news_secs, most_secs });
    plan
}

fn uploads(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    let (count, most) = (draw.count(4.0, 80.0), draw.log(2.0, 60.0));
    let rests_secs = draw.log(0.5, 30.0);
    plan.actors = actors(draw, count, |_, from| {
        let lasts_secs = [most * 0.3, most];
        Actor::Upload { from, lasts_secs, rests_secs }
    });
    plan
}

fn sockets(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    if draw.rng.chance(0.3) {
        plan.opens.clear();
    }
    let (count, every_secs) = (draw.count(5.0, 400.0), draw.log(2.0, 60.0));
    let replies = draw.rng.pick(&[0.0, 0.5, 0.95]);
    let push_secs = draw.log(1.0, 120.0);
    plan.actors =
        actors(draw, count, |_, from| Actor::Socket { from, every_secs, replies, push_secs });
    plan
}

fn streams(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 400.0);
    let count = draw.count(5.0, 100.0);
    plan.actors = actors(draw, count, |_, from| Actor::Stream { from });
    plan
}

fn idle(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 400.0);
    let count = draw.count(50.0, 1_000.0);
    let share = draw.rng.pick(&[0.0, 0.2, 1.0]);
    plan.actors = (0..count).map(|_| Actor::Idle { last_word: draw.rng.chance(share) }).collect();
    plan
}

/// Slow from the start, and steady.
fn slow_but_steady(draw: &mut Draw) -> Plan {
    let mean_secs = draw.log(0.4, 4.0);
    let shape = draw.shape();
    let server = Server::new(Serving::Queues, 100_000, Service { mean_secs, shape });
    let rate = draw.log(3.0, 60.0);
    let mut plan = draw.plan(server, 600.0);
    plan.scarce = Scarce::Workers;
    plan.opens.push(poisson(Line::flat(rate), draw.rng.chance(0.4)));
    plan
}

/// A day in ten minutes: load rises and falls by a factor, and is carried.
fn daily(draw: &mut Draw) -> Plan {
    let server = if draw.rng.chance(0.5) {
        draw.any_server()
    } else {
        let service = draw.service(0.05, 0.6);
        Server::new(Serving::Queues, 100_000, service)
    };
    let mut plan = calm(draw, server, 900.0);
    let peak = if plan.server.workers >= 100_000 {
        draw.log(10.0, 200.0)
    } else {
        plan.opens[0].source.rate.at(0.0)
    };
    let night = draw.rng.range(0.05, 0.4);
    plan.opens[0].source.rate = Line::through(vec![
        (0.0, peak * night),
        (200.0, peak * night),
        (400.0, peak),
        (600.0, peak),
        (800.0, peak * night),
    ]);
    plan
}

fn reports(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let mut plan = calm(draw, server, 600.0);
    let (every_secs, most) = (draw.log(10.0, 120.0), draw.log(1.0, 30.0));
    plan.actors =
        (0..3).map(|_| Actor::Report { every_secs, takes_secs: [most * 0.2, most] }).collect();
    plan
}

/// Clients with short patience on a server that is in time for nearly all.
fn impatient(draw: &mut Draw) -> Plan {
    let server = draw.any_server();
    let secs = 8.0 * server.service.mean_secs + draw.log(0.2, 1.0);
    let mut plan = calm(draw, server, 600.0);
    plan.patience = Some(Patience { secs, retries: 1 });
    plan
}

const fn overload(name: &'static str, plan: fn(&mut Draw) -> Plan, why: &'static str) -> Family {
    Family { name, runs: RUNS, overloads: true, why, plan }
}

const fn healthy(name: &'static str, plan: fn(&mut Draw) -> Plan, why: &'static str) -> Family {
    Family { name, runs: RUNS, overloads: false, why, plan }
}

/// All of them.
pub const FAMILIES: &[Family] = &[
    overload("loop-open", loop_open, "more requests come to an event loop than it can answer"),
    overload("loop-closed", loop_closed, "far more clients that think than an event loop serves"),
    overload("loop-saturated", loop_saturated, "clients without a pause on an event loop"),
    overload("pool-open", pool_open, "more come to a pool that reads early than it can answer"),
    overload("pool-ramp", pool_ramp, "load on a pool that reads early ramps up"),
    overload("pool-closed", pool_closed, "far more clients that think than a pool serves"),
    overload("creeping", creeping, "load exceeds the capacity of any server by a few percent"),
    overload("reader-open", reader_open, "more come to a pool that reads late than it can answer"),
    overload(
        "gives-up",
        gives_up,
        "clients give up and ask again, and the work is done for nobody",
    ),
    overload("slow-cpu", slow_cpu, "a neighbour takes the CPU from an event loop"),
    overload("slow-upstream", slow_upstream, "an upstream becomes slow behind a proxy"),
    overload("full-upstream", full_upstream, "an upstream behind a proxy has too few workers"),
    overload("stuck", stuck, "a server stops answering, and goes on after a while"),
    healthy("steady", steady, "steady load on any server"),
    healthy("steady-closed", steady_closed, "clients that think, on any server"),
    healthy("benchmark", benchmark, "as many clients without a pause as workers"),
    healthy("bursts", bursts, "bursts that take less than half a second"),
    healthy("pauses", pauses, "collections of up to half a second"),
    healthy("stalls", stalls, "an event loop or all of a server stalls for a second at times"),
    healthy("long-polls", long_polls, "long polls, alone or beside requests, early or late"),
    healthy("subscribers", subscribers, "long polls that are all answered at once by news"),
    healthy("uploads", uploads, "uploads, of which some bytes are unread all the time"),
    healthy("sockets", sockets, "WebSockets, whose messages are answered or not"),
    healthy("streams", streams, "streams from the server"),
    healthy("idle", idle, "idle connections, on some of which the client had the last word"),
    healthy("slow-but-steady", slow_but_steady, "every request takes seconds, as ever"),
    healthy("daily", daily, "load that rises and falls, and is carried"),
    healthy("reports", reports, "a slow report now and then"),
    healthy("impatient", impatient, "clients that give up early, on a server that is in time"),
];
