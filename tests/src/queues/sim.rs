//! Event-driven simulation of one listener address: connections, waiting, accepts and drops.
//!
//! Times are whole nanoseconds and all randomness comes from one seeded stream, so a run is the
//! same everywhere. Clients whose connection is dropped retry after 1, 3 and 7 s, as TCP does, at
//! the same socket, since their ports hash alike; then they give up.

use std::collections::VecDeque;

use super::{
    events::{EventQueue, next_clump},
    plan::{Accepts, Plan},
    socket::{Client, Nanos, SECOND, Socket, Waiting, nanos},
    truth::Truth,
};
use crate::corpus::rng::Rng;

/// Seconds between a connection's tries; it is given up after the last.
const TRIES_SECS: [f64; 3] = [1.0, 2.0, 4.0];

/// Delay after which a client of a closed loop starts over once it gave up or was refused or reset.
/// A guess.
const AGAIN_SECS: f64 = 1.0;

/// Interval between samples of the truth.
const POLL: Nanos = 50_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Poll,
    Opens(u16),
    Closes(u16),
    /// Try to connect; the first one (0) goes to any socket.
    Connect {
        client: Client,
        tries: u8,
        socket: u16,
    },
    /// A worker has finished with a client.
    Free {
        socket: u16,
        client: Client,
    },
    /// Next turn of a socket's accept loop.
    Turn(u16),
}

/// Client that gives up after a while.
struct Patient {
    until: Nanos,
    answered: bool,
}

/// Address with its clients and servers.
pub(super) struct Sim {
    pub(super) plan: Plan,
    pub(super) sockets: Vec<Socket>,
    pub(super) truth: Truth,
    /// Tries after a drop.
    pub(super) retransmits_total: u64,
    /// Tries without any listener.
    pub(super) refused_total: u64,
    /// Clients that gave up.
    pub(super) given_up_total: u64,
    now: Nanos,
    rng: Rng,
    events: EventQueue<Event>,
    /// Time of each source's next clump, in seconds.
    sources: Vec<Option<f64>>,
    burst: usize,
    patients: VecDeque<Patient>,
    /// Number of the first patient client.
    patient: u64,
}

impl Sim {
    pub(super) fn new(plan: Plan, rng: Rng) -> Self {
        let mut sim = Self {
            sockets: plan.sockets.iter().cloned().map(Socket::new).collect(),
            truth: Truth::new(&plan),
            retransmits_total: 0,
            refused_total: 0,
            given_up_total: 0,
            now: 0,
            rng,
            events: EventQueue::new(),
            sources: Vec::new(),
            burst: 0,
            patients: VecDeque::new(),
            patient: 0,
            plan,
        };
        sim.events.push(0, Event::Poll);
        for place in 0..sim.sockets.len() {
            let (opens, closes) = (sim.sockets[place].plan.opens, sim.sockets[place].plan.closes);
            sim.events.push(nanos(opens), Event::Opens(place as u16));
            if closes.is_finite() {
                sim.events.push(nanos(closes), Event::Closes(place as u16));
            }
        }
        for place in 0..sim.plan.loops.len() {
            let (from, clients, think) = (
                sim.plan.loops[place].from,
                sim.plan.loops[place].clients,
                sim.plan.loops[place].think_secs,
            );
            for _ in 0..clients {
                // Clients start spread over one round, or over a tenth of a second.
                let t = from + think.max(0.1) * sim.rng.unit();
                sim.events.push(
                    nanos(t),
                    Event::Connect { client: Client::Looped(place as u16), tries: 0, socket: 0 },
                );
            }
        }
        for place in 0..sim.plan.sources.len() {
            let next = sim.plan.sources[place].next(0.0, &mut sim.rng);
            sim.sources.push(next);
        }
        sim
    }

    fn push_in(&mut self, secs: f64, event: Event) {
        self.events.push(self.now + nanos(secs), event);
    }

    /// Processes all events up to and including `until`.
    pub(super) fn advance(&mut self, until: Nanos) {
        loop {
            let (event, source) = (self.events.next_t(), next_clump(&self.sources));
            let burst = self.plan.bursts.get(self.burst).map_or(Nanos::MAX, |burst| nanos(burst.t));
            let patient = self.patients.front().map_or(Nanos::MAX, |patient| patient.until);
            let t = event.min(source.0).min(burst).min(patient);
            if t > until {
                self.now = until;
                return;
            }
            self.now = t.max(self.now);
            if t == event {
                if let Some(event) = self.events.pop() {
                    self.happen(event);
                }
            } else if t == source.0 {
                self.clump(source.1);
            } else if t == burst {
                let burst = self.plan.bursts[self.burst];
                self.burst += 1;
                self.spread(burst.count, burst.spread_secs);
            } else {
                self.lose_patience();
            }
        }
    }

    fn clump(&mut self, place: usize) {
        let source = &self.plan.sources[place];
        let ([least, most], spread_secs) = (source.clump, source.spread_secs);
        self.sources[place] = source.next(self.sources[place].unwrap_or_default(), &mut self.rng);
        if most <= 1 {
            let client = self.newcomer();
            return self.connect(client, 0, 0);
        }
        let count = u64::from(least) + self.rng.below(u64::from(most - least) + 1);
        self.spread(count as u32, spread_secs);
    }

    fn spread(&mut self, count: u32, spread_secs: f64) {
        for _ in 0..count {
            let secs = spread_secs * self.rng.unit();
            self.push_in(secs, Event::Connect { client: Client::Stranger, tries: 0, socket: 0 });
        }
    }

    /// Client that connects for the first time, or again after losing patience.
    fn newcomer(&mut self) -> Client {
        let Some(patience_secs) = self.plan.patience_secs else { return Client::Stranger };
        self.patients
            .push_back(Patient { until: self.now + nanos(patience_secs), answered: false });
        Client::Patient(self.patient + self.patients.len() as u64 - 1)
    }

    fn lose_patience(&mut self) {
        self.patient += 1;
        if let Some(patient) = self.patients.pop_front()
            && !patient.answered
        {
            self.given_up_total += 1;
            let client = self.newcomer();
            self.connect(client, 0, 0);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Poll => {
                for place in 0..self.sockets.len() {
                    // Detects stops even without arrivals.
                    let _ = self.sockets[place].held_until(self.now);
                }
                self.truth.poll(self.now, &self.sockets);
                self.events.push(self.now + POLL, Event::Poll);
            }
            Event::Opens(place) => {
                let socket = &mut self.sockets[usize::from(place)];
                (socket.open, socket.empty_t, socket.found_empty) = (true, self.now, None);
                self.take(usize::from(place));
            }
            Event::Closes(place) => self.close(usize::from(place)),
            Event::Connect { client, tries, socket } => {
                self.connect(client, tries, usize::from(socket))
            }
            Event::Free { socket, client } => {
                let place = usize::from(socket);
                if self.sockets[place].open {
                    self.sockets[place].done(self.now);
                    self.answer(client);
                    self.take(place);
                }
            }
            Event::Turn(place) => {
                self.sockets[usize::from(place)].turn = None;
                self.take(usize::from(place));
            }
        }
    }

    fn close(&mut self, place: usize) {
        let socket = &mut self.sockets[place];
        socket.open = false;
        socket.counts.reset += socket.queue.len() as u64;
        socket.empty_t = self.now;
        let clients: Vec<_> = socket.queue.drain(..).map(|waiting| waiting.client).collect();
        clients.into_iter().for_each(|client| self.start_over(client));
    }

    fn start_over(&mut self, client: Client) {
        if matches!(client, Client::Looped(_)) {
            self.push_in(AGAIN_SECS, Event::Connect { client, tries: 0, socket: 0 });
        }
    }

    fn answer(&mut self, client: Client) {
        match client {
            Client::Stranger => {}
            Client::Looped(place) => {
                let one = &self.plan.loops[usize::from(place)];
                let think = if one.think_secs > 0.0 {
                    one.think_secs * self.rng.exponential()
                } else {
                    0.0
                };
                if self.now as f64 / SECOND + think < one.to {
                    self.push_in(think, Event::Connect { client, tries: 0, socket: 0 });
                }
            }
            Client::Patient(number) => {
                let place = number.checked_sub(self.patient);
                if let Some(patient) = place.and_then(|place| self.patients.get_mut(place as usize))
                {
                    patient.answered = true;
                }
            }
        }
    }

    fn connect(&mut self, client: Client, tries: u8, before: usize) {
        let place = if tries > 0 && self.sockets[before].open { Some(before) } else { self.pick() };
        let Some(place) = place else {
            self.refused_total += 1;
            return self.start_over(client);
        };
        self.retransmits_total += u64::from(tries > 0);
        let (now, socket) = (self.now, &mut self.sockets[place]);
        if socket.has_room(self.plan.backlog_max) {
            socket.counts.arrived += 1;
            if socket.queue.is_empty() {
                socket.found_empty = Some(now);
            }
            socket.queue.push_back(Waiting { since: now, client });
            return self.take(place);
        }
        socket.counts.dropped += 1;
        self.truth.dropped(now);
        match TRIES_SECS.get(usize::from(tries)) {
            // A client that has lost patience has a new connection by now.
            Some(secs) if !self.gives_up_within(client, *secs) => {
                self.push_in(
                    *secs,
                    Event::Connect { client, tries: tries + 1, socket: place as u16 },
                );
            }
            Some(_) => {}
            None => {
                self.given_up_total += 1;
                self.start_over(client);
            }
        }
    }

    fn gives_up_within(&self, client: Client, secs: f64) -> bool {
        let Client::Patient(number) = client else { return false };
        let place = number.checked_sub(self.patient).map(|place| place as usize);
        place
            .and_then(|place| self.patients.get(place))
            .is_none_or(|patient| patient.until <= self.now + nanos(secs))
    }

    /// Picks an open socket by hash.
    fn pick(&mut self) -> Option<usize> {
        let open = self.sockets.iter().filter(|socket| socket.open).count();
        let nth = match open {
            0 => return None,
            1 => 0,
            many => self.rng.below(many as u64) as usize,
        };
        self.sockets
            .iter()
            .enumerate()
            .filter(|(_, socket)| socket.open)
            .nth(nth)
            .map(|(place, _)| place)
    }

    /// Accepts all connections that may be accepted now.
    fn take(&mut self, place: usize) {
        let now = self.now;
        if !self.sockets[place].open {
            return;
        }
        match self.sockets[place].plan.accepts {
            Accepts::Workers(_) => loop {
                let socket = &mut self.sockets[place];
                if socket.queue.is_empty() || !socket.has_idle() {
                    return;
                }
                if let Some(until) = socket.held_until(now) {
                    return self.turn(place, until);
                }
                let Some(client) = accept(socket, &mut self.truth, now, place) else { return };
                if socket.begin(now) {
                    let work = socket.plan.service.draw(&mut self.rng)
                        * socket.plan.slow.at(now as f64 / SECOND);
                    let end = socket.finish(now, nanos(work).max(1));
                    self.events.push(end, Event::Free { socket: place as u16, client });
                }
            },
            Accepts::Turns { secs, most } => {
                if self.sockets[place].turn.is_some() {
                    return;
                }
                if let Some(until) = self.sockets[place].held_until(now) {
                    return self.turn(place, until);
                }
                for _ in 0..most {
                    let socket = &mut self.sockets[place];
                    let Some(client) = accept(socket, &mut self.truth, now, place) else { break };
                    self.answer(client);
                }
                let next = nanos(self.rng.range(secs[0], secs[1]));
                self.turn(place, now + next);
            }
        }
    }

    fn turn(&mut self, place: usize, t: Nanos) {
        let socket = &mut self.sockets[place];
        if socket.turn.is_none_or(|turn| t < turn) && t < nanos(f64::INFINITY) {
            socket.turn = Some(t);
            self.events.push(t, Event::Turn(place as u16));
        }
    }
}

/// Accepts the head of a socket's queue.
fn accept(socket: &mut Socket, truth: &mut Truth, now: Nanos, place: usize) -> Option<Client> {
    let wait = socket.head_age(now)?;
    truth.accepted(now, place, wait);
    socket.accept(now)
}
