//! What a page says, as a colleague would: what, where, since when, how fast, what will happen
//! when, and what was done.

use crate::{
    detect::{
        Bottleneck, CascadeRiskClaim, Claim, ExhaustionClaim, LeakClaim, OverloadClaim, Resource,
        Sign, Verdict,
    },
    units::{Count, Frequency, Size, Span},
};

/// Most characters of a summary: PagerDuty's.
pub const CHARS_MAX: usize = 1_024;

/// Who an incident is about.
pub fn component(claim: &Claim) -> String {
    match claim {
        Claim::Leak(claim) => name(&claim.comm, "a process").to_owned(),
        Claim::Overload(claim) => claim.addr.to_string(),
        Claim::CascadeRisk(claim) => name(&claim.comm, "a workload").to_owned(),
        Claim::Exhaustion(claim) => name(&claim.comm, "a workload").to_owned(),
    }
}

/// What kind of incident it is.
pub fn class(claim: &Claim) -> String {
    match claim {
        Claim::Leak(claim) => format!("leak of {}", resource(claim.resource)),
        Claim::Overload(_) => "overload".to_owned(),
        Claim::CascadeRisk(_) => "cascade risk".to_owned(),
        Claim::Exhaustion(_) => "exhaustion of local ports".to_owned(),
    }
}

/// An incident that stands. `since` is when it was raised, as a clock shows it; `done` what was
/// done.
pub fn standing(verdict: &Verdict, host: &str, since: &str, done: Option<&str>) -> String {
    let what = match &verdict.claim {
        Claim::Leak(claim) => leak(claim, host, verdict.exhaustion_secs),
        Claim::Overload(claim) => overload(claim, host, verdict.exhaustion_secs),
        Claim::CascadeRisk(claim) => cascade_risk(claim, host),
        Claim::Exhaustion(claim) => exhaustion(claim, host),
    };
    let done = done.unwrap_or("nothing was done about it");
    format!("{what}. Seen since {since}; {done}.")
}

/// An incident that is over, `secs` after it was raised.
pub fn over(component: &str, class: &str, host: &str, secs: f64, why: &str) -> String {
    format!("Over after {}: {class}, {component} on {host}. {why}", Span(secs))
}

/// Many incidents that are told as one. `members` are those that stand, in a few words.
pub fn many(component: &str, host: &str, total: u64, members: &str, since: &str) -> String {
    format!(
        "{component} on {host} has many incidents: {members}. {} since {since}, told as one.",
        Count(total)
    )
}

fn leak(claim: &LeakClaim, host: &str, exhaustion_secs: Option<f64>) -> String {
    let pid = claim.id.pid;
    let who = format!(
        "{} (pid {pid}) on {host} leaks {}",
        name(&claim.comm, "A process"),
        resource(claim.resource)
    );
    let pace = match (claim.growth_bytes_per_sec, claim.growth_handles_per_sec) {
        (Some(bytes), _) => format!(", {} a second", Size(bytes)),
        (None, Some(handles)) => format!(", {}", Frequency(handles)),
        (None, None) => String::new(),
    };
    let end = match exhaustion_secs {
        Some(secs) => format!(", and runs out in {}", Span(secs)),
        None => ", with no end in sight".to_owned(),
    };
    who + &pace + &end
}

fn overload(claim: &OverloadClaim, host: &str, exhaustion_secs: Option<f64>) -> String {
    let owner = if claim.comm.is_empty() { String::new() } else { format!(" ({})", claim.comm) };
    let (backlog, most) = (Count(claim.backlog.into()), Count(claim.backlog_max.into()));
    let scarce = match claim.scarce {
        Some(Bottleneck::Cpu) => ", short of CPU",
        Some(Bottleneck::Memory) => ", short of memory",
        Some(Bottleneck::AcceptLoop) => ", its accept loop stuck",
        Some(Bottleneck::Backlog) => ", its backlog too small",
        Some(Bottleneck::Workers) => ", short of workers",
        None => "",
    };
    let sign = match claim.sign {
        Some(Sign::LoadSurge) => ", under more load than before",
        Some(Sign::RetryStorm) => ", with clients that try again and again",
        Some(Sign::DependencyDown) | None => "",
    };
    let end = match exhaustion_secs {
        Some(secs) => format!("; connections are dropped in {}", Span(secs)),
        None => String::new(),
    };
    format!(
        "{}{owner} on {host} is overloaded: {backlog} of {most} connections wait{scarce}{sign}{end}",
        claim.addr
    )
}

fn cascade_risk(claim: &CascadeRiskClaim, host: &str) -> String {
    let failed = Count(claim.failed);
    format!(
        "{} does not answer {} on {host}: {failed} connects failed",
        claim.addr,
        name(&claim.comm, "a workload")
    )
}

fn exhaustion(claim: &ExhaustionClaim, host: &str) -> String {
    let (who, failed) = (name(&claim.comm, "A workload"), Count(claim.failed));
    format!("{who} on {host} has no local port left to {}: {failed} connects failed", claim.addr)
}

fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "memory",
        Resource::Files => "open files",
        Resource::Threads => "threads",
        Resource::CloseWait => "sockets in CLOSE_WAIT",
    }
}

fn name<'a>(comm: &'a str, unknown: &'a str) -> &'a str {
    if comm.is_empty() { unknown } else { comm }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        detect::{Bound, ClaimState},
        sense::ProcessId,
    };

    fn verdict(claim: Claim, exhaustion_secs: Option<f64>) -> Verdict {
        let (state, why) = (ClaimState::Raised, String::new());
        Verdict {
            t: 0.0,
            claim,
            exhaustion_secs,
            exhaustion_interval_secs: None,
            confidence: 1.0,
            state,
            harm: None,
            why,
        }
    }

    #[test]
    fn a_summary_reads_like_a_colleague_wrote_it() {
        let leak = LeakClaim {
            resource: Resource::Memory,
            id: ProcessId { pid: 812, start_ticks: 4711 },
            comm: Arc::from("api"),
            cgroup: Arc::from("/system.slice/api.service"),
            growth_bytes_per_sec: Some(1_048_576.0),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
            bound: Bound::Host,
        };
        let done = Some("held at 512.0 MiB");
        assert_eq!(
            standing(
                &verdict(Claim::Leak(leak.clone()), Some(8_280.0)),
                "web-3",
                "14:02 UTC",
                done
            ),
            "api (pid 812) on web-3 leaks memory, 1.0 MiB a second, and runs out in 2.3 h. Seen since 14:02 UTC; held at 512.0 MiB."
        );
        let files = LeakClaim {
            resource: Resource::Files,
            growth_bytes_per_sec: None,
            growth_handles_per_sec: Some(1.0 / 3.0),
            ..leak
        };
        assert_eq!(
            standing(&verdict(Claim::Leak(files), None), "web-3", "14:02 UTC", None),
            "api (pid 812) on web-3 leaks open files, 20/min, with no end in sight. Seen since 14:02 UTC; nothing was done about it."
        );
        let overload = OverloadClaim {
            addr: Arc::from("0.0.0.0:80"),
            comm: Arc::from("nginx"),
            scarce: Some(Bottleneck::Cpu),
            sign: Some(Sign::RetryStorm),
            backlog: 120,
            backlog_max: 4_096,
            ..OverloadClaim::default()
        };
        assert_eq!(
            standing(
                &verdict(Claim::Overload(overload), Some(12.0)),
                "web-3",
                "14:02 UTC",
                Some("this node is drained")
            ),
            "0.0.0.0:80 (nginx) on web-3 is overloaded: 120 of 4,096 connections wait, short of CPU, with clients that try again and \
             again; connections are dropped in 12 s. Seen since 14:02 UTC; this node is drained."
        );
    }
}
