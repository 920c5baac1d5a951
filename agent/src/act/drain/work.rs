//! Work that a node still has while it drains: the requests that its services have not answered.
//!
//! Idle connections are no work, and neither are requests of other programs. Requests are sampled,
//! so none in flight is believed once two passes over connections found none that began after the
//! node was drained, half a second apart: a request that follows a response within a tick of the
//! kernel's clock may hide in one, and one that was on its way when the balancer was told arrives
//! before the other. If requests are unknown, connections are counted, and reports say so; if those
//! cannot be counted either, the work is unknown, and the drain waits until its deadline. Cold
//! start: unknown.

use std::sync::Arc;

use crate::{
    config::Pattern,
    decide::{ListenerPlace, RequestsLeft, always_protected},
    sense::{EstablishedConnections, Hierarchy, SocketList},
};

/// Interval between counts of connections while a node drains, in seconds. A count walks all
/// connections, which may be a hundred thousand.
const COUNT_EVERY_SECS: f64 = 2.0;

/// Time for which a report of requests is awaited before connections are counted. A guess: several
/// passes.
const REPORTED_WITHIN_SECS: f64 = 5.0;

/// Minimum time between the two passes that found no request. A guess: longer than most pauses
/// between the requests of one page.
const QUIET_SECS: f64 = 0.5;

/// Work that a node has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkLeft {
    /// Requests are seen at every service.
    Requests(SeenWork),
    /// Requests are unknown at some or all services.
    Connections {
        /// Connections at these.
        connections: u64,
        /// Work that is seen.
        seen: SeenWork,
    },
    /// Neither is known.
    Unknown,
}

/// Work that is seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenWork {
    /// Requests in flight.
    pub in_flight: u64,
    /// Responses that go on.
    pub responding: u64,
    /// Connections that wait for accept().
    pub waiting: u64,
    /// Connections on which requests were looked for.
    pub connections: u64,
}

/// Counter of the work.
pub struct Work {
    connections: ConnectionCount,
    report: Option<RequestsLeft>,
    /// Time since which the work is counted.
    counts_since: Option<f64>,
    quiet: Quiet,
    left: WorkLeft,
}

/// Passes in a row that found no request in flight.
#[derive(Debug, Default)]
struct Quiet {
    /// Start of the first and of the last of them.
    passes: Option<(f64, f64)>,
}

impl WorkLeft {
    /// Returns whether there is none; unknown work is not none.
    pub fn is_none(self) -> bool {
        self.amount() == Some(0)
    }

    /// Requests and connections that are left; `None` if unknown.
    fn amount(self) -> Option<u64> {
        match self {
            Self::Requests(seen) => Some(seen.amount()),
            Self::Connections { connections, seen } => Some(connections + seen.amount()),
            Self::Unknown => None,
        }
    }

    /// Returns the amounts before and after, of the same kind, and its name; `None` if they cannot
    /// be compared.
    pub fn compared(self, after: Self) -> Option<(u64, u64, &'static str)> {
        let kind = match (self, after) {
            (Self::Requests(_), Self::Requests(_)) => "requests are in flight",
            (Self::Connections { .. }, Self::Connections { .. }) => "connections are served",
            _ => return None,
        };
        Some((self.amount()?, after.amount()?, kind))
    }

    /// Describes it in a sentence, once the drain waits for it no longer.
    pub fn describe(self) -> String {
        match self.amount() {
            Some(0) | None => self.summary(),
            Some(1) => format!("{}, and the drain no longer waits for it", self.summary()),
            Some(_) => format!("{}, and the drain no longer waits for them", self.summary()),
        }
    }

    /// Describes it in a few words.
    pub fn summary(self) -> String {
        let (seen, unseen) = match self {
            Self::Requests(seen) => (seen, 0),
            Self::Connections { connections, seen } => (seen, connections),
            Self::Unknown => return "the number of requests in flight is unknown".to_owned(),
        };
        let parts = [
            (seen.in_flight, "request is in flight", "requests are in flight"),
            (seen.responding, "response is being sent", "responses are being sent"),
            (seen.waiting, "connection waits for accept()", "connections wait for accept()"),
            (
                unseen,
                "connection is left, requests unknown",
                "connections are left, requests unknown",
            ),
        ];
        let parts = parts.into_iter().filter(|(number, ..)| *number > 0);
        let parts: Vec<_> = parts.map(|(number, one, more)| count(number, one, more)).collect();
        match (self, self.amount()) {
            (Self::Requests(SeenWork { connections: 1.., .. }), Some(0)) => {
                let open = count(seen.connections, "open connection", "open connections");
                format!("no request is in flight on {open}")
            }
            (Self::Requests(_), Some(0)) => "no request is in flight".to_owned(),
            (_, Some(0)) => "no connection is left, requests unknown".to_owned(),
            _ => parts.join(" and "),
        }
    }
}

impl SeenWork {
    fn amount(self) -> u64 {
        self.in_flight + self.responding + self.waiting
    }
}

impl From<&RequestsLeft> for SeenWork {
    fn from(left: &RequestsLeft) -> Self {
        let RequestsLeft { in_flight, responding, waiting, connections, .. } = *left;
        Self { in_flight, responding, waiting, connections }
    }
}

fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

impl Quiet {
    /// Takes a pass that began at `t`, and whether it found no work.
    fn take(&mut self, t: f64, is_quiet: bool) {
        self.passes = is_quiet.then(|| (self.passes.map_or(t, |(first, _)| first), t));
    }

    fn is_believed(&self) -> bool {
        self.passes.is_some_and(|(first, last)| last - first >= QUIET_SECS)
    }
}

impl Work {
    /// Creates a counter that leaves protected services out.
    pub fn new(protected: &[Pattern], list: Option<Arc<SocketList>>) -> Self {
        Self {
            connections: ConnectionCount::new(protected, list),
            report: None,
            counts_since: None,
            quiet: Quiet::default(),
            left: WorkLeft::Unknown,
        }
    }

    /// Takes a report of the requests left.
    pub fn report(&mut self, report: RequestsLeft) {
        self.report = Some(report);
    }

    /// Counts the work at `now` if `counts` is set. `drained_at` is the time at which the drain was
    /// granted.
    pub fn update(&mut self, now: f64, counts: bool, drained_at: Option<f64>) {
        if !counts {
            (self.counts_since, self.report, self.left) = (None, None, WorkLeft::Unknown);
            self.connections.reset();
            self.quiet = Quiet::default();
            return;
        }
        let since = *self.counts_since.get_or_insert(now);
        // A loop that stands still sends no report of its own standstill.
        self.report.take_if(|report| report.pass_t.is_some() && now > report.valid_until);
        self.left = match &self.report {
            Some(report) if report.pass_t.is_some() && report.unseen.is_empty() => {
                WorkLeft::Requests(report.into())
            }
            None if now - since < REPORTED_WITHIN_SECS => WorkLeft::Unknown,
            report => {
                let at = report.as_ref().map_or(&[][..], |report| &report.unseen);
                let seen = report.as_ref().map(SeenWork::from).unwrap_or_default();
                match self.connections.count(now, at) {
                    Some(connections) => WorkLeft::Connections { connections, seen },
                    None => WorkLeft::Unknown,
                }
            }
        };
        match (drained_at, self.report.as_ref().and_then(|report| report.pass_t)) {
            (Some(drained_at), Some(t)) if t > drained_at => {
                self.quiet.take(t, self.left.is_none());
            }
            _ => self.quiet = Quiet::default(),
        }
    }

    /// Returns whether none is left, and that is believed.
    pub fn is_done(&self) -> bool {
        // Connections do not hide: without a pass one count is enough.
        let rests_on_pass = self.report.as_ref().is_some_and(|report| report.pass_t.is_some());
        self.left.is_none() && (!rests_on_pass || self.quiet.is_believed())
    }

    /// Returns the work left.
    pub fn left(&self) -> WorkLeft {
        self.left
    }
}

/// Count of connections, for services whose requests are unknown.
struct ConnectionCount {
    established: EstablishedConnections,
    protected: Vec<Pattern>,
    /// Latest count, its time, and the listeners that it is of.
    latest: Option<(f64, Vec<ListenerPlace>, Option<u64>)>,
}

impl ConnectionCount {
    fn new(protected: &[Pattern], list: Option<Arc<SocketList>>) -> Self {
        let established = EstablishedConnections::new(Hierarchy::detect(), list);
        Self { established, protected: protected.to_vec(), latest: None }
    }

    fn reset(&mut self) {
        self.latest = None;
    }

    /// Counts the connections at these listeners, or without any those at every listener that is
    /// not protected, unless the last count is recent; `None` if they cannot be counted.
    fn count(&mut self, now: f64, at: &[ListenerPlace]) -> Option<u64> {
        if let Some((counted_at, of, connections)) = &self.latest
            && now - counted_at < COUNT_EVERY_SECS
            && of == at
        {
            return *connections;
        }
        let counted = match at {
            [] => self.count_all(now),
            at => self.established.count_at(now, at),
        };
        let connections = counted
            .inspect_err(|error| {
                tracing::debug!(%error, "cannot count connections; draining until the deadline");
            })
            .ok();
        self.latest = Some((now, at.to_vec(), connections));
        connections
    }

    fn count_all(&mut self, now: f64) -> std::io::Result<u64> {
        let own = std::process::id();
        let protected = &self.protected;
        self.established.count(now, |owner: Option<(u32, &str)>| {
            owner.is_none_or(|(pid, cgroup)| {
                pid != own
                    && !always_protected()
                        .iter()
                        .chain(protected)
                        .any(|pattern| pattern.covers(cgroup))
            })
        })
    }
}

#[cfg(test)]
mod tests;
