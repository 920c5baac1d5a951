//! An overload in numbers for machines and in a sentence for people.

use std::fmt::{self, Write};

use super::{
    rates::Rates,
    standing_queue::{StandingQueue, head_secs, is_full, room},
    trigger::Trigger,
};
use crate::{
    config::OverloadConfig,
    detect::{
        Context,
        confidence::Rule,
        verdict::{Bottleneck, Claim, ClaimState, OverloadClaim, Verdict},
    },
    sense::ListenerFact,
    units::{Span, rounded},
};

/// Seconds or so of growth say nothing about what comes later than this. A guess.
const FORECAST_SECS_MAX: f64 = 600.0;

/// Sure that a queue stands whose head's age was seen throughout; the rest is whether that matters
/// to anybody.
const CONFIDENCE_BY_AGE: f64 = 0.9;

/// Less sure of a queue that has filled for three looks only. A guess.
const CONFIDENCE_FILLING: f64 = 0.8;

/// Less sure where only depth was seen: a deep queue may turn over quickly. A guess.
const CONFIDENCE_BY_DEPTH: f64 = 0.6;

/// What each of "nothing was accepted" and "connections were dropped" adds.
const CONFIDENCE_STEP: f64 = 0.05;

/// An overloaded queue and what is known of it.
pub(super) struct OverloadedQueue<'a> {
    pub(super) fact: &'a ListenerFact,
    pub(super) ground: Trigger,
    /// `None` where it does not stand.
    pub(super) run: Option<&'a StandingQueue>,
    pub(super) rates: &'a Rates,
    /// Sockets that share the address.
    pub(super) sockets: usize,
}

impl OverloadedQueue<'_> {
    /// Claims the overload.
    pub(super) fn verdict(&self, context: &Context<'_>, config: &OverloadConfig) -> Verdict {
        let fact = self.fact;
        let growth_per_sec = self.run.map_or(0.0, |run| run.looks.growth_per_sec());
        let is_stuck = self.run.is_some_and(|run| {
            let is_stalled = self.ground == Trigger::Filling && run.is_stalled(context.t, config);
            is_stalled || run.is_stuck(context.t, fact, config)
        });
        let scarce =
            self.run.map(|run| run.strain).unwrap_or_default().scarce(self.ground, is_stuck);
        let exhaustion_secs = self.exhaustion_secs(growth_per_sec);
        let mut why = self.why(context, is_stuck, growth_per_sec, exhaustion_secs, scarce);
        let (base, rule) = match self.ground {
            Trigger::Stuck | Trigger::Standing | Trigger::NearLimit => {
                (CONFIDENCE_BY_AGE, Rule::QueueAge)
            }
            Trigger::Filling => (CONFIDENCE_FILLING, Rule::QueueAge),
            Trigger::Deep => (CONFIDENCE_BY_DEPTH, Rule::QueueDepth),
            Trigger::Dropping => (CONFIDENCE_BY_AGE, Rule::QueueDepth),
        };
        let drops = self.run.is_some_and(|run| run.overflows > 0);
        let steps = f64::from(u8::from(is_stuck) + u8::from(drops));
        let confidence =
            context.trust.weigh(rule, context.t, base + CONFIDENCE_STEP * steps, &mut why);
        let claim = OverloadClaim {
            addr: fact.addr.clone(),
            netns: fact.netns,
            pid: fact.pid,
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
        };
        Verdict {
            t: context.t,
            claim: Claim::Overload(claim),
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            exhaustion_interval_secs: None,
            harm: None,
            confidence: rounded(confidence, 2),
            state: ClaimState::Raised,
            why,
        }
    }

    fn exhaustion_secs(&self, growth_per_sec: f64) -> Option<f64> {
        if self.ground == Trigger::Dropping {
            return None;
        }
        if is_full(self.fact) {
            return Some(0.0);
        }
        Some(room(self.fact) / growth_per_sec)
            .filter(|secs| growth_per_sec > 0.0 && *secs <= FORECAST_SECS_MAX)
    }

    fn why(
        &self,
        context: &Context<'_>,
        is_stuck: bool,
        growth_per_sec: f64,
        exhaustion_secs: Option<f64>,
        scarce: Option<Bottleneck>,
    ) -> String {
        let (fact, who) = (self.fact, ListenerName::of(self.fact));
        let stood = Span(self.run.map_or(0.0, |run| context.t - run.since_t));
        let unaccepted = Span(self.run.map_or(0.0, |run| run.unaccepted_secs(context.t)));
        let mut why = match self.ground {
            Trigger::Dropping => {
                format!(
                    "{who} drops connections again and again, in three seconds of the last minute"
                )
            }
            _ if is_stuck => format!("{who} has not accepted for {unaccepted}"),
            Trigger::Filling => {
                format!("more connections come to {who} than it accepts: its queue fills")
            }
            Trigger::NearLimit => format!("{who} accepts too slowly: its queue is near its limit"),
            _ => format!("{who} accepts too slowly: its queue has stood for {stood}"),
        };
        // Writing to a String cannot fail.
        let _ = write!(why, ": {} of {} connections wait", fact.backlog, fact.backlog_max);
        if let Some(secs) = head_secs(fact).filter(|_| !is_stuck && self.run.is_some()) {
            let _ = write!(why, ", the oldest for {:.0} ms", secs * 1e3);
        }
        if let Some(us) = fact.sojourn_mean_us.filter(|_| !is_stuck) {
            let _ = write!(
                why,
                ", those accepted last had waited for {:.0} ms on average",
                us as f64 / 1e3
            );
        }
        if growth_per_sec >= 0.5 {
            let _ = write!(why, ", growing {growth_per_sec:.0}/s");
        }
        if self.sockets > 1 {
            let _ = write!(why, ", at one of {} sockets that share this address", self.sockets);
        }
        match exhaustion_secs {
            Some(0.0) => why.push_str("; the queue is full"),
            Some(secs) => {
                let _ = write!(why, "; the queue overflows in {}", Span(secs));
            }
            None => {}
        }
        for more in self.more(scarce) {
            why.push_str("; ");
            why.push_str(&more);
        }
        why
    }

    /// What else speaks for it.
    fn more(&self, scarce: Option<Bottleneck>) -> Vec<String> {
        let mut more = Vec::new();
        let strain = self.run.map(|run| run.strain).unwrap_or_default();
        let dropped = self.run.map_or(0, |run| run.overflows);
        if dropped > 0 {
            more.push(format!("{dropped} connections were dropped meanwhile"));
        }
        more.extend(scarce.and_then(|scarce| strain.because(scarce)));
        more.extend(self.rates.change());
        if strain.retransmits > 0 {
            more.push(format!("{} segments were sent again", strain.retransmits));
        }
        if strain.refused > 0 {
            more.push(format!("{} connects were refused or given up", strain.refused));
        }
        if self.ground == Trigger::Deep {
            more.push(
                "the age of the queue's head is not visible here, so this rests on its depth"
                    .to_owned(),
            );
        }
        more
    }
}

/// Why a claim is withdrawn.
pub(super) fn well_again(fact: &ListenerFact, well_secs: f64, stood_secs: f64) -> String {
    let (well, stood) = (Span(well_secs), Span(stood_secs));
    format!(
        "the accept queue of {} has been well for {well}, after {stood} of overload",
        ListenerName::of(fact)
    )
}

/// Why the claim about a listener that is gone is withdrawn.
pub(super) fn vanished(verdict: &Verdict) -> String {
    let Claim::Overload(claim) = &verdict.claim else { return String::new() };
    let who = ListenerName { addr: &claim.addr, comm: &claim.comm, pid: claim.pid };
    format!("{who} vanished: the last scans do not show it")
}

/// A listener as a person knows it.
struct ListenerName<'a> {
    addr: &'a str,
    comm: &'a str,
    pid: Option<u32>,
}

impl<'a> ListenerName<'a> {
    fn of(fact: &'a ListenerFact) -> Self {
        Self { addr: &fact.addr, comm: &fact.comm, pid: fact.pid }
    }
}

impl fmt::Display for ListenerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.addr)?;
        match (self.comm, self.pid) {
            (_, None) => Ok(()),
            ("", Some(pid)) => write!(f, " (pid {pid})"),
            (comm, Some(pid)) => write!(f, " ({comm}, pid {pid})"),
        }
    }
}
