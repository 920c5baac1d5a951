//! Severity: the harm that a claim does, to whom, and for how long. Pure.
//!
//! A verdict says if something is so; this says how bad it is. Only a service can be critical,
//! unless the whole host is about to run out. A queue is judged by how many wait, for how long,
//! what share of the traffic that is, and how long it has lasted: a claim begins as info and rises
//! while it stands, so that a pause of a few seconds wakes nobody.

use super::services::ServiceStanding;
use crate::{
    config::DecideConfig,
    detect::{
        Bottleneck, Bound, CascadeRiskClaim, Claim, Harm, LeakClaim, OverloadClaim, Severity,
        Spared, Verdict,
    },
    units::Span,
};

/// Time for which an overload must have lasted since its claim. Guesses: pauses of garbage
/// collectors and event loops, and bursts, end within the first; a human needs minutes to act, so
/// that the second costs little.
const WARNING_AFTER_SECS: f64 = 3.0;
const CRITICAL_AFTER_SECS: f64 = 10.0;

/// The same if nothing is accepted at all, or the queue is full: it does not get worse than that.
const STUCK_CRITICAL_AFTER_SECS: f64 = 5.0;

/// Fewer connections than this that wait are a few slow requests.
const WAITING_MIN: u32 = 4;

/// A wait that a user notices, and one that a user gives up on. Guesses: page loads take a second
/// or two; clients often give up after one to five.
const NOTICED_SECS: f64 = 0.25;
const GIVEN_UP_SECS: f64 = 1.0;

/// Share of the traffic that must wait for that to be critical.
const CRITICAL_SHARE: f64 = 0.1;

/// An overflow that is further off than this is not imminent.
const OVERFLOW_SOON_SECS: f64 = 60.0;

/// Weighs a claim about a workload of this standing, `lasted_secs` after it was made.
pub fn weigh(
    verdict: &Verdict,
    standing: &ServiceStanding,
    lasted_secs: f64,
    config: &DecideConfig,
) -> Harm {
    let (severity, reason) = match &verdict.claim {
        Claim::Leak(claim) => leak(claim, verdict.exhaustion_secs, standing, config),
        Claim::Overload(claim) => overload(claim, verdict.exhaustion_secs, standing, lasted_secs),
        Claim::CascadeRisk(claim) => dependency(claim, standing),
        Claim::Exhaustion(_) => cut_off(standing),
    };
    let is_hosts = matches!(&verdict.claim, Claim::Leak(claim) if claim.bound == Bound::Host);
    Harm { severity, reason, is_nodes: is_hosts || standing.is_service() }
}

/// Reason why a workload may page, or may not.
fn of(standing: &ServiceStanding) -> String {
    match standing {
        ServiceStanding::Named(pattern) => format!("a service by decide.services ({pattern})"),
        ServiceStanding::Proven(minutes) => format!("a service that others have used in {minutes} different minutes"),
        ServiceStanding::Unproven(_) => {
            "not known as a service: nobody else has used it for minutes, and decide.services does not name it"
                .to_owned()
        }
    }
}

/// A workload that is not known as a service but that an administrator set up is worth a look in
/// working hours; anybody's own is not.
fn unproven(standing: &ServiceStanding) -> Severity {
    match standing {
        ServiceStanding::Unproven(tenant) if tenant.is_set_up_by_root() => Severity::Warning,
        _ => Severity::Info,
    }
}

fn leak(
    claim: &LeakClaim,
    left_secs: Option<f64>,
    standing: &ServiceStanding,
    config: &DecideConfig,
) -> (Severity, String) {
    let is_near = left_secs.is_some_and(|secs| secs <= config.drain_within.as_secs_f64());
    let left = left_secs
        .map_or_else(|| "no end is forecast".to_owned(), |secs| format!("{} are left", Span(secs)));
    match (claim.bound, standing.is_service()) {
        (Bound::Host, _) => {
            let severity = if is_near { Severity::Critical } else { Severity::Warning };
            (severity, format!("the whole host runs out; {left}"))
        }
        (Bound::Own, true) => {
            let severity = if is_near { Severity::Critical } else { Severity::Warning };
            (severity, format!("{}; {left}", of(standing)))
        }
        (Bound::Own, false) => {
            (unproven(standing), format!("only it is hurt, and it is {}", of(standing)))
        }
    }
}

fn overload(
    claim: &OverloadClaim,
    left_secs: Option<f64>,
    standing: &ServiceStanding,
    lasted_secs: f64,
) -> (Severity, String) {
    if !standing.is_service() {
        return (Severity::Info, of(standing));
    }
    if claim.scarce == Some(Bottleneck::Backlog) {
        return (
            Severity::Warning,
            format!("connections are dropped now and then; {}", of(standing)),
        );
    }
    let wait_secs = claim.oldest_wait_us.map_or(0.0, |us| us as f64 / 1e6);
    let is_full = claim.backlog > claim.backlog_max;
    let is_stuck = claim.scarce == Some(Bottleneck::AcceptLoop);
    let share = share(claim, wait_secs);
    let is_soon = left_secs.is_some_and(|secs| secs <= OVERFLOW_SOON_SECS);
    // An age that is not seen is taken for as long as the claim has stood.
    let wait_secs = if claim.oldest_wait_us.is_some() { wait_secs } else { lasted_secs };
    let waits = format!("{} wait, for {} at most", claim.backlog, Span(wait_secs));
    let lasts = Span(lasted_secs);
    if claim.backlog < WAITING_MIN && !is_full {
        return (Severity::Info, format!("only {waits}"));
    }
    if lasted_secs < WARNING_AFTER_SECS {
        return (Severity::Info, format!("it has lasted for only {lasts}; {waits}"));
    }
    if wait_secs < NOTICED_SECS && !is_full && !is_soon {
        return (Severity::Info, format!("{waits}, which nobody notices"));
    }
    let after_secs =
        if is_stuck || is_full { STUCK_CRITICAL_AFTER_SECS } else { CRITICAL_AFTER_SECS };
    let is_harmful = is_full || wait_secs >= GIVEN_UP_SECS;
    let of_traffic =
        share.map(|share| format!(", {:.0} % of what comes", share * 100.0)).unwrap_or_default();
    let reason = format!("{waits}{of_traffic}, for {lasts} so far; {}", of(standing));
    if is_harmful && lasted_secs >= after_secs && share.is_none_or(|share| share >= CRITICAL_SHARE)
    {
        return (Severity::Critical, reason);
    }
    (Severity::Warning, reason)
}

/// Share of the connections that came meanwhile which still wait; `None` if those that come are not
/// counted.
fn share(claim: &OverloadClaim, wait_secs: f64) -> Option<f64> {
    let came = claim.arrivals_per_sec? * wait_secs;
    (came > 0.0).then(|| (f64::from(claim.backlog) / came).min(1.0))
}

fn dependency(claim: &CascadeRiskClaim, standing: &ServiceStanding) -> (Severity, String) {
    match claim.spared {
        Some(Spared::OnlyChecks) => (
            Severity::Info,
            "only health checks seem to be left, so that no user misses it".to_owned(),
        ),
        Some(Spared::OthersAnswer) => {
            (Severity::Info, "other addresses with this port still answer".to_owned())
        }
        None => cut_off(standing),
    }
}

/// Something that cannot reach what it needs.
fn cut_off(standing: &ServiceStanding) -> (Severity, String) {
    let severity = if standing.is_service() { Severity::Warning } else { unproven(standing) };
    (severity, of(standing))
}
