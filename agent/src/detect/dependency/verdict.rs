//! Verdicts about dependencies, with their sentences.

use super::{
    claim::{CascadeRiskClaim, LocalPortsClaim, Spared},
    failing::{Failing, LastAnswer},
};
use crate::{
    detect::{
        Context,
        claim::Sign,
        confidence::Rule,
        verdict::{Claim, Verdict},
    },
    sense::OutboundFact,
    units::{Count, Span},
};

/// Confidence of a claim: it is certain that nothing answers; whether a user misses it is not.
const CONFIDENCE: f64 = 0.9;

/// Claims that a dependency does not answer.
pub(super) fn no_answer(
    context: &Context<'_>,
    fact: &OutboundFact,
    failing: Failing,
    spared: Option<Spared>,
    last: LastAnswer,
) -> Verdict {
    let t = context.t;
    let kinds = [
        (failing.refused, "refused"),
        (failing.timed_out, "timed out"),
        (failing.abandoned, "abandoned"),
        (u64::from(fact.pending), "without an answer yet"),
    ];
    let kinds: Vec<_> = kinds
        .iter()
        .filter(|kind| kind.0 > 0)
        .map(|(n, kind)| format!("{} {kind}", Count(*n)))
        .collect();
    let why = format!(
        "{} does not answer {}: {} in {}; the last of {} successful connects was {} ago; {}",
        fact.addr,
        workload(fact),
        kinds.join(", "),
        Span(t - failing.since_t.unwrap_or(t)),
        Count(last.answered),
        Span(t - last.t),
        match spared {
            None => "services that depend on it will fail next",
            Some(Spared::OnlyChecks) =>
                "connects are far fewer than before, as if only health checks were left",
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
    verdict(context, claim, why)
}

/// Claims that a workload has no local port left to one destination.
pub(super) fn no_local_port(
    context: &Context<'_>,
    fact: &OutboundFact,
    failed: u64,
    since_t: f64,
) -> Verdict {
    let why = format!(
        "{} cannot connect to {}: {} connects failed in {} before anything was sent, as happens \
         without a free local port; the server is not the cause; close idle connections, reuse \
         them, or widen net.ipv4.ip_local_port_range",
        workload(fact),
        fact.addr,
        Count(failed),
        Span(context.t - since_t),
    );
    let claim = LocalPortsClaim {
        resource: LocalPortsClaim::RESOURCE,
        addr: fact.addr.clone(),
        netns: fact.netns,
        pid: fact.pid,
        comm: fact.comm.clone(),
        cgroup: fact.cgroup.clone(),
        failed,
    };
    verdict(context, claim, why)
}

/// Clears a claim at the first connect that succeeds.
pub(super) fn recovered(t: f64, failing: Failing, raised: Verdict) -> Verdict {
    let failed = Span(t - failing.since_t.unwrap_or(raised.t));
    let why = match &raised.claim {
        Claim::LocalPorts(claim) => {
            format!("connects to {} succeed again, after {failed} of failures", claim.addr)
        }
        Claim::CascadeRisk(claim) => {
            format!("{} answers again, after {failed} of failures", claim.addr)
        }
        claim => format!("{} is over, after {failed}", claim.label()),
    };
    Verdict::cleared(t, raised.claim, raised.confidence, why)
}

/// Names the workload that connects: its cgroup, and the process that connected last.
fn workload(fact: &OutboundFact) -> String {
    let cgroup = if fact.cgroup.is_empty() { "a process" } else { &fact.cgroup };
    let comm = if fact.comm.is_empty() { "pid".to_owned() } else { format!("{}, pid", fact.comm) };
    format!("{cgroup} ({comm} {})", fact.pid)
}

fn verdict(context: &Context<'_>, claim: impl Into<Claim>, mut why: String) -> Verdict {
    let confidence = context.sensor_health.weigh(Rule::Outbound, context.t, CONFIDENCE, &mut why);
    Verdict::raised(context.t, claim, confidence, why)
}
