//! Fleet in simulated time: small groups of each scenario, and random schedules of faults. `cargo
//! xtask simulate` plays the same with more hosts, and measures.

use std::sync::atomic::AtomicBool;

use spillway_tests::simulation::{
    Outcome, Policy, Run, Scenario, all, missed_targets,
    schedules::{self, Figures},
    simulate,
};

/// Schedules of every run of the tests; `cargo xtask test --thorough` plays 10,000.
const SCHEDULES: u64 = 60;

fn play(scenario: &Scenario, nodes: usize, policy: Policy) -> Outcome {
    let run = Run { nodes, seed: 5, policy };
    simulate(scenario, run, &AtomicBool::new(false), |_| {}).expect("nobody stops it")
}

fn scenario(name: &str, hours: f64) -> Scenario {
    let scenario = Scenario::named(name).expect("the scenario exists");
    Scenario { secs: scenario.secs.min(hours * 3_600.0), ..scenario }
}

#[test]
fn schedules_of_faults_keep_all_rules_of_the_fleet() {
    let played = (1..=SCHEDULES)
        .map(|seed| schedules::play(seed).unwrap_or_else(|why| panic!("schedule {seed}: {why}")));
    let figures = played.fold(Figures::default(), Figures::plus);
    println!("{figures:?}");
    let Figures { granted, refused, orphaned, by_operators } = figures;
    assert!(granted > 50 && refused > 50 && orphaned > 5 && by_operators > 20, "{figures:?}");
}

#[test]
fn fleet_with_one_leak_collapses_unless_it_takes_turns() {
    let scenario = scenario("ebs-2012", 6.0);
    let outcomes = [Policy::None, Policy::Spillway].map(|policy| play(&scenario, 30, policy));
    // With so few hosts deaths cannot be 41 times fewer unless there are none.
    assert_eq!(missed_targets(&outcomes), [""; 0], "{outcomes:?}");
    assert!(outcomes[0].oom_deaths >= 30 && outcomes[1].drains >= 30, "{outcomes:?}");
}

#[test]
fn drains_without_a_budget_by_load_overload_the_rest() {
    let outcome = play(&scenario("ebs-2012", 6.0), 30, Policy::Uncoordinated);
    assert!(outcome.overloaded_by_drain > 0 && outcome.served_share < 0.9, "{outcome:?}");
}

#[test]
fn shed_load_ends_a_storm_of_retries() {
    let scenario = scenario("retry-storm", 1.5);
    let outcomes = [Policy::None, Policy::Spillway].map(|policy| play(&scenario, 12, policy));
    assert_eq!(missed_targets(&outcomes), [""; 0], "{outcomes:?}");
}

#[test]
fn healthy_fleets_are_never_drained() {
    for (name, hours) in [("flash-crowd", 4.0), ("healthy-month", 80.0)] {
        let outcome = play(&scenario(name, hours), 4, Policy::Spillway);
        assert_eq!((outcome.drains, outcome.oom_deaths), (0, 0), "{outcome:?}");
        assert!(outcome.served_share > 0.9999, "{outcome:?}");
    }
}

#[test]
fn one_seed_gives_one_outcome() {
    let scenario = scenario("deploy-leak", 3.0);
    let [one, other] = [(); 2].map(|()| play(&scenario, 6, Policy::Spillway));
    let json = |outcome: &Outcome| serde_json::to_string(outcome).expect("it is plain");
    assert_eq!(json(&one), json(&other));
    let keys = "scenario nodes policy served_share oom_deaths drains refused max_out_share \
                overloaded_by_drain";
    let parsed: serde_json::Value = serde_json::from_str(&json(&one)).expect("it is JSON");
    for key in keys.split(' ') {
        assert!(parsed.get(key).is_some(), "{key} in {parsed}");
    }
    assert_eq!(all().len(), 6);
}
