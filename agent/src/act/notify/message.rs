//! Texts of notifications: subject, consequence if nothing is done, start, actions taken by
//! Spillway, and advice.

use crate::{
    detect::{
        Bottleneck, Bound, CascadeRiskClaim, Claim, ExhaustionClaim, LeakClaim, OverloadClaim,
        Resource, Sign, Verdict,
    },
    units::{Count, Frequency, Size, Span},
};

/// Maximum length of a summary in characters: PagerDuty's.
pub const CHARS_MAX: usize = 1_024;

/// Returns the subject of an incident.
pub fn component(claim: &Claim) -> String {
    match claim {
        Claim::Leak(claim) => name(&claim.comm, "a process").to_owned(),
        Claim::Overload(claim) => claim.addr.to_string(),
        Claim::CascadeRisk(claim) => name(&claim.comm, "a workload").to_owned(),
        Claim::Exhaustion(claim) => name(&claim.comm, "a workload").to_owned(),
    }
}

/// Returns the kind of an incident.
pub fn class(claim: &Claim) -> String {
    match claim {
        Claim::Leak(claim) => format!("leak of {}", resource(claim.resource)),
        Claim::Overload(_) => "overload".to_owned(),
        Claim::CascadeRisk(_) => "cascade risk".to_owned(),
        Claim::Exhaustion(_) => "exhaustion of local ports".to_owned(),
    }
}

/// Describes an open incident. `since` is the time of day at which it was raised, `done` the action
/// taken, `reason` a new reason for its severity.
pub fn open(
    verdict: &Verdict,
    host: &str,
    since: &str,
    done: Option<&str>,
    reason: Option<&str>,
) -> String {
    let incident = match &verdict.claim {
        Claim::Leak(claim) => leak(claim, host, verdict.exhaustion_secs),
        Claim::Overload(claim) => overload(claim, host, verdict.exhaustion_secs),
        Claim::CascadeRisk(claim) => cascade_risk(claim, host),
        Claim::Exhaustion(claim) => exhaustion(claim, host),
    };
    let done = done.unwrap_or("no action taken");
    let reason = reason.map(|why| format!(" Now: {}.", why.trim_end_matches('.')));
    let (reason, advice) = (reason.unwrap_or_default(), advice(verdict));
    format!("{incident}. Since {since}. Spillway: {done}.{reason} To do: {advice}.")
}

/// Describes an incident that is over, `secs` after it was raised.
pub fn resolved(component: &str, class: &str, host: &str, secs: f64, why: &str) -> String {
    format!("Resolved after {}: {class}, {component} on {host}. {why}", Span(secs))
}

/// Describes many incidents in one text. `members` are the open ones, in a few words.
pub fn many(component: &str, host: &str, total: u64, members: &str, since: &str) -> String {
    format!(
        "{component} on {host}: many incidents, {members}. {} since {since}, reported as one. \
         To do: look for a common cause.",
        Count(total)
    )
}

fn leak(claim: &LeakClaim, host: &str, exhaustion_secs: Option<f64>) -> String {
    let subject = name(&claim.comm, "A process");
    let (pid, resource) = (claim.id.pid, resource(claim.resource));
    let rate = match (claim.growth_bytes_per_sec, claim.growth_handles_per_sec) {
        (Some(bytes), _) => format!(", {} a second", Size(bytes)),
        (None, Some(handles)) => format!(", {}", Frequency(handles)),
        (None, None) => String::new(),
    };
    let consequence = match exhaustion_secs {
        Some(secs) => {
            let subject = if claim.bound == Bound::Host { "the whole host" } else { "it" };
            format!("if nothing is done, {subject} runs out in {}", Span(secs))
        }
        None => "it is not known yet when it runs out".to_owned(),
    };
    format!("{subject} (pid {pid}) on {host} leaks {resource}{rate}; {consequence}")
}

fn overload(claim: &OverloadClaim, host: &str, exhaustion_secs: Option<f64>) -> String {
    let owner = if claim.comm.is_empty() { String::new() } else { format!(" ({})", claim.comm) };
    let (backlog, most) = (Count(claim.backlog.into()), Count(claim.backlog_max.into()));
    let scarce = match claim.scarce {
        Some(Bottleneck::Cpu) => ", short of CPU",
        Some(Bottleneck::Memory) => ", short of memory",
        Some(Bottleneck::AcceptLoop) => ", accept loop stuck",
        Some(Bottleneck::Backlog) => ", backlog too small",
        Some(Bottleneck::Workers) => ", short of workers",
        None => "",
    };
    let sign = match claim.sign {
        Some(Sign::LoadSurge) => ", under more load than before",
        Some(Sign::RetryStorm) => ", with clients that keep retrying",
        Some(Sign::DependencyDown) | None => "",
    };
    let consequence = match exhaustion_secs {
        Some(secs) => format!("; if nothing is done, connections are dropped in {}", Span(secs)),
        None => String::new(),
    };
    format!(
        "{}{owner} on {host} is overloaded: {backlog} of {most} connections are waiting\
         {scarce}{sign}{consequence}",
        claim.addr
    )
}

fn cascade_risk(claim: &CascadeRiskClaim, host: &str) -> String {
    let (workload, failed) = (name(&claim.comm, "a workload"), Count(claim.failed));
    format!(
        "{} does not answer {workload} on {host}: {failed} connects failed; if nothing is done, \
         services that depend on it fail next",
        claim.addr
    )
}

fn exhaustion(claim: &ExhaustionClaim, host: &str) -> String {
    let (workload, failed) = (name(&claim.comm, "A workload"), Count(claim.failed));
    format!(
        "{workload} on {host} has no local port left for {}: {failed} connects failed; if nothing \
         is done, further ones fail too",
        claim.addr
    )
}

fn advice(verdict: &Verdict) -> String {
    match &verdict.claim {
        Claim::Leak(claim) => {
            let before = if verdict.exhaustion_secs.is_some() { " before then" } else { "" };
            format!("restart {}{before}, and find the leak", name(&claim.comm, "the process"))
        }
        Claim::Overload(claim) => match claim.scarce {
            Some(Bottleneck::Cpu) => "add CPU, or send less load here",
            Some(Bottleneck::Memory) => "free memory, or send less load here",
            Some(Bottleneck::AcceptLoop) => "find out what blocks the process, or restart it",
            Some(Bottleneck::Backlog) => "raise the backlog of listen(), or send less load here",
            Some(Bottleneck::Workers) => "add workers, or send less load here",
            None => "check the process, or send less load here",
        }
        .to_owned(),
        Claim::CascadeRisk(claim) => format!("check {} and the network to it", claim.addr),
        Claim::Exhaustion(_) => {
            "reuse connections, or widen net.ipv4.ip_local_port_range".to_owned()
        }
    }
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
    use crate::{detect::ClaimState, sense::ProcessId};

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
    fn a_summary_names_subject_consequence_action_and_advice() {
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
        let done = Some("memory limited to 512.0 MiB");
        let verdict_of_leak = verdict(Claim::Leak(leak.clone()), Some(8_280.0));
        assert_eq!(
            open(&verdict_of_leak, "web-3", "14:02 UTC", done, Some("2.3 h are left.")),
            "api (pid 812) on web-3 leaks memory, 1.0 MiB a second; if nothing is done, the \
             whole host runs out in 2.3 h. Since 14:02 UTC. Spillway: memory limited to 512.0 \
             MiB. Now: 2.3 h are left. To do: restart api before then, and find the leak."
        );
        let files = LeakClaim {
            resource: Resource::Files,
            growth_bytes_per_sec: None,
            growth_handles_per_sec: Some(1.0 / 3.0),
            ..leak
        };
        assert_eq!(
            open(&verdict(Claim::Leak(files), None), "web-3", "14:02 UTC", None, None),
            "api (pid 812) on web-3 leaks open files, 20/min; it is not known yet when it runs \
             out. Since 14:02 UTC. Spillway: no action taken. To do: restart api, and find the \
             leak."
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
        let overload = verdict(Claim::Overload(overload), Some(12.0));
        assert_eq!(
            open(&overload, "web-3", "14:02 UTC", Some("node is being drained"), None),
            "0.0.0.0:80 (nginx) on web-3 is overloaded: 120 of 4,096 connections are waiting, \
             short of CPU, with clients that keep retrying; if nothing is done, connections are \
             dropped in 12 s. Since 14:02 UTC. Spillway: node is being drained. To do: add CPU, \
             or send less load here."
        );
    }
}
