//! The cascade detector: which dependency has stopped to answer.
//!
//! A server that died, while its clients kept trying and leaked a little with each try, began the outage that this agent is built
//! against. So connects that fail are watched a workload and address: where one used to answer and then, for `sustain`, every
//! connect failed, that is a risk to whatever calls it, long before memory or queues show it. It is told to a person, and answered
//! by nothing else: a node whose dependency is down serves no better for being drained.
//!
//! Cold start: an address that never answered is a mistake in somebody's configuration and no risk that begins: nothing is
//! claimed. Connects under way that nobody has answered for `sustain` count as failing. A claim is withdrawn at the first that
//! succeeds, or when nobody has tried for ten minutes. It refuses to claim on fewer than [`FAILED_MIN`] failures.

use std::{collections::HashMap, sync::Arc};

use super::{
    Context, Detector, Findings, Held,
    trust::Rule,
    verdict::{CascadeRiskClaim, Claim, Sign, State, Verdict},
    words::{Count, Span, rounded},
};
use crate::sense::{Fact, OutboundFact};

/// For so long every connect must have failed: longer than a dependency takes to restart. A guess.
const SUSTAIN_SECS: f64 = 15.0;

/// So many must have failed in that time.
const FAILED_MIN: u64 = 5;

/// An address that nobody connects to for so long is forgotten.
const FORGOTTEN_SECS: f64 = 600.0;

/// Addresses watched at once: as many as the sensor tells of, for some minutes. A guess at the busiest node's.
const ADDRESSES_MAX: usize = 8_192;

/// Sure that nothing answers; whether it is missed is for the service to say.
const CONFIDENCE: f64 = 0.9;

type Key = (Arc<str>, u32, Arc<str>);

/// Finds dependencies that have stopped to answer.
#[derive(Default)]
pub struct CascadeDetector {
    addresses: HashMap<Key, Address>,
    untracked_total: u64,
}

/// One workload's connects to one address.
#[derive(Debug, Default)]
struct Address {
    last: Option<OutboundFact>,
    seen_t: f64,
    /// When one last succeeded; `None` where none ever did.
    answered_t: Option<f64>,
    answered: u64,
    failing: Failing,
    raised: Option<Verdict>,
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Failing {
    since_t: Option<f64>,
    refused: u64,
    timed_out: u64,
    abandoned: u64,
}

impl Failing {
    fn failed(self) -> u64 {
        self.refused.saturating_add(self.timed_out).saturating_add(self.abandoned)
    }
}

impl Address {
    fn observe(&mut self, context: &Context<'_>, fact: &OutboundFact) -> Option<Verdict> {
        let t = context.t;
        self.seen_t = t;
        // The first look's totals are of nobody knows when.
        let last = self.last.replace(fact.clone()).unwrap_or_else(|| fact.clone());
        let rise = |now: u64, before: u64| now.saturating_sub(before);
        let answered = rise(fact.established_total, last.established_total);
        if answered > 0 {
            self.answered_t = Some(t);
            self.answered = self.answered.saturating_add(answered);
            let failing = std::mem::take(&mut self.failing);
            return self.raised.take().map(|raised| answers_again(t, failing, raised));
        }
        let failing = &mut self.failing;
        failing.refused = failing.refused.saturating_add(rise(fact.refused_total, last.refused_total));
        failing.timed_out = failing.timed_out.saturating_add(rise(fact.timed_out_total, last.timed_out_total));
        failing.abandoned = failing.abandoned.saturating_add(rise(fact.abandoned_total, last.abandoned_total));
        if failing.failed() > 0 || fact.pending > 0 {
            failing.since_t.get_or_insert(t);
        }
        let (failing, pending) = (self.failing, u64::from(fact.pending));
        let lasted_secs = t - failing.since_t?;
        let enough = failing.failed().saturating_add(pending) >= FAILED_MIN && lasted_secs >= SUSTAIN_SECS;
        if self.raised.is_some() || !enough {
            return None;
        }
        let verdict = claim(context, fact, failing, self.answered_t?, self.answered);
        self.raised = Some(verdict.clone());
        Some(verdict)
    }

    /// Whether nobody has tried for long; gives the claim that is withdrawn for it.
    fn is_forgotten(&mut self, t: f64, findings: &mut Findings) -> bool {
        let forgotten = t - self.seen_t > FORGOTTEN_SECS;
        if let Some(raised) = self.raised.take_if(|_| forgotten) {
            let why = format!("nobody has connected for {}", Span(t - self.seen_t));
            findings.verdicts.push(Verdict { t, state: State::Cleared, why, ..raised });
        }
        forgotten
    }
}

impl Detector for CascadeDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => {
                let cleared_from = findings.verdicts.len();
                self.addresses.retain(|_, address| !address.is_forgotten(context.t, findings));
                // A hash map has no order; output has one.
                findings.verdicts[cleared_from..].sort_by_key(|verdict| match &verdict.claim {
                    Claim::CascadeRisk(claim) => (claim.cgroup.clone(), claim.netns, claim.addr.clone()),
                    Claim::Leak(_) | Claim::Overload(_) => (Arc::from(""), 0, Arc::from("")),
                });
            }
            Fact::Outbound(fact) => {
                let key = (fact.cgroup.clone(), fact.netns, fact.addr.clone());
                if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&key) {
                    self.untracked_total = self.untracked_total.saturating_add(1);
                    return;
                }
                findings.verdicts.extend(self.addresses.entry(key).or_default().observe(context, fact));
            }
            Fact::Listener(_)
            | Fact::Handles(_)
            | Fact::Sensing(_)
            | Fact::Process(_)
            | Fact::Exec(_)
            | Fact::Exit(_) => {}
        }
    }

    fn held(&self) -> Held {
        Held {
            tracked: self.addresses.len(),
            raised: self.addresses.values().filter(|address| address.raised.is_some()).count(),
            untracked_total: self.untracked_total,
        }
    }
}

fn claim(context: &Context<'_>, fact: &OutboundFact, failing: Failing, answered_t: f64, answered: u64) -> Verdict {
    let t = context.t;
    let who = if fact.comm.is_empty() { "pid".to_owned() } else { format!("{}, pid", fact.comm) };
    let kinds = [
        (failing.refused, "refused"),
        (failing.timed_out, "timed out"),
        (failing.abandoned, "given up"),
        (u64::from(fact.pending), "without an answer yet"),
    ];
    let kinds: Vec<_> =
        kinds.iter().filter(|kind| kind.0 > 0).map(|(n, kind)| format!("{} {kind}", Count(*n))).collect();
    let mut why = format!(
        "{} does not answer {} ({who} {}): {} in {}; the last of {} connects that succeeded was {} ago; what depends on it will fail next",
        fact.addr,
        if fact.cgroup.is_empty() { "a process" } else { &fact.cgroup },
        fact.pid,
        kinds.join(", "),
        Span(t - failing.since_t.unwrap_or(t)),
        Count(answered),
        Span(t - answered_t),
    );
    let confidence = context.trust.weigh(Rule::Outbound, t, CONFIDENCE, &mut why);
    let claim = CascadeRiskClaim {
        sign: Sign::DependencyDown,
        addr: fact.addr.clone(),
        netns: fact.netns,
        pid: fact.pid,
        comm: fact.comm.clone(),
        cgroup: fact.cgroup.clone(),
        failed: failing.failed(),
    };
    Verdict {
        t,
        claim: Claim::CascadeRisk(claim),
        exhaustion_secs: None,
        exhaustion_interval_secs: None,
        confidence: rounded(confidence, 2),
        state: State::Raised,
        why,
    }
}

fn answers_again(t: f64, failing: Failing, raised: Verdict) -> Verdict {
    let failed = Span(t - failing.since_t.unwrap_or(raised.t));
    let why = match &raised.claim {
        Claim::CascadeRisk(claim) => format!("{} answers again, after {failed} without", claim.addr),
        Claim::Leak(_) | Claim::Overload(_) => String::new(),
    };
    Verdict { t, state: State::Cleared, why, ..raised }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        core::{Core, HostInfo},
        sense::Observation,
    };

    struct Run {
        core: Core,
        fact: OutboundFact,
        t: f64,
        verdicts: Vec<Verdict>,
    }

    impl Run {
        fn new() -> Self {
            let fact = OutboundFact {
                netns: 1,
                addr: Arc::from("10.0.0.5:5432"),
                cgroup: Arc::from("/api.service"),
                pid: 812,
                comm: Arc::from("api"),
                ..OutboundFact::default()
            };
            let core = Core::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 });
            Self { core, fact, t: 0.0, verdicts: Vec::new() }
        }

        /// Every second so many succeed and so many are refused.
        fn secs(&mut self, secs: u32, answered: u64, refused: u64) {
            for _ in 0..secs {
                self.fact.established_total += answered;
                self.fact.refused_total += refused;
                let fact = Fact::Outbound(self.fact.clone());
                self.verdicts.extend(self.core.apply(&Observation { t: self.t, fact }).verdicts);
                self.t += 1.0;
            }
        }

        fn states(&self) -> Vec<(State, f64)> {
            self.verdicts.iter().map(|verdict| (verdict.state, verdict.t)).collect()
        }
    }

    #[test]
    fn a_dependency_that_stops_to_answer_is_a_risk_until_it_answers_again() {
        let mut run = Run::new();
        run.secs(60, 4, 0);
        run.secs(40, 0, 4);
        run.secs(5, 4, 0);
        assert_eq!(run.states(), [(State::Raised, 75.0), (State::Cleared, 100.0)]);
        assert_eq!(
            run.verdicts[0].why,
            "10.0.0.5:5432 does not answer /api.service (api, pid 812): 64 refused in 15 s; the last of 236 connects that \
             succeeded was 16 s ago; what depends on it will fail next"
        );
        assert_eq!(run.verdicts[1].why, "10.0.0.5:5432 answers again, after 40 s without");
    }

    #[test]
    fn what_never_answered_restarts_quickly_or_fails_now_and_then_is_none() {
        let mut run = Run::new();
        run.secs(300, 0, 4);
        let mut restarts = Run::new();
        restarts.secs(60, 4, 0);
        restarts.secs(14, 0, 4);
        restarts.secs(60, 4, 0);
        let mut now_and_then = Run::new();
        now_and_then.secs(300, 1, 4);
        let mut seldom = Run::new();
        seldom.secs(60, 4, 0);
        seldom.secs(1, 0, 4);
        seldom.secs(100, 0, 0);
        for run in [run, restarts, now_and_then, seldom] {
            assert_eq!(run.states(), []);
        }
    }

    #[test]
    fn connects_that_nobody_answers_count_before_the_kernel_gives_them_up() {
        let mut run = Run::new();
        run.secs(60, 4, 0);
        run.fact.pending = 8;
        run.secs(20, 0, 0);
        assert_eq!(run.states(), [(State::Raised, 75.0)]);
        assert!(run.verdicts[0].why.contains("8 without an answer yet in 15 s"), "{}", run.verdicts[0].why);
        let host = |t| {
            let fact = crate::sense::HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None };
            Observation { t, fact: Fact::Host(fact) }
        };
        assert!(run.core.apply(&host(600.0)).verdicts.is_empty());
        let cleared = run.core.apply(&host(700.0)).verdicts;
        assert_eq!(cleared.len(), 1);
        assert_eq!(cleared[0].why, "nobody has connected for 10 min");
    }
}
