//! Targets: what Spillway has to reach in each scenario, compared with nobody doing anything.

use super::report::Outcome;

/// Share that is served in `ebs-2012` with Spillway at least, and without at most: a collapse.
const SERVED_MIN: f64 = 0.9995;
const COLLAPSED_MAX: f64 = 0.9;

/// Difference between two shares served that is none.
const SERVED_ERROR: f64 = 1e-6;

/// Factor by which fewer hosts die in `ebs-2012`.
const FEWER_DEATHS: u64 = 41;

/// Targets that the outcomes of one scenario miss, in words; none if either policy is missing.
pub fn missed_targets(outcomes: &[Outcome]) -> Vec<String> {
    let of = |policy: &str| outcomes.iter().find(|outcome| outcome.policy == policy);
    let (Some(none), Some(with)) = (of("none"), of("spillway")) else { return Vec::new() };
    let served = |outcome: &Outcome| format!("{:.3} % served", outcome.served_share * 100.0);
    let mut missed = Vec::new();
    let mut want = |is_met: bool, what: String| {
        if !is_met {
            missed.push(format!("{}: {what}", with.scenario));
        }
    };
    let drained = with.overloaded_by_drain;
    want(drained == 0, format!("{drained} hosts were overloaded by a drain"));
    let lost_more = with.served_share < none.served_share - SERVED_ERROR;
    want(!lost_more, format!("{} with, {} without", served(with), served(none)));
    match with.scenario {
        "ebs-2012" | "deploy-leak" => {
            want(none.served_share < COLLAPSED_MAX, format!("{} without", served(none)));
            want(with.served_share >= SERVED_MIN, format!("{} with", served(with)));
            let (died, dies) = (none.oom_deaths, with.oom_deaths);
            want(dies * FEWER_DEATHS <= died, format!("{dies} deaths with, {died} without"));
        }
        "retry-storm" => {
            let lost = 1.0 - with.served_share;
            let is_helped = lost * 2.0 <= 1.0 - none.served_share;
            want(is_helped, format!("{} with, {} without", served(with), served(none)));
        }
        "zone-loss" => {
            let (died, dies) = (none.oom_deaths, with.oom_deaths);
            want(dies <= died, format!("{dies} deaths with, {died} without"));
        }
        _ => want(with.drains == 0, format!("{} drains", with.drains)),
    }
    missed
}
