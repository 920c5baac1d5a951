//! Pending request: the schedule of its attempts, and the meaning of their replies for it. Pure.

use std::time::Duration;

use super::{
    client::{CALL_WITHIN, Call},
    request::{ReplyClass, Request, RequestKind},
    state_machine::Reply,
};
use crate::{decide::IncidentId, net::backoff::Backoff};

/// Reason that a request ends at its deadline.
pub const EXPIRED: &str = "no receiver granted it before the deadline";

/// Maximum delay between two attempts of a request, in seconds.
const RETRY_SECS_MAX: f64 = 30.0;

/// Number of successes without the request's id after which the receiver is not expected to send
/// it. One may come from a proxy while the receiver restarts; and a receiver that drains without
/// echoing the id must not keep the node out of rotation until the deadline.
const UNPROVEN_MAX: u32 = 3;

/// Pending request, and the schedule of its calls.
pub struct PendingRequest {
    /// The request.
    pub request: Request,
    retries: Backoff,
    /// Number of successes without its id.
    unproven: u32,
    /// Time of the next attempt; `None` while a reply is pending.
    due: Option<f64>,
    /// First line of the reply to the last attempt, or its failure; `None` before the first.
    last_reply: Option<String>,
}

/// Result of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another attempt follows.
    Retrying,
    /// The request has ended with this reply, for this reason.
    Settled(Reply, String),
    /// The receiver succeeds without returning the id: no drain can be granted for this incident.
    Unproven(IncidentId, String),
}

impl PendingRequest {
    /// Creates one whose first attempt is due `now`, and which may take `within`.
    pub fn new(request: Request, now: f64, within: Duration) -> Self {
        let retries = Backoff::new(RETRY_SECS_MAX, Some(now + within.as_secs_f64()));
        Self { request, retries, unproven: 0, due: Some(now), last_reply: None }
    }

    /// Time of the next attempt; `None` while a reply is pending.
    pub fn due(&self) -> Option<f64> {
        self.due
    }

    /// First line of the reply to the last attempt, or its failure; `None` before the first.
    pub fn last_reply(&self) -> Option<&str> {
        self.last_reply.as_deref()
    }

    /// Returns whether an attempt is due.
    pub fn is_due(&self, now: f64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Returns the call of an attempt that begins now; `None` after the deadline.
    pub fn call(&mut self, now: f64, host: &str) -> Option<Call> {
        let left_secs = self.retries.left_secs(now);
        if left_secs <= 0.0 {
            return None;
        }
        self.due = None;
        Some(Call {
            id: self.request.id.clone(),
            body: self.request.body(host),
            is_drain: self.request.ask == RequestKind::Drain,
            within: CALL_WITHIN.min(Duration::try_from_secs_f64(left_secs).unwrap_or_default()),
        })
    }

    /// Takes the reply to an attempt. `jitter` is 0 to 1.
    pub fn progress(&mut self, now: f64, reply: ReplyClass, jitter: f64) -> Progress {
        let (asked_for, said) = match reply {
            ReplyClass::Granted => {
                return Progress::Settled(Reply::Granted, "granted".to_owned());
            }
            ReplyClass::Refused(said) => {
                return Progress::Settled(Reply::Refused, format!("refused: {said}"));
            }
            ReplyClass::Closed(said) => {
                let why = format!("the receiver is gone: {said}");
                return Progress::Settled(Reply::Closed, why);
            }
            ReplyClass::Unproven(said) => {
                self.unproven += 1;
                let why = format!(
                    "{said}, without the webhook-id of the request\n  hint: have the receiver \
                     return it as a header, or set act.drain.require_echo = false"
                );
                let incident = self.request.cause.incident.clone();
                if let Some(id) = incident.filter(|_| self.unproven >= UNPROVEN_MAX) {
                    return Progress::Unproven(id, why);
                }
                (None, why)
            }
            ReplyClass::Later(asked_for, said) => (asked_for, said),
        };
        self.due = self.retries.next(now, asked_for, jitter);
        let attempt = said.lines().next().unwrap_or_default();
        tracing::debug!(id = self.request.id, attempt, "no grant yet");
        self.last_reply = Some(attempt.to_owned());
        match self.due {
            Some(_) => Progress::Retrying,
            None => Progress::Settled(Reply::Nothing, format!("{EXPIRED}: {said}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::request::DrainReason, *};
    use crate::detect::Resource;

    fn pending(cause: DrainReason) -> PendingRequest {
        let request = Request {
            id: "drain-1".to_owned(),
            ask: RequestKind::Drain,
            at_ms: 1_000,
            deadline_ms: 61_000,
            cause,
        };
        PendingRequest::new(request, 0.0, Duration::from_secs(60))
    }

    fn unproven() -> ReplyClass {
        ReplyClass::Unproven("200 OK".to_owned())
    }

    #[test]
    fn call_is_bounded_by_what_is_left_of_the_deadline() {
        let mut asked = pending(DrainReason::operator());
        assert_eq!(asked.call(0.0, "node").map(|call| call.within), Some(CALL_WITHIN));
        assert!(!asked.is_due(1e9), "no attempt begins while a reply is pending");
        let late = asked.call(58.0, "node").map(|call| call.within);
        assert_eq!(late, Some(Duration::from_secs(2)));
        assert!(asked.call(60.0, "node").is_none());
    }

    #[test]
    fn third_success_without_the_id_ends_an_incidents_request() {
        let process = crate::sense::ProcessId { pid: 7, start_ticks: 70 };
        let leak = IncidentId::Leak(process, Resource::Memory);
        let mut asked =
            pending(DrainReason { incident: Some(leak.clone()), ..DrainReason::operator() });
        assert_eq!(asked.progress(0.0, unproven(), 1.0), Progress::Retrying);
        assert_eq!(asked.progress(1.0, unproven(), 1.0), Progress::Retrying);
        let third = asked.progress(2.0, unproven(), 1.0);
        assert!(matches!(third, Progress::Unproven(id, _) if id == leak));
        // An operator's request is repeated until the deadline.
        let mut asked = pending(DrainReason::operator());
        let mut last = Progress::Retrying;
        for nth in 0..10 {
            last = asked.progress(f64::from(nth) * 7.0, unproven(), 1.0);
            if last != Progress::Retrying {
                break;
            }
        }
        assert!(
            matches!(last, Progress::Settled(Reply::Nothing, why) if why.contains("webhook-id"))
        );
    }
}
