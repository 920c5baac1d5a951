//! Verdicts about overloads, with their sentences.

use std::fmt::{self, Write as _};

use super::{
    claim::{Bottleneck, OverloadClaim, overfull},
    rates::Rates,
    standing_queue::{StandingQueue, head_secs, is_full, room},
    trigger::Trigger,
    worker::ClaimSubject,
};
use crate::{
    config::OverloadConfig,
    detect::{
        Context,
        confidence::Rule,
        verdict::{Claim, Verdict},
    },
    sense::ListenerFact,
    units::{Span, rounded},
};

/// Maximum forecast: a second or so of growth says nothing about later. A guess.
const FORECAST_SECS_MAX: f64 = 600.0;

/// Confidence if every sample has an oldest wait: the queue is certainly standing; whether that
/// matters to a user is not.
const CONFIDENCE_BY_AGE: f64 = 0.9;

/// Confidence for a queue that has been filling for only three samples. A guess.
const CONFIDENCE_FILLING: f64 = 0.8;

/// Confidence if only the depth is known, and it has not fallen for many samples. A guess.
const CONFIDENCE_UNFALLEN: f64 = 0.65;

/// Confidence if only the depth is known: a deep queue may turn over quickly. A guess.
const CONFIDENCE_BY_DEPTH: f64 = 0.6;

/// Confidence that each of "nothing was accepted" and "connections were dropped" adds.
const CONFIDENCE_STEP: f64 = 0.05;

/// An overloaded queue.
pub(super) struct OverloadedQueue<'a> {
    pub(super) fact: &'a ListenerFact,
    pub(super) trigger: Trigger,
    /// Standing time; `None` if the queue is not standing.
    pub(super) standing: Option<&'a StandingQueue>,
    pub(super) rates: &'a Rates,
    /// Number of sockets that share the address.
    pub(super) sockets: usize,
    /// Process that it is about.
    pub(super) subject: ClaimSubject,
}

impl OverloadedQueue<'_> {
    /// Claims the overload.
    pub(super) fn verdict(&self, context: &Context<'_>, config: &OverloadConfig) -> Verdict {
        let fact = self.fact;
        let growth_per_sec =
            self.standing.map_or(0.0, |standing| standing.samples.growth_per_sec());
        let is_stuck = self.standing.is_some_and(|standing| {
            let is_stalled =
                self.trigger == Trigger::Filling && standing.is_stalled(context.t, config);
            is_stalled
                || self.trigger == Trigger::Unfallen
                || standing.is_stuck(context.t, fact, config)
        });
        let pressure = self.standing.map(|standing| standing.pressure).unwrap_or_default();
        let scarce = pressure.scarce(self.trigger, is_stuck);
        let exhaustion_secs = self.exhaustion_secs(growth_per_sec);
        let mut why = self.evidence(context, is_stuck, growth_per_sec, exhaustion_secs, scarce);
        let (base, rule) = match self.trigger {
            Trigger::Stuck | Trigger::Standing | Trigger::Slow | Trigger::NearLimit => {
                (CONFIDENCE_BY_AGE, Rule::QueueAge)
            }
            Trigger::Filling => (CONFIDENCE_FILLING, Rule::QueueAge),
            Trigger::Unfallen => (CONFIDENCE_UNFALLEN, Rule::QueueDepth),
            Trigger::Deep => (CONFIDENCE_BY_DEPTH, Rule::QueueDepth),
            Trigger::Dropping => (CONFIDENCE_BY_AGE, Rule::QueueDepth),
        };
        let rule = if fact.addr.starts_with("unix:") { Rule::UnixQueue } else { rule };
        let has_dropped = self.standing.is_some_and(|standing| standing.overflows > 0);
        let steps = f64::from(u8::from(is_stuck) + u8::from(has_dropped));
        let confidence = base + CONFIDENCE_STEP * steps;
        let confidence = context.sensor_health.weigh(rule, context.t, confidence, &mut why);
        let claim = OverloadClaim {
            addr: fact.addr.clone(),
            netns: fact.netns,
            pid: self.subject.pid,
            owner: fact.pid,
            worker: self.subject.worker,
            comm: fact.comm.clone(),
            cgroup: fact.cgroup.clone(),
            scarce,
            sign: self.rates.sign(),
            backlog: fact.backlog,
            backlog_max: fact.backlog_max,
            backlog_growth_per_sec: rounded(growth_per_sec, 1),
            arrivals_per_sec: self.rates.arrivals_per_sec().map(|rate| rounded(rate, 1)),
            accepts_per_sec: self.rates.accepts_per_sec().map(|rate| rounded(rate, 1)),
            oldest_wait_us: fact.oldest_wait_us,
            is_slower: self.rates.is_slower(),
            is_for_nobody: self.rates.gone_share().is_some(),
            is_busy: pressure.is_busy(),
            exhausted: None,
            requests: None,
            dependency: None,
        };
        Verdict {
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            ..Verdict::raised(context.t, claim, confidence, why)
        }
    }

    fn exhaustion_secs(&self, growth_per_sec: f64) -> Option<f64> {
        if self.trigger == Trigger::Dropping {
            return None;
        }
        if is_full(self.fact) {
            return Some(0.0);
        }
        Some(room(self.fact) / growth_per_sec)
            .filter(|secs| growth_per_sec > 0.0 && *secs <= FORECAST_SECS_MAX)
    }

    /// Evidence of the overload, in a sentence.
    fn evidence(
        &self,
        context: &Context<'_>,
        is_stuck: bool,
        growth_per_sec: f64,
        exhaustion_secs: Option<f64>,
        scarce: Option<Bottleneck>,
    ) -> String {
        let (fact, listener) = (self.fact, ListenerName::of(self.fact, self.subject.pid));
        let lasted = Span(self.standing.map_or(0.0, |standing| context.t - standing.since_t));
        let unaccepted =
            Span(self.standing.map_or(0.0, |standing| standing.unaccepted_secs(context.t)));
        let mut why = match self.trigger {
            Trigger::Dropping => format!(
                "{listener} keeps dropping connections, in three different seconds of the last \
                 minute"
            ),
            Trigger::Unfallen => format!(
                "{listener} accepts no connection: its queue has not fallen for {unaccepted}"
            ),
            _ if is_stuck => format!("{listener} has accepted no connection for {unaccepted}"),
            Trigger::Filling => {
                format!("{listener} accepts fewer connections than arrive, and its queue fills")
            }
            Trigger::NearLimit => {
                format!("{listener} accepts too slowly: its queue is near its limit")
            }
            Trigger::Slow => format!(
                "{listener} accepts too slowly: each connection waits for half a second or more"
            ),
            _ => format!("{listener} accepts too slowly: its queue has not drained for {lasted}"),
        };
        // Writing to a String cannot fail.
        let _ = match overfull(fact.backlog, fact.backlog_max) {
            Some(waiting) => write!(why, "; {waiting}"),
            None => write!(why, "; {} connections are waiting, of {} that fit", fact.backlog, {
                fact.backlog_max
            }),
        };
        if let Some(secs) = head_secs(fact).filter(|_| !is_stuck && self.standing.is_some()) {
            let _ = write!(why, ", the oldest for {:.0} ms", secs * 1e3);
        }
        if let Some(us) = fact.sojourn_mean_us.filter(|_| !is_stuck) {
            let mean_ms = us as f64 / 1e3;
            let _ = write!(why, ", and those accepted last waited for {mean_ms:.0} ms on average");
        }
        if growth_per_sec >= 0.5 {
            let _ = write!(why, ", growing by {growth_per_sec:.0}/s");
        }
        if self.sockets > 1 {
            let sockets = self.sockets;
            let _ = write!(why, ", at one of the {sockets} sockets that share this address");
        }
        match exhaustion_secs {
            Some(0.0) => why.push_str("; the queue is full"),
            Some(secs) => {
                let _ = write!(why, "; the queue overflows in {}", Span(secs));
            }
            None => {}
        }
        for more in self.further_evidence(scarce) {
            why.push_str("; ");
            why.push_str(&more);
        }
        why
    }

    fn further_evidence(&self, scarce: Option<Bottleneck>) -> Vec<String> {
        let mut more = Vec::new();
        let pressure = self.standing.map(|standing| standing.pressure).unwrap_or_default();
        let dropped = self.standing.map_or(0, |standing| standing.overflows);
        if dropped > 0 {
            more.push(format!("{dropped} connections were dropped meanwhile"));
        }
        more.extend(scarce.and_then(|scarce| pressure.because(scarce)));
        more.extend(self.rates.change());
        if pressure.retransmits > 0 {
            more.push(format!("{} segments were retransmitted", pressure.retransmits));
        }
        if pressure.refused > 0 {
            more.push(format!("{} connects were refused or abandoned", pressure.refused));
        }
        if matches!(self.trigger, Trigger::Deep | Trigger::Unfallen) {
            more.push(
                "the oldest wait cannot be read here, so this rests on the depth of the queue"
                    .to_owned(),
            );
        }
        more
    }
}

/// Reason for clearing the claim of a queue that drains again.
pub(super) fn recovered(fact: &ListenerFact, well_secs: f64, lasted_secs: f64) -> String {
    let (well, lasted) = (Span(well_secs), Span(lasted_secs));
    format!(
        "the accept queue of {} has been healthy for {well}, after {lasted} of overload",
        ListenerName::of(fact, if fact.holders.is_some() { None } else { fact.pid })
    )
}

/// Reason for clearing the claim of a listener that is gone.
pub(super) fn disappeared(verdict: &Verdict) -> String {
    let Claim::Overload(claim) = &verdict.claim else { return String::new() };
    let listener = ListenerName { addr: &claim.addr, comm: &claim.comm, pid: claim.pid };
    format!("{listener} disappeared from the last scans")
}

/// A listener as a person knows it.
pub(super) struct ListenerName<'a> {
    pub(super) addr: &'a str,
    pub(super) comm: &'a str,
    pub(super) pid: Option<u32>,
}

impl<'a> ListenerName<'a> {
    /// Names a listener and the process that a sentence about it is about.
    pub(super) fn of(fact: &'a ListenerFact, pid: Option<u32>) -> Self {
        Self { addr: &fact.addr, comm: &fact.comm, pid }
    }
}

impl fmt::Display for ListenerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.addr)?;
        match (self.comm, self.pid) {
            ("", None) => Ok(()),
            (comm, None) => write!(f, " ({comm})"),
            ("", Some(pid)) => write!(f, " (pid {pid})"),
            (comm, Some(pid)) => write!(f, " ({comm}, pid {pid})"),
        }
    }
}
