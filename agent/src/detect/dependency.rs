//! The cascade detector: which dependency has stopped to answer.
//!
//! A server that died, while its clients kept trying and leaked a little with each try, began the
//! outage that this agent is built against. So connects that fail are watched a workload and
//! address: where one used to answer and then, for `sustain`, every connect failed, that is a risk
//! to whatever calls it, long before memory or queues show it. It is told to a person, and answered
//! by nothing else: a node whose dependency is down serves no better for being drained.
//!
//! Cold start: an address that never answered is a mistake in somebody's configuration and no risk
//! that begins: nothing is claimed. Connects under way that nobody has answered for `sustain` count
//! as failing. A claim is withdrawn at the first that succeeds, or once nobody has tried for a
//! minute. It refuses to claim on fewer than [`FAILED_MIN`] failures, and to blame a server for
//! connects that never left this host because no local port was free: those are an exhaustion of
//! the client's.

use std::{collections::HashMap, sync::Arc};

use super::{
    Context, Detector, DetectorSize, Findings,
    confidence::Rule,
    verdict::{CascadeRiskClaim, Claim, ClaimState, ExhaustionClaim, Sign, Spared, Verdict},
};
use crate::{
    sense::{Fact, OutboundFact},
    units::{Count, Span, rounded},
};

/// For so long every connect must have failed: longer than a dependency takes to restart. A guess.
const SUSTAIN_SECS: f64 = 15.0;

/// So many must have failed in that time.
const FAILED_MIN: u64 = 5;

/// A claim is withdrawn once nobody has tried for this long: nobody is left who depends on the
/// address. A guess: health checks and retries come more often.
const UNTRIED_SECS: f64 = 60.0;

/// An address that nobody connects to for so long is forgotten.
const FORGOTTEN_SECS: f64 = 600.0;

/// Time over which the present rate of attempts is taken.
const RECENT_SECS: f64 = 10.0;

/// Attempts that are left, as a share of those that succeeded before, at which only health checks
/// are left. A guess: a client that depends on an address tries at least as often as before.
const CHECKS_SHARE: f64 = 0.5;

/// Another address answers a workload if it did so within this time.
const ANSWERS_SECS: f64 = 15.0;

/// Failures without an answer at which connects that were never seen under way are taken to have
/// failed on this host. At ten a second and a timeout of 100 ms, one is under way at any look.
const LOCAL_FAILED_MIN: u64 = 20;

/// Time between two forecasts of a claim that stands.
const FORECAST_EVERY_SECS: f64 = 5.0;

/// Addresses watched at once: as many as the sensor tells of, for some minutes. A guess at the
/// busiest node's.
const ADDRESSES_MAX: usize = 8_192;

/// Sure that nothing answers; whether it is missed is for the service to say.
const CONFIDENCE: f64 = 0.9;

type DependencyKey = (Arc<str>, u32, Arc<str>);

/// Finds dependencies that have stopped to answer.
#[derive(Default)]
pub struct DependencyDetector {
    addresses: HashMap<DependencyKey, Dependency>,
    untracked_total: u64,
}

/// One workload's connects to one address.
#[derive(Debug, Default)]
struct Dependency {
    last: Option<OutboundFact>,
    first_t: f64,
    /// Time of the last look at which a connect was begun, ended or under way.
    tried_t: f64,
    /// When one last succeeded; `None` where none ever did.
    answered_t: Option<f64>,
    answered: u64,
    failing: Failing,
    recent: Recent,
    raised: Option<Verdict>,
    forecast_t: f64,
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Failing {
    since_t: Option<f64>,
    refused: u64,
    timed_out: u64,
    abandoned: u64,
    no_local_port: u64,
    /// Set if one was seen under way.
    was_pending: bool,
}

impl Failing {
    fn failed(self) -> u64 {
        self.refused.saturating_add(self.timed_out).saturating_add(self.abandoned)
    }

    /// Connects that failed before anything was sent; `None` if the other side may be the reason.
    /// Sensors that do not tell them apart count them as abandoned: then none of many was ever seen
    /// under way.
    fn failed_locally(self) -> Option<u64> {
        if self.no_local_port > self.failed() {
            return Some(self.no_local_port);
        }
        let sent_none = self.refused == 0 && self.timed_out == 0 && !self.was_pending;
        (sent_none && self.abandoned >= LOCAL_FAILED_MIN).then_some(self.abandoned)
    }
}

/// Failures of the last [`RECENT_SECS`], as a rate that decays.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    t: f64,
    per_sec: f64,
}

impl Recent {
    fn add(&mut self, t: f64, failed: u64) {
        self.per_sec = self.per_sec_at(t) + failed as f64 / RECENT_SECS;
        self.t = t;
    }

    fn per_sec_at(self, t: f64) -> f64 {
        self.per_sec * (-(t - self.t).max(0.0) / RECENT_SECS).exp()
    }
}

impl Dependency {
    /// Takes a look; `others_answer` tells if another address with the same port answers this
    /// workload.
    fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &OutboundFact,
        others_answer: bool,
        findings: &mut Findings,
    ) {
        let t = context.t;
        // The first look's totals are of nobody knows when.
        let last = self.last.replace(fact.clone()).unwrap_or_else(|| {
            (self.first_t, self.tried_t) = (t, t);
            fact.clone()
        });
        let rise = |now: u64, before: u64| now.saturating_sub(before);
        let answered = rise(fact.established_total, last.established_total);
        if answered > 0 {
            (self.answered_t, self.tried_t) = (Some(t), t);
            self.answered = self.answered.saturating_add(answered);
            let failing = std::mem::take(&mut self.failing);
            findings
                .verdicts
                .extend(self.raised.take().map(|raised| answers_again(t, failing, raised)));
            return;
        }
        let failing = &mut self.failing;
        let failed_before = failing.failed().saturating_add(failing.no_local_port);
        let no_local_port = |fact: &OutboundFact| fact.no_local_port_total.unwrap_or(0);
        failing.refused =
            failing.refused.saturating_add(rise(fact.refused_total, last.refused_total));
        failing.timed_out =
            failing.timed_out.saturating_add(rise(fact.timed_out_total, last.timed_out_total));
        failing.abandoned =
            failing.abandoned.saturating_add(rise(fact.abandoned_total, last.abandoned_total));
        failing.no_local_port =
            failing.no_local_port.saturating_add(rise(no_local_port(fact), no_local_port(&last)));
        failing.was_pending |= fact.pending > 0;
        let failed = failing.failed().saturating_add(failing.no_local_port);
        if failed > failed_before || fact.pending > 0 {
            self.tried_t = t;
            failing.since_t.get_or_insert(t);
        }
        self.recent.add(t, failed - failed_before);
        let (failing, pending) = (self.failing, u64::from(fact.pending));
        let Some((since_t, answered_t)) = failing.since_t.zip(self.answered_t) else { return };
        let enough = failed.saturating_add(pending) >= FAILED_MIN && t - since_t >= SUSTAIN_SECS;
        let is_due = self.raised.is_none() || t - self.forecast_t >= FORECAST_EVERY_SECS;
        if !enough || !is_due {
            return;
        }
        self.forecast_t = t;
        let verdict = match failing.failed_locally() {
            Some(failed) => no_ports(context, fact, failed, since_t),
            None => does_not_answer(
                context,
                fact,
                failing,
                self.spared(t, answered_t, others_answer),
                answered_t,
                self.answered,
            ),
        };
        match &self.raised {
            None => {
                self.raised = Some(verdict.clone());
                findings.verdicts.push(verdict);
            }
            // What it is called does not change while it stands.
            Some(raised) if raised.claim.name() == verdict.claim.name() => {
                findings.forecasts.push(verdict)
            }
            Some(_) => {}
        }
    }

    /// Reason to think that no user misses the dependency.
    fn spared(&self, t: f64, answered_t: f64, others_answer: bool) -> Option<Spared> {
        let usual_per_sec = self.answered as f64 / (answered_t - self.first_t).max(1.0);
        if others_answer {
            return Some(Spared::OthersAnswer);
        }
        // Connects that hang are few because each takes long.
        let only_checks =
            !self.failing.was_pending && self.recent.per_sec_at(t) < CHECKS_SHARE * usual_per_sec;
        only_checks.then_some(Spared::OnlyChecks)
    }

    /// Withdraws a claim that nobody tries any more, and says if the address can be forgotten.
    fn is_forgotten(&mut self, t: f64, findings: &mut Findings) -> bool {
        let untried_secs = t - self.tried_t;
        if let Some(raised) = self.raised.take_if(|_| untried_secs > UNTRIED_SECS) {
            let why = format!("nobody has connected for {}", Span(untried_secs));
            findings.verdicts.push(Verdict { t, state: ClaimState::Cleared, why, ..raised });
            self.failing = Failing::default();
        }
        untried_secs > FORGOTTEN_SECS
    }
}

/// Port of an address such as `10.0.0.5:5432`.
fn port(addr: &str) -> &str {
    addr.rsplit(':').next().unwrap_or_default()
}

impl DependencyDetector {
    fn outbound(&mut self, context: &Context<'_>, fact: &OutboundFact, findings: &mut Findings) {
        let key = (fact.cgroup.clone(), fact.netns, fact.addr.clone());
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&key) {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        // Only an address that fails is compared with others, and few fail.
        let fails =
            self.addresses.get(&key).is_some_and(|address| address.failing.since_t.is_some());
        let others_answer = fails
            && self.addresses.iter().any(|((cgroup, netns, addr), other)| {
                (cgroup, *netns) == (&fact.cgroup, fact.netns)
                    && *addr != fact.addr
                    && port(addr) == port(&fact.addr)
                    && other.failing.since_t.is_none()
                    && other
                        .answered_t
                        .is_some_and(|answered_t| context.t - answered_t <= ANSWERS_SECS)
            });
        self.addresses.entry(key).or_default().observe(context, fact, others_answer, findings);
    }
}

impl Detector for DependencyDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => {
                let cleared_from = findings.verdicts.len();
                self.addresses.retain(|_, address| !address.is_forgotten(context.t, findings));
                // A hash map has no order; output has one.
                findings.verdicts[cleared_from..].sort_by_key(|verdict| match &verdict.claim {
                    Claim::CascadeRisk(claim) => {
                        (claim.cgroup.clone(), claim.netns, claim.addr.clone())
                    }
                    Claim::Exhaustion(claim) => {
                        (claim.cgroup.clone(), claim.netns, claim.addr.clone())
                    }
                    Claim::Leak(_) | Claim::Overload(_) => (Arc::from(""), 0, Arc::from("")),
                });
            }
            Fact::Outbound(fact) => self.outbound(context, fact, findings),
            Fact::Listener(_)
            | Fact::Handles(_)
            | Fact::Sensing(_)
            | Fact::Process(_)
            | Fact::Exec(_)
            | Fact::Exit(_) => {}
        }
    }

    fn held(&self) -> DetectorSize {
        DetectorSize {
            tracked: self.addresses.len(),
            raised: self.addresses.values().filter(|address| address.raised.is_some()).count(),
            untracked_total: self.untracked_total,
        }
    }
}

fn does_not_answer(
    context: &Context<'_>,
    fact: &OutboundFact,
    failing: Failing,
    spared: Option<Spared>,
    answered_t: f64,
    answered: u64,
) -> Verdict {
    let t = context.t;
    let kinds = [
        (failing.refused, "refused"),
        (failing.timed_out, "timed out"),
        (failing.abandoned, "given up"),
        (u64::from(fact.pending), "without an answer yet"),
    ];
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|kind| kind.0 > 0)
        .map(|(n, kind)| format!("{} {kind}", Count(*n)))
        .collect();
    let why = format!(
        "{} does not answer {}: {} in {}; the last of {} connects that succeeded was {} ago; {}",
        fact.addr,
        who(fact),
        kinds.join(", "),
        Span(t - failing.since_t.unwrap_or(t)),
        Count(answered),
        Span(t - answered_t),
        match spared {
            None => "what depends on it will fail next",
            Some(Spared::OnlyChecks) =>
                "far fewer connect than before, as if only health checks were left",
            Some(Spared::OthersAnswer) => "other addresses with this port still answer",
        },
    );
    let claim = CascadeRiskClaim {
        sign: Sign::DependencyDown,
        addr: fact.addr.clone(),
        netns: fact.netns,
        pid: fact.pid,
        comm: fact.comm.clone(),
        cgroup: fact.cgroup.clone(),
        failed: failing.failed(),
        spared,
    };
    verdict(context, Claim::CascadeRisk(claim), why)
}

/// Claims that a workload has no local port left to one destination.
fn no_ports(context: &Context<'_>, fact: &OutboundFact, failed: u64, since_t: f64) -> Verdict {
    let why = format!(
        "{} cannot connect to {}: {} connects failed in {} before anything was sent, as if no local port to it were free; the server \
         is not the reason; close idle connections, reuse them, or widen net.ipv4.ip_local_port_range",
        who(fact),
        fact.addr,
        Count(failed),
        Span(context.t - since_t),
    );
    let claim = ExhaustionClaim {
        resource: ExhaustionClaim::LOCAL_PORTS,
        addr: fact.addr.clone(),
        netns: fact.netns,
        pid: fact.pid,
        comm: fact.comm.clone(),
        cgroup: fact.cgroup.clone(),
        failed,
    };
    verdict(context, Claim::Exhaustion(claim), why)
}

/// Names the workload that connects: its cgroup, and the process that did so last.
fn who(fact: &OutboundFact) -> String {
    let cgroup = if fact.cgroup.is_empty() { "a process" } else { &fact.cgroup };
    let comm = if fact.comm.is_empty() { "pid".to_owned() } else { format!("{}, pid", fact.comm) };
    format!("{cgroup} ({comm} {})", fact.pid)
}

fn verdict(context: &Context<'_>, claim: Claim, mut why: String) -> Verdict {
    let confidence = context.trust.weigh(Rule::Outbound, context.t, CONFIDENCE, &mut why);
    Verdict {
        t: context.t,
        claim,
        exhaustion_secs: None,
        exhaustion_interval_secs: None,
        confidence: rounded(confidence, 2),
        state: ClaimState::Raised,
        harm: None,
        why,
    }
}

fn answers_again(t: f64, failing: Failing, raised: Verdict) -> Verdict {
    let failed = Span(t - failing.since_t.unwrap_or(raised.t));
    let why = match &raised.claim {
        Claim::CascadeRisk(claim) => {
            format!("{} answers again, after {failed} without", claim.addr)
        }
        Claim::Exhaustion(claim) => {
            format!("connects to {} succeed again, after {failed} without", claim.addr)
        }
        Claim::Leak(_) | Claim::Overload(_) => String::new(),
    };
    Verdict { t, state: ClaimState::Cleared, why, ..raised }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        engine::{Engine, HostInfo},
        sense::Observation,
    };

    struct Run {
        core: Engine,
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
            let core =
                Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 });
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

        fn states(&self) -> Vec<(ClaimState, f64)> {
            self.verdicts.iter().map(|verdict| (verdict.state, verdict.t)).collect()
        }
    }

    #[test]
    fn a_dependency_that_stops_to_answer_is_a_risk_until_it_answers_again() {
        let mut run = Run::new();
        run.secs(60, 4, 0);
        run.secs(40, 0, 4);
        run.secs(5, 4, 0);
        assert_eq!(run.states(), [(ClaimState::Raised, 75.0), (ClaimState::Cleared, 100.0)]);
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
        assert_eq!(run.states(), [(ClaimState::Raised, 75.0)]);
        assert!(
            run.verdicts[0].why.contains("8 without an answer yet in 15 s"),
            "{}",
            run.verdicts[0].why
        );
        let host = |t| {
            let fact = crate::sense::HostFact {
                mem_available_bytes: 1 << 33,
                psi_memory_some_avg10: None,
            };
            Observation { t, fact: Fact::Host(fact) }
        };
        assert!(run.core.apply(&host(130.0)).verdicts.is_empty());
        let cleared = run.core.apply(&host(140.0)).verdicts;
        assert_eq!(cleared.len(), 1);
        assert_eq!(cleared[0].why, "nobody has connected for 61 s");
        assert!(run.core.apply(&host(900.0)).verdicts.is_empty());
    }

    fn spared(run: &Run) -> Option<Spared> {
        let Claim::CascadeRisk(claim) = &run.verdicts[0].claim else {
            panic!("{:?}", run.verdicts)
        };
        claim.spared
    }

    #[test]
    fn checks_of_a_backend_that_was_stopped_are_told_from_users_who_miss_it() {
        let mut stopped = Run::new();
        stopped.secs(60, 4, 0);
        stopped.secs(5, 0, 4);
        // A balancer's checks are left: one in two seconds.
        for _ in 0..15 {
            stopped.secs(1, 0, 1);
            stopped.secs(1, 0, 0);
        }
        assert_eq!(spared(&stopped), Some(Spared::OnlyChecks));
        let mut missed = Run::new();
        missed.secs(60, 4, 0);
        missed.secs(30, 0, 4);
        assert_eq!(spared(&missed), None);
    }

    #[test]
    fn a_backend_whose_siblings_answer_is_spared() {
        let mut run = Run::new();
        for t in 0..100 {
            run.secs(1, if t < 60 { 4 } else { 0 }, if t < 60 { 0 } else { 4 });
            let mut sibling = OutboundFact { addr: Arc::from("10.0.0.6:5432"), ..run.fact.clone() };
            (sibling.established_total, sibling.refused_total) = (t * 4, 0);
            run.core.apply(&Observation { t: run.t - 0.5, fact: Fact::Outbound(sibling) });
        }
        assert_eq!(spared(&run), Some(Spared::OthersAnswer));
    }

    #[test]
    fn a_client_without_a_local_port_does_not_blame_the_server() {
        // Counted apart, and, by sensors that do not, as given up at once.
        for counted in [true, false] {
            let mut run = Run::new();
            run.secs(60, 10, 0);
            for _ in 0..40 {
                match counted {
                    true => {
                        run.fact.no_local_port_total =
                            Some(run.fact.no_local_port_total.unwrap_or(0) + 10)
                    }
                    false => run.fact.abandoned_total += 10,
                }
                run.secs(1, 0, 0);
            }
            run.secs(5, 10, 0);
            assert_eq!(run.states(), [(ClaimState::Raised, 75.0), (ClaimState::Cleared, 100.0)]);
            let Claim::Exhaustion(claim) = &run.verdicts[0].claim else {
                panic!("{:?}", run.verdicts)
            };
            assert_eq!((claim.resource, claim.failed), ("local_ports", 160));
            assert!(
                run.verdicts[0].why.contains("the server is not the reason"),
                "{}",
                run.verdicts[0].why
            );
        }
    }
}
