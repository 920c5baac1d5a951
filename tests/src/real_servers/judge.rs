//! Judges the claims about a scene by what its clients saw.

use std::{collections::BTreeSet, time::Instant};

use super::{
    play::Played,
    scene::{Expected, Family, Scene},
    watching::Claim,
};

/// Maximum time from the condition of an overload to its claim.
pub const WITHIN_SECS: f64 = 3.0;

/// Maximum time from the end of the waits until the claim is cleared.
pub const CLEARED_WITHIN_SECS: f64 = 15.0;

/// Resources that a server which only waits may be short of.
const OF_A_SERVER: [&str; 2] = ["workers", "accept_loop"];
/// Resources that a server which waits for another may be short of.
const OF_A_DEPENDENT: [&str; 2] = ["dependency", "workers"];

/// Judgement of a scene.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Verdict on the verdict; `None` if the clients contradict the scene, for example because the
    /// machine was too busy for a healthy server.
    pub is_right: Option<bool>,
    /// Answer of the agent.
    pub seen: String,
    /// Time from the condition to the claim; negative if it came before.
    pub claimed_secs: Option<f64>,
    /// Time from the first noticeable wait to the claim.
    pub noticed_secs: Option<f64>,
    /// Time from the end of the waits until the claim was cleared.
    pub cleared_secs: Option<f64>,
    /// Highest severity.
    pub severity: String,
    /// Reason if it is not right.
    pub fault: Option<String>,
}

/// Judges the claims about a scene.
pub fn judge(family: &Family, scene: &Scene, played: &Played, claims: &[Claim]) -> Judged {
    let secs = |at: Instant| match at.checked_duration_since(played.origin) {
        Some(after) => after.as_secs_f64(),
        None => -played.origin.duration_since(at).as_secs_f64(),
    };
    let severity = highest(claims);
    let mut judged = Judged {
        is_right: Some(true),
        seen: "nothing".to_owned(),
        claimed_secs: None,
        noticed_secs: None,
        cleared_secs: None,
        severity: severity.to_owned(),
        fault: None,
    };
    if 10 * played.before.answered < 9 * played.before.sent {
        judged.is_right = None;
        let error = played.error.as_deref().unwrap_or("no error");
        judged.fault = Some(format!("requests failed while it should have been well: {error}"));
        return judged;
    }
    let is_loud = rank(severity) > rank("info");
    if let Some(first) = claims.first() {
        judged.seen = match &first.scarce {
            Some(scarce) => format!("{} ({scarce})", first.verdict),
            None => first.verdict.clone(),
        };
    }
    let fault = if scene.expected == Expected::Healthy {
        if !played.overloads.is_empty() {
            judged.is_right = None;
            Some(format!("clients waited for long: {:?}", played.overloads))
        } else if is_loud {
            Some(format!("claimed at {severity}"))
        } else {
            None
        }
    } else {
        overloaded((family, scene), played, claims, &secs, &mut judged)
    };
    if judged.is_right.is_some() {
        judged.is_right = Some(fault.is_none());
    }
    judged.fault = fault;
    judged
}

fn overloaded(
    (family, scene): (&Family, &Scene),
    played: &Played,
    claims: &[Claim],
    secs: &dyn Fn(Instant) -> f64,
    judged: &mut Judged,
) -> Option<String> {
    let Some(overload) = played.overloads.first() else {
        judged.is_right = None;
        return Some("no client waited for long".to_owned());
    };
    let loud_before = claims
        .iter()
        .find(|claim| secs(claim.at) < played.matters.0 && rank(&claim.severity) > rank("info"));
    if let Some(early) = loud_before {
        return Some(format!("claimed at {} while it was well", early.severity));
    }
    let ends = overload.end_secs;
    let raised = |claim: &&Claim| claim.state == "raised" && secs(claim.at) >= played.matters.0;
    let Some(claim) = claims.iter().find(raised) else {
        return Some(format!("not claimed; it held from second {:.1}", overload.condition_secs));
    };
    let at = secs(claim.at);
    judged.seen = match &claim.scarce {
        Some(scarce) => format!("{} ({scarce})", claim.verdict),
        None => claim.verdict.clone(),
    };
    judged.claimed_secs = Some(at - overload.condition_secs);
    judged.noticed_secs = Some(at - overload.onset_secs);
    if at > overload.condition_secs + WITHIN_SECS {
        return Some("claimed late".to_owned());
    }
    // The server behind a proxy is overloaded itself.
    let is_front = !scene.is_proxy || played.watched.first() == Some(&claim.addr);
    let right = match scene.expected {
        Expected::Dependency if is_front => &OF_A_DEPENDENT[..],
        _ => &OF_A_SERVER[..],
    };
    let last_scarce = claims
        .iter()
        .filter(|other| secs(other.at) <= ends && other.addr == claim.addr)
        .filter_map(|claim| claim.scarce.as_deref())
        .next_back();
    // Nothing said is nothing wrong, but a dependency has to be suspected.
    let is_right = match last_scarce {
        Some("cpu") => family.forks,
        Some(scarce) => right.contains(&scarce),
        None => claim.verdict != "overload" || scene.expected != Expected::Dependency || !is_front,
    };
    if !is_right {
        let short = last_scarce.unwrap_or("nothing known");
        return Some(format!("said to be short of {short}"));
    }
    // As long as one claim about the service is open, it is known.
    let mut open = BTreeSet::new();
    let mut cleared = Vec::new();
    for claim in claims.iter().filter(|claim| claim.verdict == "overload") {
        if claim.state != "cleared" {
            open.insert(&claim.addr);
        } else if open.remove(&claim.addr) && open.is_empty() && secs(claim.at) > at {
            cleared.push(claim);
        }
    }
    // Nobody notices the last moments.
    if let Some(early) = cleared.iter().find(|claim| secs(claim.at) < ends - 1.0) {
        let before = ends - secs(early.at);
        return Some(format!("cleared {before:.1} s before the waits ended: {}", early.why));
    }
    let Some(last) = cleared.last().filter(|_| open.is_empty()) else {
        return Some(format!("not cleared within {:.0} s of its end", played.end_secs - ends));
    };
    let after = secs(last.at) - ends;
    judged.cleared_secs = Some(after);
    (after > CLEARED_WITHIN_SECS).then(|| "cleared late".to_owned())
}

fn highest(claims: &[Claim]) -> &str {
    let open = claims.iter().filter(|claim| claim.state != "cleared");
    open.map(|claim| claim.severity.as_str()).max_by_key(|name| rank(name)).unwrap_or("–")
}

fn rank(severity: &str) -> usize {
    ["info", "warning", "critical"].iter().position(|name| *name == severity).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::scene::{Fault, Load},
        *,
    };
    use crate::{
        now,
        queues::{plan::Scarce, requests::truth::Overload},
        real_servers::{Connections, Counts, Wire},
    };

    const ADDR: &str = "127.0.0.1:80";

    const FAMILY: Family = Family {
        name: "server",
        needs: &[],
        service_secs: 0.1,
        workers: 1,
        forks: false,
        wire: || Wire::Http,
        start: |_| anyhow::bail!("it does not run"),
        scenes: Vec::new,
    };

    fn scene(expected: Expected) -> Scene {
        Scene {
            name: "scene",
            load: Load::Open(2.0, Connections::New),
            fault: Fault::None,
            patience_secs: None,
            expected,
            is_proxy: false,
        }
    }

    /// Overload that begins at second 8, holds from second 10 and ends at second 20.
    fn played(is_overload: bool) -> Played {
        let overload = Overload {
            onset_secs: 8.0,
            condition_secs: 10.0,
            end_secs: 20.0,
            scarce: Scarce::Workers,
        };
        Played {
            netns: 1,
            watched: vec![ADDR.to_owned()],
            dependency: None,
            origin: now(),
            matters: (8.0, 17.0),
            end_secs: 40.0,
            overloads: if is_overload { vec![overload] } else { Vec::new() },
            tolerated: Vec::new(),
            before: Counts { sent: 100, answered: 100, ..Counts::default() },
            counts: Counts::default(),
            error: None,
        }
    }

    fn claims(played: &Played, claims: &[(f64, &str, &str, &str)]) -> Vec<Claim> {
        let claim = |(at, state, severity, scarce): &(f64, &str, &str, &str)| Claim {
            at: played.origin + Duration::from_secs_f64(*at),
            state: (*state).to_owned(),
            addr: ADDR.to_owned(),
            verdict: "overload".to_owned(),
            severity: (*severity).to_owned(),
            scarce: (!scarce.is_empty()).then(|| (*scarce).to_owned()),
            why: String::new(),
        };
        claims.iter().map(claim).collect()
    }

    fn fault(expected: Expected, lines: &[(f64, &str, &str, &str)]) -> Option<String> {
        let played = played(expected != Expected::Healthy);
        let judged = judge(&FAMILY, &scene(expected), &played, &claims(&played, lines));
        assert_eq!(judged.is_right, Some(judged.fault.is_none()));
        judged.fault
    }

    #[test]
    fn claims_are_right_in_time_and_cleared() {
        let raised = |at, scarce| (at, "raised", "info", scarce);
        let cleared = |at| (at, "cleared", "info", "workers");
        let overload = |lines: &[_]| fault(Expected::Overload, lines);
        assert_eq!(overload(&[raised(12.9, "workers"), cleared(25.0)]), None);
        assert_eq!(overload(&[raised(12.9, ""), cleared(25.0)]), None);
        for (lines, reason) in [
            (&[][..], "not claimed"),
            (&[raised(13.1, "workers"), cleared(25.0)], "late"),
            (&[raised(12.0, "cpu"), cleared(25.0)], "short of cpu"),
            (&[raised(12.0, "workers")], "not cleared"),
            (&[raised(12.0, "workers"), cleared(36.0)], "cleared late"),
            (&[raised(12.0, "workers"), cleared(15.0)], "before the waits ended"),
            (&[(5.0, "raised", "warning", ""), cleared(25.0)], "while it was well"),
        ] {
            let fault = overload(lines).unwrap_or_default();
            assert!(fault.contains(reason), "{fault}, not {reason}");
        }
    }

    #[test]
    fn dependency_has_to_be_suspected() {
        let said = |scarce| {
            let lines = [(11.0, "raised", "info", scarce), (25.0, "cleared", "info", scarce)];
            fault(Expected::Dependency, &lines)
        };
        assert_eq!(said("dependency"), None);
        assert_eq!(said("workers"), None);
        assert!(said("accept_loop").is_some());
        assert!(said("").is_some());
    }

    #[test]
    fn healthy_server_may_only_be_mentioned() {
        let healthy = |severity| fault(Expected::Healthy, &[(11.0, "raised", severity, "")]);
        assert_eq!(fault(Expected::Healthy, &[]), None);
        assert_eq!(healthy("info"), None);
        assert!(healthy("warning").is_some());
    }

    #[test]
    fn scene_that_clients_contradict_is_void() {
        for (expected, is_overload) in [(Expected::Healthy, true), (Expected::Overload, false)] {
            let played = played(is_overload);
            assert_eq!(judge(&FAMILY, &scene(expected), &played, &[]).is_right, None);
        }
        let mut refused = played(false);
        refused.before.answered = 80;
        assert_eq!(judge(&FAMILY, &scene(Expected::Healthy), &refused, &[]).is_right, None);
    }
}
