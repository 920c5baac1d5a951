//! Verdicts about requests that wait, with their sentences.

use std::{fmt::Write as _, sync::Arc};

use super::{ABANDONED_SHARE, RequestQueue, RequestTrigger};
use crate::{
    detect::{
        Context,
        confidence::Rule,
        overload::{
            claim::{Bottleneck, OverloadClaim, WaitingRequests},
            rates::Rates,
            trigger::Trigger,
            verdict::ListenerName,
            worker::ClaimSubject,
        },
        verdict::{Claim, Verdict},
    },
    sense::{ListenerFact, RequestsFact},
    units::{Span, rounded},
};

/// Confidence of the rule; whether a wait matters to a user is not certain.
const CONFIDENCE: f64 = 0.9;

/// Share of abandoned requests from which the sentence mentions them.
const ABANDONED_SHARE_MIN: f64 = 0.1;

/// Share of the waiting requests that are unread from which the server does not read.
const UNREAD_SHARE: f64 = 0.5;

/// Shortest usual age that the sentence mentions.
const AGE_SECS_MIN: f64 = 0.05;

/// Time without a response after which it does not read at all.
const SILENT_SECS: f64 = 0.7;

/// Overloaded requests of one address.
pub(in crate::detect::overload) struct OverloadedRequests<'a> {
    pub(in crate::detect::overload) queue: &'a RequestQueue,
    /// Latest sample of one of its sockets, if there was one.
    pub(in crate::detect::overload) listener: Option<&'a ListenerFact>,
    pub(in crate::detect::overload) rates: &'a Rates,
    /// Process that it is about.
    pub(in crate::detect::overload) subject: ClaimSubject,
    /// Address that the service waits for, if there is evidence.
    pub(in crate::detect::overload) dependency: Option<Arc<str>>,
}

impl OverloadedRequests<'_> {
    /// Claims the overload.
    pub(in crate::detect::overload) fn verdict(&self, context: &Context<'_>) -> Verdict {
        let (queue, listener) = (self.queue, self.listener);
        let trigger = queue.overload.unwrap_or(RequestTrigger::InFlight);
        let scarce = self.scarce(context.t, trigger);
        let dependency = self.dependency.clone().filter(|_| scarce == Some(Bottleneck::Dependency));
        let mut why = self.evidence(context, trigger, scarce);
        let confidence =
            context.sensor_health.weigh(Rule::Requests, context.t, CONFIDENCE, &mut why);
        let claim = OverloadClaim {
            addr: queue.fact.addr.clone(),
            netns: queue.fact.netns,
            pid: self.subject.pid,
            owner: listener.and_then(|listener| listener.pid),
            worker: self.subject.worker,
            comm: listener.map(|listener| listener.comm.clone()).unwrap_or_default(),
            cgroup: listener.map(|listener| listener.cgroup.clone()).unwrap_or_default(),
            scarce,
            sign: self.rates.sign(),
            backlog: listener.map_or(0, |listener| listener.backlog),
            backlog_max: listener.map_or(0, |listener| listener.backlog_max),
            backlog_growth_per_sec: 0.0,
            arrivals_per_sec: self.rates.arrivals_per_sec().map(|rate| rounded(rate, 1)),
            accepts_per_sec: self.rates.accepts_per_sec().map(|rate| rounded(rate, 1)),
            oldest_wait_us: listener.and_then(|listener| listener.oldest_wait_us),
            is_slower: false,
            is_for_nobody: self.is_for_nobody(),
            is_busy: self.queue.pressure.is_busy(),
            exhausted: None,
            requests: Some(waiting(queue)),
            dependency,
        };
        Verdict::raised(context.t, claim, confidence, why)
    }

    /// Returns whether most of the work is done for clients that have gone.
    fn is_for_nobody(&self) -> bool {
        self.queue.history.ended_in_seconds().abandoned_share() >= ABANDONED_SHARE
    }

    fn is_unread(&self) -> bool {
        f64::from(self.queue.fact.unread) >= UNREAD_SHARE * self.queue.count()
    }

    /// Returns the resource that the service is short of; `None` if there is no evidence.
    fn scarce(&self, t: f64, trigger: RequestTrigger) -> Option<Bottleneck> {
        let is_silent =
            trigger == RequestTrigger::Stuck || self.queue.silence_secs(t) >= SILENT_SECS;
        // If clients give up, what it answers is not seen.
        let gives_up = self.queue.history.ended_in_seconds().abandoned > 0.0;
        let is_stuck = is_silent && self.is_unread() && !gives_up;
        match self.queue.pressure.scarce(Trigger::Standing, is_stuck) {
            Some(Bottleneck::Workers) | None if self.dependency.is_some() => {
                Some(Bottleneck::Dependency)
            }
            Some(Bottleneck::AcceptLoop)
                if self.dependency.is_some() && !self.queue.pressure.is_busy() =>
            {
                Some(Bottleneck::Dependency)
            }
            // It has read them, so it is not the loop that reads which is short.
            None if !self.is_unread() => Some(Bottleneck::Workers),
            scarce => scarce,
        }
    }

    /// Evidence of the overload, in a sentence.
    fn evidence(
        &self,
        context: &Context<'_>,
        trigger: RequestTrigger,
        scarce: Option<Bottleneck>,
    ) -> String {
        let (queue, fact) = (self.queue, &self.queue.fact);
        let name = name(fact, self.listener, self.subject.pid);
        let mut why = match trigger {
            RequestTrigger::Stuck => {
                format!(
                    "{name} has answered no request for {}",
                    Span(queue.silence_secs(context.t))
                )
            }
            RequestTrigger::Unread => format!("{name} reads requests more slowly than they arrive"),
            RequestTrigger::InFlight => {
                format!("{name} answers requests more slowly than they arrive")
            }
            RequestTrigger::Abandoned => format!("clients of {name} give up before it answers"),
        };
        let count = fact.in_flight.max(fact.unread);
        // Writing to a String cannot fail.
        let _ = write!(why, "; {count} requests wait for a response");
        match fact.unread {
            0 => {}
            unread if unread == count => why.push_str(", all of them unread"),
            unread => {
                let _ = write!(why, ", {unread} of them unread");
            }
        }
        let age_secs = queue.age_secs();
        if age_secs > 0.0 {
            let _ = write!(why, ", the oldest for {}", Span(age_secs));
        }
        if queue.history.is_counted() {
            let per_sec = queue.history.ended_lately().answered_per_sec();
            let _ = write!(why, "; {per_sec:.0}/s are answered");
        }
        let usual = queue.in_flight.at(context.t);
        if queue.in_flight.is_warm() && usual.count > 0.0 {
            let _ = write!(why, ", and at most {:.0} waited before", usual.count);
            if usual.age_secs >= AGE_SECS_MIN {
                let _ = write!(why, ", for at most {}", Span(usual.age_secs));
            }
        }
        let share = queue.history.ended_in_seconds().abandoned_share();
        if share >= ABANDONED_SHARE_MIN {
            let _ = write!(
                why,
                "; the clients of {:.0} % gave up before their answer, so that {} of the work is \
                 done for clients that have gone",
                share * 100.0,
                if self.is_for_nobody() { "most" } else { "as much" }
            );
        }
        if let Some(because) = self.because(scarce) {
            let _ = write!(why, "; {because}");
        }
        why
    }

    fn because(&self, scarce: Option<Bottleneck>) -> Option<String> {
        match (scarce?, &self.dependency) {
            (Bottleneck::Dependency, Some(peer)) => {
                Some(format!("it waits for {peer}, which does not answer in time"))
            }
            (Bottleneck::Workers, _) if !self.queue.pressure.is_known() => Some(
                "it has read them, and they wait for its workers or for something else".to_owned(),
            ),
            // Its connections may all be accepted.
            (Bottleneck::AcceptLoop, _) => {
                Some(self.queue.pressure.stuck("its loop, or every worker,"))
            }
            (scarce, _) => self.queue.pressure.because(scarce),
        }
    }
}

/// Returns the numbers that a claim carries.
fn waiting(queue: &RequestQueue) -> WaitingRequests {
    let lately = queue.history.ended_lately();
    let answered = queue.history.is_counted().then(|| lately.answered_per_sec());
    let ended = queue.history.ended_in_seconds();
    WaitingRequests {
        unread: queue.fact.unread,
        in_flight: queue.fact.in_flight.max(queue.fact.unread),
        oldest_request_us: queue.fact.oldest_in_flight_us.max(queue.fact.oldest_unread_us),
        answered_per_sec: answered.map(|rate| rounded(rate, 1)),
        abandoned_share: (ended.answered + ended.abandoned > 0.0)
            .then(|| rounded(ended.abandoned_share(), 2)),
    }
}

fn name<'a>(
    fact: &'a RequestsFact,
    listener: Option<&'a ListenerFact>,
    pid: Option<u32>,
) -> ListenerName<'a> {
    let nobody = ListenerName { addr: &fact.addr, comm: "", pid: None };
    listener.map_or(nobody, |listener| ListenerName::of(listener, pid))
}

/// Clears the claim of an address whose requests are answered in time again.
pub(in crate::detect::overload) fn answered_in_time(
    t: f64,
    verdict: Verdict,
    queue: &RequestQueue,
    (well_secs, lasted_secs): (f64, f64),
) -> Option<Verdict> {
    let Claim::Overload(claim) = verdict.claim else { return None };
    let listener = ListenerName { addr: &claim.addr, comm: &claim.comm, pid: claim.pid };
    let (well, lasted) = (Span(well_secs), Span(lasted_secs));
    let why = if queue.is_stale(t) {
        format!("the requests of {listener} are no longer sampled, after {lasted} of overload")
    } else if queue.count() > 0.0 {
        format!(
            "{listener} has answered its requests in time for {well}, after {lasted} of overload"
        )
    } else {
        format!("no request waits at {listener} any more, after {lasted} of overload")
    };
    let claim = OverloadClaim {
        exhausted: None,
        requests: Some(waiting(queue)),
        dependency: None,
        ..claim
    };
    Some(Verdict::cleared(t, claim, verdict.confidence, why))
}
