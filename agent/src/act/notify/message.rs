//! Texts of notifications: subject, consequence if nothing is done, start, actions taken by
//! Spillway, and advice.

use crate::{
    detect::{Claim, Verdict},
    units::{Count, Span},
};

/// Maximum length of a summary in characters: PagerDuty's.
pub const CHARS_MAX: usize = 1_024;

/// Returns the subject of an incident.
pub fn component(claim: &Claim) -> String {
    claim.component()
}

/// Returns the kind of an incident.
pub fn class(claim: &Claim) -> String {
    claim.class()
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
    let incident = verdict.claim.headline(host, verdict.exhaustion_secs);
    let done = done.unwrap_or("no action taken");
    let reason = reason.map(|why| format!(" Now: {}.", why.trim_end_matches('.')));
    let (reason, advice) =
        (reason.unwrap_or_default(), verdict.claim.advice(verdict.exhaustion_secs));
    let workload = verdict.identity.as_ref().map(|identity| identity.sentence());
    let workload = workload.map(|text| format!(" Workload: {text}.")).unwrap_or_default();
    format!("{incident}. Since {since}. Spillway: {done}.{reason} To do: {advice}.{workload}")
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        detect::{
            Bottleneck, Bound, CgroupMemory, ClaimState, LeakClaim, OverloadClaim, Resource, Sign,
        },
        sense::{ProcessId, identity::Identity},
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
            identity: None,
            why,
        }
    }

    #[test]
    fn a_summary_names_subject_consequence_action_and_advice() {
        let leak = LeakClaim {
            cgroup_memory: None,
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
             MiB. Now: 2.3 h are left. To do: restart api in api.service before then, and find the \
             leak."
        );
        let identity = Some(Arc::new(Identity {
            unit: Some("api.service".to_owned()),
            user: Some("www-data".to_owned()),
            ..Identity::default()
        }));
        let known = Verdict { identity, ..verdict_of_leak };
        assert!(
            open(&known, "web-3", "14:02 UTC", None, None)
                .ends_with("find the leak. Workload: api.service, run by www-data.")
        );
        let cgroup = |memory| {
            let claim = LeakClaim { cgroup_memory: Some(memory), ..leak.clone() };
            open(&verdict(Claim::Leak(claim), Some(8_280.0)), "web-3", "14:02 UTC", None, None)
        };
        assert_eq!(
            cgroup(CgroupMemory::Shared),
            "api.service on web-3 leaks shared memory, 1.0 MiB a second, in none of its \
             processes; if nothing is done, the whole host runs out in 2.3 h. Since 14:02 UTC. \
             Spillway: no action taken. To do: delete the files that api.service no longer needs \
             from /dev/shm and other tmpfs before then, or restart it if there are none, and find \
             out what leaves them."
        );
        assert!(
            cgroup(CgroupMemory::Kernel)
                .ends_with("To do: restart api.service before then, and find the leak.")
        );
        let files = LeakClaim {
            cgroup_memory: None,
            resource: Resource::Files,
            growth_bytes_per_sec: None,
            growth_handles_per_sec: Some(1.0 / 3.0),
            ..leak
        };
        assert_eq!(
            open(&verdict(Claim::Leak(files), None), "web-3", "14:02 UTC", None, None),
            "api (pid 812) on web-3 leaks open files, 20/min; it is not known yet when it runs \
             out. Since 14:02 UTC. Spillway: no action taken. To do: restart api in api.service, \
             and find the leak."
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
