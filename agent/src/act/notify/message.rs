//! What a page says, as a colleague would: what, where, since when, how fast, what will happen
//! when, and what was done.

use crate::{
    detect::{Claim, Verdict},
    units::{Count, Span},
};

/// Most characters of a summary: PagerDuty's.
pub const CHARS_MAX: usize = 1_024;

/// Who an incident is about.
pub fn component(claim: &Claim) -> String {
    claim.component()
}

/// What kind of incident it is.
pub fn class(claim: &Claim) -> String {
    claim.class()
}

/// An incident that stands. `since` is when it was raised, as a clock shows it; `done` what was
/// done.
pub fn standing(verdict: &Verdict, host: &str, since: &str, done: Option<&str>) -> String {
    let what = verdict.claim.headline(host, verdict.exhaustion_secs);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        detect::{Bottleneck, Bound, ClaimState, LeakClaim, OverloadClaim, Resource, Sign},
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
            "api (pid 812) on web-3 leaks memory, 1.0 MiB a second; if nothing is done, the whole host runs out in 2.3 h. Seen since 14:02 UTC; held at 512.0 MiB."
        );
        let files = LeakClaim {
            resource: Resource::Files,
            growth_bytes_per_sec: None,
            growth_handles_per_sec: Some(1.0 / 3.0),
            ..leak
        };
        assert_eq!(
            standing(&verdict(Claim::Leak(files), None), "web-3", "14:02 UTC", None),
            "api (pid 812) on web-3 leaks open files, 20/min; it is not known yet when it runs out. Seen since 14:02 UTC; nothing was done about it."
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
            "0.0.0.0:80 (nginx) on web-3 is overloaded: 120 of 4,096 connections are waiting, short of CPU, with clients \
             that keep retrying; if nothing is done, connections are dropped in 12 s. Seen since 14:02 UTC; this node is drained."
        );
    }
}
