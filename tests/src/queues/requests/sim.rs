//! Simulation of one address, request by request: arrivals, waits, service, responses, and clients
//! that leave meanwhile.
//!
//! Times are whole nanoseconds and all chance comes from one seeded stream. A request whose client
//! has gone is served all the same: no server looks before it begins.

use std::collections::VecDeque;

use super::{
    super::{
        events::{EventQueue, next_clump},
        line::Line,
        socket::{Nanos, SECOND, nanos},
    },
    plan::{Actor, Plan, Serving},
    truth::{Truth, Waits},
};
use crate::corpus::rng::Rng;

/// Interval between samples of the truth.
const POLL: Nanos = 20_000_000;

/// Time between a response and the next request of a client that does not think, at least and at
/// most: the network's.
const ROUND_TRIP_SECS: [f64; 2] = [0.000_2, 0.02];

/// Idle connections of a balancer are closed beyond so many.
const IDLE_MAX: usize = 64;

/// Client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// An open source, with so many tries left.
    Open { place: u16, retries: u8 },
    /// A client of a loop.
    Looped { place: u16, retries: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Poll,
    /// A client of a loop asks, on its connection if it has one.
    Ask {
        who: Who,
        connection: Option<u32>,
    },
    /// A worker is done with a request.
    Done(u32),
    /// A client loses patience with a request.
    Leaves(u32),
    /// A pause is over.
    Wake,
    Actor(u32),
    /// A server has sent all of its answer on a connection of one request.
    Closed(u32),
}

/// One connection, as the kernel sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connection {
    /// Number of its life; 0 if there is none at this place.
    pub(super) life: u64,
    /// Times at which bytes were last received and sent; 0 if never.
    pub(super) received: Nanos,
    pub(super) sent: Nanos,
    /// Set if received bytes have not been read.
    pub(super) unread: bool,
    /// Set if the client has closed it.
    pub(super) left: bool,
    /// Set if bytes arrive all the time.
    pub(super) uploads: bool,
}

/// A request that is waiting or served.
#[derive(Debug, Clone, Copy)]
struct Request {
    who: Who,
    connection: u32,
    arrived: Nanos,
    started: Option<Nanos>,
    left: bool,
    ended: bool,
}

/// Totals so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) abandoned: u64,
    /// Connections made, and connects to the upstream.
    pub(super) connected: u64,
    pub(super) passed_on: u64,
}

pub(super) struct Sim {
    pub(super) plan: Plan,
    pub(super) connections: Vec<Connection>,
    pub(super) counts: Counts,
    pub(super) truth: Truth,
    pub(super) now: Nanos,
    rng: Rng,
    events: EventQueue<Event>,
    lives: u64,
    free: Vec<u32>,
    /// Idle kept connections of each open source.
    idle: Vec<Vec<u32>>,
    sources: Vec<Option<f64>>,
    requests: Vec<Request>,
    free_requests: Vec<u32>,
    queue: VecDeque<u32>,
    serving: Vec<u32>,
    /// Connection of each actor.
    actors: Vec<Option<u32>>,
    busy_total: Nanos,
    busy_since: Nanos,
}

impl Sim {
    pub(super) fn new(plan: Plan, rng: Rng) -> Self {
        let is_proxy = matches!(plan.server.serving, Serving::Passes(_));
        let upstream_secs = is_proxy.then_some(plan.server.service.mean_secs);
        let mut sim = Self {
            connections: Vec::new(),
            counts: Counts::default(),
            truth: Truth::new(plan.scarce, upstream_secs),
            now: 0,
            rng,
            events: EventQueue::new(),
            lives: 0,
            free: Vec::new(),
            idle: vec![Vec::new(); plan.opens.len()],
            sources: Vec::new(),
            requests: Vec::new(),
            free_requests: Vec::new(),
            queue: VecDeque::new(),
            serving: Vec::new(),
            actors: vec![None; plan.actors.len()],
            busy_total: 0,
            busy_since: 0,
            plan,
        };
        sim.events.push(0, Event::Poll);
        for place in 0..sim.plan.opens.len() {
            let next = sim.plan.opens[place].source.next(0.0, &mut sim.rng);
            sim.sources.push(next);
        }
        let retries = sim.plan.patience.map_or(0, |patience| patience.retries);
        for place in 0..sim.plan.loops.len() {
            let one = sim.plan.loops[place];
            for _ in 0..one.clients {
                let t = one.from + one.over.max(0.05) * sim.rng.unit();
                let who = Who::Looped { place: place as u16, retries };
                sim.events.push(nanos(t), Event::Ask { who, connection: None });
            }
        }
        for place in 0..sim.plan.pauses().len() {
            let until = sim.plan.pauses()[place].1;
            if until.is_finite() {
                sim.events.push(nanos(until), Event::Wake);
            }
        }
        for place in 0..sim.plan.actors.len() {
            let from = match sim.plan.actors[place] {
                Actor::LongPoll { from, .. }
                | Actor::Subscriber { from, .. }
                | Actor::Upload { from, .. }
                | Actor::Socket { from, .. }
                | Actor::Stream { from } => from,
                Actor::Idle { .. } => 0.0,
                Actor::Report { every_secs, .. } => every_secs * sim.rng.unit(),
            };
            sim.events.push(nanos(from), Event::Actor(place as u32));
        }
        sim
    }

    fn push_in(&mut self, secs: f64, event: Event) {
        self.events.push(self.now + nanos(secs), event);
    }

    /// Lets everything happen up to and including `until`.
    pub(super) fn advance(&mut self, until: Nanos) {
        loop {
            let (event, source) = (self.events.next_t(), next_clump(&self.sources));
            let t = event.min(source.0);
            if t > until {
                self.now = until;
                return;
            }
            self.now = t.max(self.now);
            if t == event {
                if let Some(event) = self.events.pop() {
                    self.happen(event);
                }
            } else {
                self.clump(source.1);
            }
        }
    }

    fn clump(&mut self, place: usize) {
        let source = &self.plan.opens[place].source;
        let ([least, most], spread_secs) = (source.clump, source.spread_secs);
        self.sources[place] = source.next(self.sources[place].unwrap_or_default(), &mut self.rng);
        let retries = self.plan.patience.map_or(0, |patience| patience.retries);
        let who = Who::Open { place: place as u16, retries };
        if most <= 1 {
            return self.ask(who, None);
        }
        let count = u64::from(least) + self.rng.below(u64::from(most - least) + 1);
        for _ in 0..count {
            let secs = spread_secs * self.rng.unit();
            self.push_in(secs, Event::Ask { who, connection: None });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Poll => {
                let waits = self.waits();
                self.truth.poll(self.now, waits);
                self.events.push(self.now + POLL, Event::Poll);
            }
            Event::Ask { who, connection } => self.ask(who, connection),
            Event::Done(request) => self.done(request),
            Event::Leaves(request) => self.leave(request),
            Event::Wake => {
                if self.plan.server.serving != Serving::Reads {
                    for place in 0..self.queue.len() {
                        let request = self.queue[place];
                        self.read(request);
                    }
                }
                self.serve();
            }
            Event::Actor(place) => self.act(place),
            Event::Closed(connection) => self.close(connection),
        }
    }

    fn open(&mut self) -> u32 {
        self.lives += 1;
        self.counts.connected += 1;
        let connection = Connection { life: self.lives, ..Connection::default() };
        match self.free.pop() {
            Some(place) => {
                self.connections[place as usize] = connection;
                place
            }
            None => {
                self.connections.push(connection);
                (self.connections.len() - 1) as u32
            }
        }
    }

    fn close(&mut self, connection: u32) {
        self.connections[connection as usize] = Connection::default();
        self.free.push(connection);
    }

    fn ask(&mut self, who: Who, connection: Option<u32>) {
        let connection = match (who, connection) {
            (_, Some(connection)) => connection,
            (Who::Open { place, .. }, None) if !self.plan.opens[usize::from(place)].anew => {
                match self.idle[usize::from(place)].pop() {
                    Some(idle) => idle,
                    None => self.open(),
                }
            }
            _ => self.open(),
        };
        let now = self.now;
        let request =
            Request { who, connection, arrived: now, started: None, left: false, ended: false };
        let number = match self.free_requests.pop() {
            Some(place) => {
                self.requests[place as usize] = request;
                place
            }
            None => {
                self.requests.push(request);
                (self.requests.len() - 1) as u32
            }
        };
        let one = &mut self.connections[connection as usize];
        (one.received, one.unread) = (now.max(1), true);
        if let Some(patience) = self.plan.patience {
            self.push_in(patience.secs, Event::Leaves(number));
        }
        if self.plan.server.serving != Serving::Reads && self.pause_end(now).is_none() {
            self.read(number);
        }
        self.queue.push_back(number);
        self.serve();
    }

    fn read(&mut self, request: u32) {
        let connection = self.requests[request as usize].connection;
        self.connections[connection as usize].unread = false;
    }

    /// End of the pause of this moment, if there is one.
    fn pause_end(&self, now: Nanos) -> Option<Nanos> {
        let t = now as f64 / SECOND;
        let pauses = self.plan.pauses();
        pauses.iter().find(|pause| pause.0 <= t && t < pause.1 - 1e-9).map(|pause| nanos(pause.1))
    }

    fn serve(&mut self) {
        if self.pause_end(self.now).is_some() {
            return;
        }
        let workers = self.plan.server.workers as usize;
        while self.serving.len() < workers {
            let Some(request) = self.queue.pop_front() else { return };
            self.account();
            self.read(request);
            self.requests[request as usize].started = Some(self.now);
            self.serving.push(request);
            self.counts.passed_on += 1;
            let server = &self.plan.server;
            let slow: &Line = &server.slow;
            let work = server.service.draw(&mut self.rng) * slow.at(self.now as f64 / SECOND);
            let end = self.finish(nanos(work).max(1));
            self.events.push(end, Event::Done(request));
        }
    }

    /// End of work of this length that begins now, pauses left out.
    fn finish(&self, mut work: Nanos) -> Nanos {
        let mut t = self.now;
        for &(from, to) in self.plan.pauses() {
            let (from, to) = (nanos(from), nanos(to));
            if to <= t {
                continue;
            }
            if from >= t.saturating_add(work) {
                break;
            }
            work -= from.saturating_sub(t);
            t = to;
        }
        t.saturating_add(work)
    }

    fn done(&mut self, number: u32) {
        self.account();
        self.serving.retain(|other| *other != number);
        let request = self.requests[number as usize];
        self.requests[number as usize].ended = true;
        if request.left {
            self.close(request.connection);
        } else {
            self.counts.answered += 1;
            self.connections[request.connection as usize].sent = self.now;
            self.answered(request);
        }
        if request.left || self.plan.patience.is_none() {
            self.free_requests.push(number);
        }
        self.serve();
    }

    fn answered(&mut self, request: Request) {
        let retries = self.plan.patience.map_or(0, |patience| patience.retries);
        match request.who {
            Who::Open { place, .. } => {
                let place = usize::from(place);
                if self.plan.opens[place].anew || self.idle[place].len() >= IDLE_MAX {
                    self.push_in(0.000_5, Event::Closed(request.connection));
                } else {
                    self.idle[place].push(request.connection);
                }
            }
            Who::Looped { place, .. } => {
                let one = self.plan.loops[usize::from(place)];
                let rests = if one.think_secs > 0.0 {
                    one.think_secs * self.rng.exponential()
                } else {
                    0.0
                };
                let secs = rests + self.rng.log_range(ROUND_TRIP_SECS[0], ROUND_TRIP_SECS[1]);
                if self.now as f64 / SECOND + secs < one.to {
                    let who = Who::Looped { place, retries };
                    self.push_in(secs, Event::Ask { who, connection: Some(request.connection) });
                } else {
                    self.close(request.connection);
                }
            }
        }
    }

    fn leave(&mut self, number: u32) {
        let request = self.requests[number as usize];
        if request.ended {
            // Its place is free only now, so that no later request is taken for it.
            return self.free_requests.push(number);
        }
        self.requests[number as usize].left = true;
        self.counts.abandoned += 1;
        self.connections[request.connection as usize].left = true;
        let think_secs = match request.who {
            Who::Looped { place, .. } => self.plan.loops[usize::from(place)].think_secs,
            Who::Open { .. } => 0.0,
        };
        let retries_then = self.plan.patience.map_or(0, |patience| patience.retries);
        let next = match request.who {
            Who::Open { place, retries } => {
                retries.checked_sub(1).map(|retries| (Who::Open { place, retries }, 0.01))
            }
            Who::Looped { place, retries } => Some(match retries.checked_sub(1) {
                Some(retries) => (Who::Looped { place, retries }, 0.01),
                None => (
                    Who::Looped { place, retries: retries_then },
                    think_secs * self.rng.exponential() + 0.01,
                ),
            }),
        };
        if let Some((who, secs)) = next {
            self.push_in(secs, Event::Ask { who, connection: None });
        }
    }

    fn account(&mut self) {
        let span = self.now - self.busy_since;
        self.busy_total += span * self.serving.len() as Nanos;
        self.busy_since = self.now;
    }

    /// Time that all workers together have served.
    pub(super) fn busy_total(&mut self) -> Nanos {
        self.account();
        self.busy_total
    }

    /// Requests that wait, and for how long: those that no worker has begun, and those passed on to
    /// an upstream for much longer than usual.
    fn waits(&self) -> Waits {
        let passes = matches!(self.plan.server.serving, Serving::Passes(_));
        let usual = nanos(3.0 * self.plan.server.service.mean_secs);
        let mut waits = Waits::default();
        let mut note = |since: Nanos| {
            waits.count += 1;
            waits.longest = waits.longest.max(self.now - since);
        };
        for request in &self.queue {
            let request = &self.requests[*request as usize];
            if !request.left {
                note(request.arrived);
            }
        }
        // While nothing runs, requests that were begun wait as well.
        let paused = self.pause_end(self.now).is_some();
        for request in self.serving.iter().filter(|_| passes || paused) {
            let request = &self.requests[*request as usize];
            let since = request.started.unwrap_or(request.arrived) + usual;
            if !request.left && since < self.now {
                note(since);
            }
        }
        waits
    }

    fn act(&mut self, place: u32) {
        let now = self.now;
        let actor = self.plan.actors[place as usize];
        let known = self.actors[place as usize];
        let connection = known.unwrap_or_else(|| self.open());
        self.actors[place as usize] = Some(connection);
        let one = &mut self.connections[connection as usize];
        // In turns: it asks, or it is answered.
        let asks = one.received <= one.sent;
        let again = match actor {
            Actor::LongPoll { hold_secs, .. } => {
                if asks {
                    one.received = now.max(1);
                    Some(self.rng.range(hold_secs[0], hold_secs[1]))
                } else {
                    one.sent = now;
                    self.counts.answered += 1;
                    Some(self.rng.range(0.001, 0.03))
                }
            }
            Actor::Subscriber { news_secs, most_secs, .. } => {
                if asks {
                    one.received = now.max(1);
                    let t = now as f64 / SECOND;
                    let news = (libm::floor(t / news_secs) + 1.0) * news_secs - t;
                    Some(news.min(most_secs) + self.rng.range(0.0, 0.005))
                } else {
                    one.sent = now;
                    self.counts.answered += 1;
                    Some(self.rng.range(0.001, 0.03))
                }
            }
            Actor::Upload { lasts_secs, rests_secs, .. } => {
                if one.uploads {
                    (one.uploads, one.unread, one.sent) = (false, false, now);
                    self.counts.answered += 1;
                    Some(rests_secs * self.rng.exponential())
                } else {
                    (one.uploads, one.received) = (true, now.max(1));
                    Some(self.rng.range(lasts_secs[0], lasts_secs[1]))
                }
            }
            Actor::Socket { every_secs, replies, push_secs, .. } => {
                // Its first message is the handshake, which is answered.
                let is_first = known.is_none();
                one.received = now.max(1);
                if is_first || self.rng.chance(replies) {
                    one.sent = now + nanos(0.002);
                    self.counts.answered += 1;
                } else if push_secs > 0.0 && self.rng.chance((every_secs / push_secs).min(1.0)) {
                    one.sent = now + nanos(self.rng.unit() * every_secs);
                }
                Some(every_secs * self.rng.exponential())
            }
            Actor::Stream { .. } => {
                if known.is_none() {
                    one.received = now.max(1);
                }
                one.sent = now + 1;
                Some(0.5)
            }
            Actor::Idle { last_word } => {
                one.received = now.max(1);
                one.sent = if last_word { now.max(1) - 1 } else { now + 1 };
                None
            }
            Actor::Report { every_secs, takes_secs } => {
                if asks {
                    one.received = now.max(1);
                    Some(self.rng.range(takes_secs[0], takes_secs[1]))
                } else {
                    one.sent = now;
                    self.counts.answered += 1;
                    Some(every_secs * self.rng.exponential())
                }
            }
        };
        if let Some(secs) = again {
            self.push_in(secs, Event::Actor(place));
        }
    }

    /// Requests that the upstream has, and the age of the oldest.
    pub(super) fn passed_on(&self) -> (u32, Nanos) {
        let live = self.serving.iter().chain(&self.queue);
        let live = live.map(|request| &self.requests[*request as usize]);
        let ages = live.map(|request| self.now - request.arrived);
        ages.fold((0, 0), |(count, oldest), age| (count + 1, oldest.max(age)))
    }
}

impl Plan {
    fn pauses(&self) -> &[(f64, f64)] {
        &self.server.pauses
    }
}
