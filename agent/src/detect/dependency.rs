//! Dependency detector: finds dependencies that have stopped answering.
//!
//! A server that died, while its clients kept trying and leaked a little with each try, began the
//! outage that this agent is built against. So failing connects are watched by workload and
//! address: if an address used to answer and then every connect failed for `sustain`, that
//! endangers its callers long before memory or queues show it. It is reported to a person and
//! answered by nothing else: a node whose dependency is down serves no better for being drained.
//!
//! Cold start: an address that never answered is a mistake in a configuration and no new risk, so
//! nothing is claimed. Connects without an answer for `sustain` count as failing. A claim is
//! cleared at the first connect that succeeds, or once no process has tried for a minute. Fewer
//! than [`FAILED_MIN`] failures are not claimed, and a server is not blamed for connects that never
//! left this host because no local port was free: the client has exhausted its ports.

pub(super) mod claim;
mod failing;
mod verdict;

use std::{collections::HashMap, sync::Arc};

use self::{
    claim::Spared,
    failing::{Failing, LastAnswer},
};
use super::{
    detector::{Context, Detector, DetectorSize, Findings},
    verdict::Verdict,
};
use crate::{
    sense::{Fact, OutboundFact},
    spare_room,
    units::Span,
};

/// Time for which every connect must have failed: longer than a dependency takes to restart. A
/// guess.
const SUSTAIN_SECS: f64 = 15.0;

/// Failures required in that time.
const FAILED_MIN: u64 = 5;

/// Time without a connect after which a claim is cleared: no caller is left that depends on the
/// address. A guess: health checks and retries come more often.
const UNTRIED_SECS: f64 = 60.0;

/// Time without a connect after which an address is forgotten, and one that never answered.
const FORGOTTEN_SECS: f64 = 600.0;
const FORGOTTEN_UNANSWERED_SECS: f64 = 60.0;

/// Time over which the present rate of attempts is averaged.
const RECENT_SECS: f64 = 10.0;

/// Attempts, as a share of earlier successes, below which only health checks are left. A guess: a
/// client that depends on an address tries at least as often as before.
const CHECKS_SHARE: f64 = 0.5;

/// Time since its last answer within which another address counts as answering.
const ANSWERS_SECS: f64 = 15.0;

/// Time between two forecasts of an open claim.
const FORECAST_EVERY_SECS: f64 = 5.0;

/// Maximum number of addresses watched: as many as the sensor reports, for some minutes. A guess at
/// the busiest node's.
const ADDRESSES_MAX: usize = 8_192;

type DependencyKey = (Arc<str>, u32, Arc<str>);

/// Finds dependencies that have stopped answering.
#[derive(Default)]
pub(super) struct DependencyDetector {
    addresses: HashMap<DependencyKey, Dependency>,
    untracked_total: u64,
}

/// One workload's connects to one address.
#[derive(Debug, Default)]
struct Dependency {
    last: Option<OutboundFact>,
    first_t: f64,
    /// Time of the last sample at which a connect was begun, ended or pending.
    tried_t: f64,
    /// Time of the last connect that succeeded; `None` if none did.
    answered_t: Option<f64>,
    answered: u64,
    failing: Failing,
    recent: Recent,
    raised: Option<Box<Verdict>>,
    forecast_t: f64,
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
    /// Takes a sample. `others_answer` is whether another address with the same port answers this
    /// workload.
    fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &OutboundFact,
        others_answer: bool,
        findings: &mut Findings,
    ) {
        let t = context.t;
        // The first sample's totals are of an unknown time.
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
                .extend(self.raised.take().map(|raised| verdict::recovered(t, failing, *raised)));
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
            Some(failed) => verdict::no_local_port(context, fact, failed, since_t),
            None => {
                let spared = self.spared(t, answered_t, others_answer);
                let last = LastAnswer { t: answered_t, answered: self.answered };
                verdict::no_answer(context, fact, failing, spared, last)
            }
        };
        match &self.raised {
            None => {
                self.raised = Some(Box::new(verdict.clone()));
                findings.verdicts.push(verdict);
            }
            // The kind of claim does not change while it is open.
            Some(raised) if raised.claim.name() == verdict.claim.name() => {
                findings.forecasts.push(verdict)
            }
            Some(_) => {}
        }
    }

    /// Returns the reason to think that no user misses the dependency.
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

    /// Clears a claim about an address without connects, and returns whether the address can be
    /// forgotten.
    fn is_forgotten(&mut self, t: f64, findings: &mut Findings) -> bool {
        let untried_secs = t - self.tried_t;
        if let Some(raised) = self.raised.take_if(|_| untried_secs > UNTRIED_SECS) {
            let why = format!("no process has connected to it for {}", Span(untried_secs));
            findings.verdicts.push(Verdict::cleared(t, raised.claim, raised.confidence, why));
            self.failing = Failing::default();
        }
        let kept_secs = match self.answered_t {
            Some(_) => FORGOTTEN_SECS,
            None => FORGOTTEN_UNANSWERED_SECS,
        };
        untried_secs > kept_secs
    }
}

/// Returns the port of an address such as `10.0.0.5:5432`.
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
                spare_room::of_map(&mut self.addresses);
                // A hash map has no order, but output has.
                findings.verdicts[cleared_from..].sort_by_key(|verdict| verdict.claim.id());
            }
            Fact::Outbound(fact) => self.outbound(context, fact, findings),
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        let is_raised = |address: &&Dependency| address.raised.is_some();
        DetectorSize {
            destinations: self.addresses.len(),
            cascade_risks_raised: self.addresses.values().filter(is_raised).count(),
            untracked_total: self.untracked_total,
            ..DetectorSize::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        detect::{Claim, ClaimState},
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
    fn silent_dependency_is_a_risk_until_it_answers_again() {
        let mut run = Run::new();
        run.secs(60, 4, 0);
        run.secs(40, 0, 4);
        run.secs(5, 4, 0);
        assert_eq!(run.states(), [(ClaimState::Raised, 75.0), (ClaimState::Cleared, 100.0)]);
        assert_eq!(
            run.verdicts[0].why,
            "10.0.0.5:5432 does not answer /api.service (api, pid 812): 64 refused in 15 s; \
             the last of 236 successful connects was 16 s ago; services that depend on it will \
             fail next"
        );
        assert_eq!(run.verdicts[1].why, "10.0.0.5:5432 answers again, after 40 s of failures");
    }

    #[test]
    fn dependency_that_fails_briefly_or_always_is_no_risk() {
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
    fn pending_connects_count_before_the_kernel_gives_up() {
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
        assert_eq!(cleared[0].why, "no process has connected to it for 61 s");
        assert!(run.core.apply(&host(900.0)).verdicts.is_empty());
    }

    fn spared(run: &Run) -> Option<Spared> {
        let Claim::CascadeRisk(claim) = &run.verdicts[0].claim else {
            panic!("{:?}", run.verdicts)
        };
        claim.spared
    }

    #[test]
    fn checks_of_a_stopped_backend_are_told_from_users() {
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
            let Claim::LocalPorts(claim) = &run.verdicts[0].claim else {
                panic!("{:?}", run.verdicts)
            };
            assert_eq!((claim.resource, claim.failed), ("local_ports", 160));
            assert!(
                run.verdicts[0].why.contains("the server is not the cause"),
                "{}",
                run.verdicts[0].why
            );
        }
    }
}
