//! Judges the claims about a scene by what its clients saw.

use std::time::Instant;

use super::{
    play::Played,
    scene::{Expected, Scene},
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
pub fn judge(scene: &Scene, played: &Played, claims: &[Claim]) -> Judged {
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
        overloaded(scene, played, claims, &secs, &mut judged)
    };
    if judged.is_right.is_some() {
        judged.is_right = Some(fault.is_none());
    }
    judged.fault = fault;
    judged
}

fn overloaded(
    scene: &Scene,
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
    // The server behind another one is overloaded itself.
    let is_front = played.watched.first() == Some(&claim.addr);
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
        Some(scarce) => right.contains(&scarce),
        None => claim.verdict != "overload" || scene.expected != Expected::Dependency || !is_front,
    };
    if !is_right {
        let short = last_scarce.unwrap_or("nothing known");
        return Some(format!("said to be short of {short}"));
    }
    let mut cleared = claims.iter().filter(|other| {
        other.state == "cleared" && secs(other.at) > at && other.addr == claim.addr
    });
    // Nobody notices the last moments.
    if let Some(early) = cleared.clone().find(|claim| secs(claim.at) < ends - 1.0) {
        let before = ends - secs(early.at);
        return Some(format!("cleared {before:.1} s before the waits ended: {}", early.why));
    }
    let Some(last) = cleared.next_back() else {
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
