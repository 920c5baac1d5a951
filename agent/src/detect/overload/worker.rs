//! Worker among the processes that share a listener: the one that a claim is about.
//!
//! The owner of a shared socket is its master, which answers nothing. The sensors tell which
//! process has kept a request, or a connection to a UNIX listener, for longest. If they do not know
//! it, the claim names the service and no process, rather than a wrong one.

use crate::sense::{ListenerFact, RequestsFact};

/// Process that has kept a request or a connection for longest, of those that share a listener.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StuckWorker {
    /// Process.
    pub pid: u32,
    /// Time for which it has been seen to keep that, in seconds.
    pub secs: f64,
}

impl StuckWorker {
    fn new(pid: Option<u32>, us: Option<u64>) -> Option<Self> {
        Some(Self { pid: pid?, secs: us? as f64 / 1e6 })
    }

    /// Returns the one that a sample of requests shows.
    pub(super) fn at(requests: &RequestsFact) -> Option<Self> {
        Self::new(requests.stuck_pid, requests.stuck_us)
    }
}

/// Process that a claim about a listener is about.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ClaimSubject {
    /// Process to name; `None` if it is not known.
    pub(super) pid: Option<u32>,
    /// The same if it is a worker.
    pub(super) worker: Option<StuckWorker>,
}

impl ClaimSubject {
    /// Returns the process that a claim about a socket is about. `by_requests` is the worker that
    /// the requests at its address show, and `is_shared` says that other processes take their
    /// connections too.
    pub(super) fn of(
        listener: &ListenerFact,
        by_requests: Option<StuckWorker>,
        is_shared: bool,
    ) -> Self {
        if !is_shared {
            return Self { pid: listener.pid, worker: None };
        }
        let by_connections = StuckWorker::new(listener.stuck_pid, listener.stuck_us);
        let worker = by_requests.or(by_connections);
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
        let alone = ClaimSubject::of(&listener(None, None), None, false);
        assert_eq!(alone, ClaimSubject { pid: MASTER, worker: None });
        assert_eq!(ClaimSubject::of(&listener(Some(5), None), None, true), ClaimSubject::default());
    }

    #[test]
    fn worker_with_the_oldest_request_or_connection_is_named() {
        let of = |listener: &ListenerFact, worker| {
            let subject = ClaimSubject::of(listener, worker, true);
            (subject.pid, subject.worker.map(|worker| worker.secs))
        };
        assert_eq!(of(&listener(Some(5), None), by_requests(812)), (Some(812), Some(1.5)));
        assert_eq!(of(&listener(Some(5), Some(813)), None), (Some(813), Some(2.0)));
    }
}
