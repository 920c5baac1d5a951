//! Worker of a service that has several processes: the one that a claim is about.
//!
//! The owner of a shared socket is its master, which answers nothing; so is one that passes each
//! connection to a process of its own. The sensors tell which process has kept a request, or a
//! connection to a UNIX listener, for longest. If they do not know it, the claim names the service
//! and no process, rather than a wrong one.

use crate::sense::{ListenerFact, RequestsFact};

/// Process other than the owner of a listener that has kept a request or a connection for longest,
/// or one of those that share the listener.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StuckWorker {
    /// Process.
    pub pid: u32,
    /// Time for which it has been seen to keep that, in seconds.
    pub secs: f64,
    /// True if it shares the listener; false if it was given the connection by the owner.
    pub shares: bool,
}

impl StuckWorker {
    fn new(pid: Option<u32>, us: Option<u64>) -> Option<Self> {
        Some(Self { pid: pid?, secs: us? as f64 / 1e6, shares: true })
    }

    /// Returns the one that a sample of requests shows.
    pub(super) fn at(requests: &RequestsFact) -> Option<Self> {
        Self::new(requests.stuck_pid, requests.stuck_us)
    }
}

/// Processes that take the connections of an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Takers {
    /// The owner of its only listener.
    #[default]
    Owner,
    /// Several that share a listener, or have one each.
    Sharers,
    /// One for each connection, to which the owner passes it.
    Passed,
}

/// Process that a claim about a listener is about.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ClaimSubject {
    /// Process to name; `None` if it is not known.
    pub(super) pid: Option<u32>,
    /// That process if it is a worker.
    pub(super) worker: Option<StuckWorker>,
}

impl ClaimSubject {
    /// Returns the process that a claim about a socket is about. `by_requests` is the worker that
    /// the requests at its address show.
    pub(super) fn of(
        listener: &ListenerFact,
        by_requests: Option<StuckWorker>,
        taken_by: Takers,
    ) -> Self {
        let by_connections = StuckWorker::new(listener.stuck_pid, listener.stuck_us);
        let worker = match taken_by {
            Takers::Owner => return Self { pid: listener.pid, worker: None },
            Takers::Sharers => by_requests.or(by_connections),
            Takers::Passed => by_requests.map(|worker| StuckWorker { shares: false, ..worker }),
        };
        Self { pid: worker.map(|worker| worker.pid), worker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: Option<u32> = Some(811);

    fn listener(holders: Option<u32>, stuck_pid: Option<u32>) -> ListenerFact {
        let stuck_us = stuck_pid.map(|_| 2_000_000);
        ListenerFact { pid: MASTER, holders, stuck_pid, stuck_us, ..ListenerFact::default() }
    }

    fn by_requests(pid: u32) -> Option<StuckWorker> {
        let requests = RequestsFact {
            stuck_pid: Some(pid),
            stuck_us: Some(1_500_000),
            ..RequestsFact::default()
        };
        StuckWorker::at(&requests)
    }

    #[test]
    fn master_is_named_only_if_it_has_no_workers() {
        let alone = ClaimSubject::of(&listener(None, None), by_requests(812), Takers::Owner);
        assert_eq!(alone, ClaimSubject { pid: MASTER, worker: None });
        let unknown = ClaimSubject::default();
        assert_eq!(ClaimSubject::of(&listener(Some(5), None), None, Takers::Sharers), unknown);
        assert_eq!(ClaimSubject::of(&listener(None, None), None, Takers::Passed), unknown);
    }

    #[test]
    fn worker_with_the_oldest_request_or_connection_is_named() {
        let of = |listener: &ListenerFact, worker, takers| {
            let subject = ClaimSubject::of(listener, worker, takers);
            (subject.pid, subject.worker.map(|worker| (worker.secs, worker.shares)))
        };
        let pool = |stuck| listener(Some(5), stuck);
        let by_request = of(&pool(None), by_requests(812), Takers::Sharers);
        assert_eq!(by_request, (Some(812), Some((1.5, true))));
        assert_eq!(of(&pool(Some(813)), None, Takers::Sharers), (Some(813), Some((2.0, true))));
        let given = of(&listener(None, None), by_requests(812), Takers::Passed);
        assert_eq!(given, (Some(812), Some((1.5, false))));
    }
}
