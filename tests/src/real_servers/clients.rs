//! Clients with known waits: each request's time of sending and of its response are noted, so that
//! the truth does not depend on the agent.
//!
//! Open clients send requests when they are due, whatever happens to earlier ones. Closed ones wait
//! for their response before they send the next. All of them run in the scene's thread, because a
//! socket belongs to the network namespace of the thread that makes it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    task::{AbortHandle, spawn_local},
    time::{sleep, timeout},
};

use super::wire::{Connection, Target, Wire, connect, exchange};
use crate::{corpus::rng::Rng, now};

/// Maximum number of requests in flight; more are not sent, and counted.
const IN_FLIGHT_MAX: usize = 1_500;

/// Rest of a closed client after a request that failed.
const RESTS_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Way in which clients use connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Each request has a connection of its own.
    New,
    /// Idle connections are used again.
    Pooled,
}

/// Requests that were sent and how they ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Requests that were sent.
    pub sent: u32,
    /// Requests that were answered.
    pub answered: u32,
    /// Requests that failed: refused, reset or answered with an error.
    pub failed: u32,
    /// Requests whose client gave up.
    pub given_up: u32,
    /// Requests that were due while too many were in flight.
    pub not_sent: u32,
}

/// Requests of one scene.
#[derive(Clone)]
pub(super) struct Clients {
    target: Target,
    wire: Wire,
    patience: Option<Duration>,
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    rng: Rng,
    next: u64,
    in_flight: BTreeMap<u64, Instant>,
    idle: Vec<Connection>,
    counts: Counts,
    error: Option<String>,
}

impl Clients {
    pub(super) fn new(target: Target, wire: Wire, patience: Option<Duration>) -> Self {
        let shared = Shared {
            rng: Rng::new("scene", 0),
            next: 0,
            in_flight: BTreeMap::new(),
            idle: Vec::new(),
            counts: Counts::default(),
            error: None,
        };
        Self { target, wire, patience, shared: Rc::new(RefCell::new(shared)) }
    }

    pub(super) fn counts(&self) -> Counts {
        self.shared.borrow().counts
    }

    /// First error of a request.
    pub(super) fn error(&self) -> Option<String> {
        self.shared.borrow().error.clone()
    }

    /// Ages of the requests in flight, the oldest first.
    pub(super) fn ages(&self) -> Vec<Duration> {
        let now = now();
        self.shared.borrow().in_flight.values().map(|sent| now.duration_since(*sent)).collect()
    }

    /// Seconds until the next request at this rate: independent of each other, or nearly even.
    pub(super) fn gap(&self, rate: f64, is_even: bool) -> Duration {
        let shared = &mut *self.shared.borrow_mut();
        let factor = if is_even { shared.rng.range(0.5, 1.5) } else { shared.rng.exponential() };
        Duration::from_secs_f64(factor / rate)
    }

    /// Sends one request.
    pub(super) fn send(&self, connections: Connections) {
        if self.shared.borrow().in_flight.len() >= IN_FLIGHT_MAX {
            self.shared.borrow_mut().counts.not_sent += 1;
            return;
        }
        let clients = self.clone();
        drop(spawn_local(async move { clients.ask(connections).await }));
    }

    /// Starts clients that send a request after each response, until they are aborted.
    pub(super) fn closed(&self, count: u32) -> Vec<AbortHandle> {
        let one = || {
            let clients = self.clone();
            spawn_local(async move {
                loop {
                    if !clients.ask(Connections::Pooled).await {
                        sleep(RESTS_AFTER_FAILURE).await;
                    }
                }
            })
            .abort_handle()
        };
        (0..count).map(|_| one()).collect()
    }

    /// Sends a request and waits for its end; returns whether it was answered.
    pub(super) async fn ask(&self, connections: Connections) -> bool {
        // Taken out however this ends, also if the client is aborted.
        let _noted = Noted::new(&self.shared);
        let asked = self.asked(connections);
        let answered = match self.patience {
            Some(patience) => timeout(patience, asked).await,
            None => Ok(asked.await),
        };
        let is_answered = matches!(answered, Ok(Ok(())));
        let shared = &mut *self.shared.borrow_mut();
        match answered {
            Err(_) => shared.counts.given_up += 1,
            Ok(Ok(())) => shared.counts.answered += 1,
            Ok(Err(error)) => {
                shared.counts.failed += 1;
                shared.error.get_or_insert(error.to_string());
            }
        }
        is_answered
    }

    async fn asked(&self, connections: Connections) -> std::io::Result<()> {
        let keep = connections == Connections::Pooled;
        let idle = if keep { self.shared.borrow_mut().idle.pop() } else { None };
        // A server may close an idle connection at any time, also when the request arrives.
        if let Some(mut connection) = idle
            && let Ok(stays) = exchange(&mut connection, &self.wire, keep).await
        {
            self.keep(connection, stays);
            return Ok(());
        }
        let mut connection = connect(&self.target, &self.wire).await?;
        let stays = exchange(&mut connection, &self.wire, keep).await?;
        self.keep(connection, stays && keep);
        Ok(())
    }

    fn keep(&self, connection: Connection, stays: bool) {
        if stays {
            self.shared.borrow_mut().idle.push(connection);
        }
    }
}

/// Request that counts as in flight.
struct Noted {
    number: u64,
    shared: Rc<RefCell<Shared>>,
}

impl Noted {
    fn new(shared: &Rc<RefCell<Shared>>) -> Self {
        let own = &mut *shared.borrow_mut();
        let number = own.next;
        own.next += 1;
        own.counts.sent += 1;
        own.in_flight.insert(number, now());
        Self { number, shared: shared.clone() }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.shared.borrow_mut().in_flight.remove(&self.number);
    }
}
