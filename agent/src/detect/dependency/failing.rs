//! Failures of one workload's connects to one address.

/// Failures without an answer from which connects that were never seen pending are taken to have
/// failed on this host. At ten a second and a timeout of 100 ms, one is pending at any sample.
const LOCAL_FAILED_MIN: u64 = 20;

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Failing {
    pub(super) since_t: Option<f64>,
    pub(super) refused: u64,
    pub(super) timed_out: u64,
    pub(super) abandoned: u64,
    pub(super) no_local_port: u64,
    /// Whether one was seen pending.
    pub(super) was_pending: bool,
}

impl Failing {
    pub(super) fn failed(self) -> u64 {
        self.refused.saturating_add(self.timed_out).saturating_add(self.abandoned)
    }

    /// Connects that failed before anything was sent; `None` if the other side may be the reason.
    /// Sensors that do not count them separately count them as abandoned: then none of many was
    /// ever seen pending.
    pub(super) fn failed_locally(self) -> Option<u64> {
        if self.no_local_port > self.failed() {
            return Some(self.no_local_port);
        }
        let sent_none = self.refused == 0 && self.timed_out == 0 && !self.was_pending;
        (sent_none && self.abandoned >= LOCAL_FAILED_MIN).then_some(self.abandoned)
    }
}

/// Last connect that succeeded.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastAnswer {
    pub(super) t: f64,
    /// Connects that have succeeded until then.
    pub(super) answered: u64,
}
