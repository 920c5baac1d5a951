//! One address: the queues of the sockets that share it, and its claim.
//!
//! One stuck worker of eight makes an eighth of all connections wait, so each socket is judged for
//! itself, and eight that take turns at standing are not one standing queue. A claim is raised
//! once, and cleared once no socket was overloaded for `clear_after`, or all are gone. The detector
//! bounds the number of sockets.

use std::sync::Arc;

use super::{
    claim::OverloadClaim,
    counter::Counter,
    queue::{AcceptQueue, QueueUpdate},
    rates::Rates,
    requests::{OverloadedRequests, RequestQueue, answered_in_time},
    socket_queues::SocketQueues,
    trigger::Trigger,
    verdict::{self, OverloadedQueue},
    worker::{ClaimSubject, Takers},
};
use crate::{
    config::OverloadConfig,
    detect::{
        detector::{Context, Findings, is_gone},
        verdict::{Claim, Verdict},
    },
    sense::{ListenerFact, RequestsFact},
};

/// Time between two forecasts of an open claim: the policy needs no finer ones.
const FORECAST_EVERY_SECS: f64 = 1.0;

/// State of one address.
#[derive(Default)]
pub(super) struct ListenAddress {
    sockets: SocketQueues,
    arrived: Counter,
    rates: Rates,
    instant: Option<Instant>,
    raised: Option<Box<Raised>>,
    /// Requests on its connections, once they were sampled, and the latest sample of a socket.
    requests: Option<Box<RequestQueue>>,
    listener: Option<Box<ListenerFact>>,
    /// Set if another process than the owner held the last request that waited for long.
    passes_on: bool,
}

/// Sum of the samples of one instant so far.
#[derive(Default)]
struct Instant {
    t: f64,
    secs: f64,
    arrived: Option<u64>,
    accepted: Option<u64>,
    dropped: u64,
    is_standing: bool,
}

/// An open claim.
struct Raised {
    since_t: f64,
    /// Time of the last sample that showed an overload.
    bad_t: f64,
    forecast_t: f64,
    /// Verdict that raised it.
    verdict: Verdict,
    /// Set if requests on its connections were waiting.
    is_about_requests: bool,
}

impl Raised {
    fn new(t: f64, verdict: Verdict, is_about_requests: bool) -> Self {
        Self { since_t: t, bad_t: t, forecast_t: t, verdict, is_about_requests }
    }
}

impl ListenAddress {
    /// Sockets watched.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// Whether a sample of this socket needs no new room.
    pub(super) fn knows(&self, fact: &ListenerFact) -> bool {
        self.sockets.get(key(fact)).is_some()
    }

    /// Takes a sample of one of its sockets. Appends the claim that is raised or cleared, or a
    /// fresh forecast of an open one.
    pub(super) fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &ListenerFact,
        config: &OverloadConfig,
        findings: &mut Findings,
    ) {
        let t = context.t;
        self.advance(t, fact);
        let key = key(fact);
        let update = self.sockets.get_or_new(key).observe(t, context.scan, fact, config);
        self.add(&update);
        let has_waiting_requests = self.join(t, fact);
        let Some(raised) = &mut self.raised else {
            if let Some(trigger) = update.trigger {
                let verdict = self.overloaded(t, fact, key, trigger).verdict(context, config);
                self.raised = Some(Box::new(Raised::new(t, verdict.clone(), false)));
                findings.verdicts.push(verdict);
            }
            return;
        };
        if update.is_overload || update.gap || has_waiting_requests {
            raised.bad_t = t;
        }
        if t - raised.bad_t >= config.clear_after.as_secs_f64() {
            if raised.is_about_requests {
                return findings.verdicts.extend(self.clear_requests(t));
            }
            let why = verdict::recovered(fact, t - raised.bad_t, t - raised.since_t);
            let (backlog, oldest_wait_us) = (fact.backlog, fact.oldest_wait_us);
            findings.verdicts.extend(self.clear(t, backlog, oldest_wait_us, why));
        } else if let Some(trigger) = update
            .trigger
            .filter(|_| !has_waiting_requests && t - raised.forecast_t >= FORECAST_EVERY_SECS)
        {
            raised.forecast_t = t;
            let forecast = self.overloaded(t, fact, key, trigger).verdict(context, config);
            findings.forecasts.push(forecast);
        }
    }

    /// Returns whether its requests were sampled.
    pub(super) fn has_requests(&self) -> bool {
        self.requests.is_some()
    }

    /// Returns whether anything is known about it.
    pub(super) fn is_alive(&self) -> bool {
        !self.sockets.is_empty() || self.requests.is_some()
    }

    /// Cgroup and name of the process that listens; empty if unknown.
    pub(super) fn owner(&self) -> (Arc<str>, Arc<str>) {
        let listener = self.listener.as_ref();
        listener.map(|one| (one.cgroup.clone(), one.comm.clone())).unwrap_or_default()
    }

    /// Returns whether connections or requests wait there unusually. It is asked about the upstream
    /// of an overloaded service, and is no claim of its own.
    pub(super) fn is_waiting(&self, t: f64) -> bool {
        self.raised.is_some()
            || self.sockets.values().any(|queue| queue.stands_for_long(t))
            || self.requests.as_ref().is_some_and(|queue| queue.is_waiting(t))
    }

    /// Takes a sample of the requests on its connections. Clears a claim that is over; returns
    /// whether there is an overload to report.
    pub(super) fn observe_requests(
        &mut self,
        context: &Context<'_>,
        fact: &RequestsFact,
        config: &OverloadConfig,
        findings: &mut Findings,
    ) -> bool {
        let t = context.t;
        let owner = self.listener.as_ref().and_then(|listener| listener.pid);
        if let Some((holder, owner)) = fact.stuck_pid.zip(owner) {
            self.passes_on = holder != owner;
        }
        let queue = self.requests.get_or_insert_default();
        let update = queue.observe(t, context.scan, fact, config);
        let Some(raised) = &mut self.raised else { return update.is_overload };
        if update.is_overload || update.gap {
            raised.bad_t = t;
        }
        if raised.is_about_requests && t - raised.bad_t >= config.clear_after.as_secs_f64() {
            findings.verdicts.extend(self.clear_requests(t));
            return false;
        }
        update.is_overload
            && (!raised.is_about_requests || t - raised.forecast_t >= FORECAST_EVERY_SECS)
    }

    /// Raises the claim of its overloaded requests, or appends a fresh forecast of an open one.
    pub(super) fn report_requests(
        &mut self,
        context: &Context<'_>,
        dependency: Option<Arc<str>>,
        findings: &mut Findings,
    ) {
        let Some(queue) = self.requests.as_deref() else { return };
        let (listener, rates) = (self.listener.as_deref(), &self.rates);
        let worker = queue.stuck_worker(context.t);
        let subject = listener.map_or_else(ClaimSubject::default, |listener| {
            ClaimSubject::of(listener, worker, self.takers(listener))
        });
        let verdict =
            OverloadedRequests { queue, listener, rates, subject, dependency }.verdict(context);
        match &mut self.raised {
            Some(raised) => {
                (raised.forecast_t, raised.is_about_requests) = (context.t, true);
                findings.forecasts.push(verdict);
            }
            None => {
                self.raised = Some(Box::new(Raised::new(context.t, verdict.clone(), true)));
                findings.verdicts.push(verdict);
            }
        }
    }

    /// Returns which processes answer the requests of a listener.
    fn takers(&self, listener: &ListenerFact) -> Takers {
        if listener.holders.is_some() || self.sockets.len() > 1 {
            Takers::Sharers
        } else if self.passes_on {
            Takers::Passed
        } else {
            Takers::Owner
        }
    }

    fn clear_requests(&mut self, t: f64) -> Option<Verdict> {
        let queue = self.requests.as_deref()?;
        let raised = self.raised.take()?;
        answered_in_time(t, raised.verdict, queue, (t - raised.bad_t, t - raised.since_t))
    }

    /// Joins a sample of a socket with the requests on its connections, if they are sampled.
    /// Returns whether they are overloaded.
    fn join(&mut self, t: f64, fact: &ListenerFact) -> bool {
        let Some(queue) = &mut self.requests else { return false };
        queue.join(t, fact);
        match &mut self.listener {
            Some(listener) => (**listener).clone_from(fact),
            None => self.listener = Some(Box::new(fact.clone())),
        }
        queue.is_overload(t)
    }

    /// Forgets sockets and requests that are gone. With the last of them its claim is cleared.
    pub(super) fn prune(&mut self, context: &Context<'_>) -> Option<Verdict> {
        self.sockets.retain(|queue| !is_gone(context, queue.seen_scan()));
        if self.requests.as_ref().is_some_and(|queue| is_gone(context, queue.seen_scan())) {
            self.requests = None;
            if let Some(raised) = &mut self.raised {
                raised.is_about_requests = false;
            }
        }
        let is_about_requests = self.raised.as_ref().is_some_and(|raised| raised.is_about_requests);
        if !self.sockets.is_empty() || is_about_requests {
            return None;
        }
        let why = verdict::disappeared(&self.raised.as_ref()?.verdict);
        self.clear(context.t, 0, None, why)
    }

    fn clear(
        &mut self,
        t: f64,
        backlog: u32,
        oldest_wait_us: Option<u64>,
        why: String,
    ) -> Option<Verdict> {
        let verdict = self.raised.take()?.verdict;
        let Claim::Overload(claim) = verdict.claim else { return None };
        let claim = OverloadClaim {
            backlog,
            oldest_wait_us,
            backlog_growth_per_sec: 0.0,
            exhausted: None,
            dependency: None,
            ..claim
        };
        Some(Verdict::cleared(t, claim, verdict.confidence, why))
    }

    /// Moves on to a new instant if this is one.
    fn advance(&mut self, t: f64, fact: &ListenerFact) {
        let is_new = self.instant.as_ref().is_none_or(|instant| instant.t != t);
        if is_new {
            let last = self.instant.take();
            if let Some(last) = &last {
                let came = last.arrived.map(|arrived| arrived.saturating_add(last.dropped));
                self.rates.take(last.secs, came, last.accepted, last.is_standing);
            }
            let secs = last.map_or(0.0, |last| t - last.t);
            let known = self.arrived.is_known() && fact.arrived_total.is_some();
            let arrived = self.arrived.rise(fact.arrived_total);
            let accepted = Some(0);
            self.instant = Some(Instant {
                t,
                secs,
                arrived: known.then_some(arrived),
                accepted,
                ..Instant::default()
            });
        }
    }

    fn add(&mut self, update: &QueueUpdate) {
        let Some(instant) = &mut self.instant else { return };
        instant.accepted =
            instant.accepted.zip(update.accepted).map(|(sum, more)| sum.saturating_add(more));
        instant.dropped = instant.dropped.saturating_add(update.dropped);
        instant.is_standing |= update.is_standing;
    }

    fn overloaded<'a>(
        &'a self,
        t: f64,
        fact: &'a ListenerFact,
        key: u64,
        trigger: Trigger,
    ) -> OverloadedQueue<'a> {
        let standing = self.sockets.get(key).and_then(AcceptQueue::standing);
        let by_requests = self.requests.as_ref().and_then(|queue| queue.stuck_worker(t));
        // Each of several sockets has a queue of its own, and the owner who passes connections on
        // takes them from it.
        let takers = if fact.holders.is_some() { Takers::Sharers } else { Takers::Owner };
        let subject = ClaimSubject::of(fact, by_requests, takers);
        let (rates, sockets) = (&self.rates, self.sockets.len());
        OverloadedQueue { fact, trigger, standing, rates, sockets, subject }
    }
}

/// Returns the key of a socket. Older traces do not number sockets; the processes that hold them
/// tell them apart.
fn key(fact: &ListenerFact) -> u64 {
    if fact.socket == 0 { u64::MAX - u64::from(fact.pid.unwrap_or(0)) } else { fact.socket }
}
