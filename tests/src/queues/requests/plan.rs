//! Plan of one run, which its family draws: clients, server, and the agent's view of them.
//!
//! Times are seconds on the run's clock, rates requests a second. Overloads follow from the plan
//! and are not part of it.

use super::super::{
    line::Line,
    plan::{Scarce, Service, Source},
};
use crate::corpus::rng::Rng;

/// One address, its server and its clients.
pub(super) struct Plan {
    pub(super) secs: f64,
    pub(super) server: Server,
    pub(super) opens: Vec<Open>,
    pub(super) loops: Vec<Loop>,
    /// Time after which clients close their connection, and how often they ask again at once.
    pub(super) patience: Option<Patience>,
    pub(super) actors: Vec<Actor>,
    pub(super) scarce: Scarce,
    pub(super) look: Look,
}

/// Way in which requests are read and served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Serving {
    /// A worker reads a request when it is free for it: an event loop is one of them.
    Reads,
    /// Requests are read at once, and wait inside for one of the workers.
    Queues,
    /// Requests are read at once and passed on to an upstream, which has the workers.
    Passes(Evidence),
}

/// Sign by which a slow upstream shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// No sign: connections to it are kept.
    None,
    /// Connects to it stay pending.
    Pending,
    /// Waiting requests at the upstream itself, which is on this host.
    Local,
}

pub(super) struct Server {
    pub(super) serving: Serving,
    pub(super) workers: u32,
    pub(super) service: Service,
    /// Factor by which service takes longer than that.
    pub(super) slow: Line,
    /// Spans in which nothing runs, in order.
    pub(super) pauses: Vec<(f64, f64)>,
    /// Share of the time of a service in which its thread runs.
    pub(super) runs_share: f64,
}

impl Server {
    pub(super) fn new(serving: Serving, workers: u32, service: Service) -> Self {
        Self {
            serving,
            workers,
            service,
            slow: Line::flat(1.0),
            pauses: Vec::new(),
            runs_share: if workers == 1 { 1.0 } else { 0.1 },
        }
    }

    /// Requests a second that it can answer.
    pub(super) fn capacity(&self) -> f64 {
        f64::from(self.workers) / self.service.mean_secs
    }
}

/// Requests that come whether earlier ones were answered or not.
pub(super) struct Open {
    pub(super) source: Source,
    /// Set if each has a connection of its own; otherwise idle ones are used again.
    pub(super) anew: bool,
}

/// Clients that each wait for an answer, think, and ask again on the same connection.
#[derive(Clone, Copy)]
pub(super) struct Loop {
    pub(super) clients: u32,
    /// They come over this time.
    pub(super) from: f64,
    pub(super) over: f64,
    pub(super) to: f64,
    pub(super) think_secs: f64,
}

#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) secs: f64,
    pub(super) retries: u8,
}

/// Connections without a response at once, or without requests at all.
#[derive(Clone, Copy)]
pub(super) enum Actor {
    /// A request that is answered after so long, and asked again.
    LongPoll { from: f64, hold_secs: [f64; 2] },
    /// A long poll that is answered at the multiples of a time, or after another at the latest.
    Subscriber { from: f64, news_secs: f64, most_secs: f64 },
    /// Bytes that arrive all the time for so long, then rest.
    Upload { from: f64, lasts_secs: [f64; 2], rests_secs: f64 },
    /// Messages to the server, answered with this probability; it also sends of itself.
    Socket { from: f64, every_secs: f64, replies: f64, push_secs: f64 },
    /// A stream from the server.
    Stream { from: f64 },
    /// An idle connection; the last word may have been the client's.
    Idle { last_word: bool },
    /// A slow report now and then.
    Report { every_secs: f64, takes_secs: [f64; 2] },
}

/// The agent's view.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) interval_secs: f64,
    /// Ticks of the kernel's clock a second, by which ages are quantised.
    pub(super) hz: u32,
    /// Set if events within a tick are known by their order.
    pub(super) ordered: bool,
    /// Set if every response and every connection that ends is seen, not only what samples show.
    pub(super) exact: bool,
    /// Set if pressure on the service is read while requests wait.
    pub(super) strain: bool,
    /// Share of samples that come late, and their maximum delay.
    pub(super) late: (f64, f64),
}

impl Look {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        Self {
            interval_secs: rng.pick(&[0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 2.0]),
            hz: rng.pick(&[100, 250, 1_000]),
            ordered: rng.chance(0.5),
            exact: rng.chance(0.5),
            strain: rng.chance(0.7),
            late: if rng.chance(0.3) { (0.1, 0.3) } else { (0.0, 0.0) },
        }
    }
}
