//! Sweep: one parameter of a scenario after another, over several seeds, without and with turns, and
//! with load shed beside them.

use super::{
    policies::Policy,
    report::Outcome,
    scenarios::{Leak, Scenario, Surge},
    world::{Run, Stop, simulate},
};

/// Seeds of each setting.
const SEEDS: u64 = 3;

/// Share of the losses that must be spared to count as help.
const HELP_SHARE: f64 = 0.5;

/// Losses below which there is nothing to help against, as a share of all requests.
const LOST_MIN: f64 = 5e-4;

/// Setting of one parameter.
struct Setting {
    what: &'static str,
    value: String,
    nodes: usize,
    scenario: Scenario,
}

/// Sweeps over a scenario with so many hosts, and passes on each line of the table. Returns whether
/// it came to its end.
pub fn sweep(
    scenario: &Scenario,
    nodes: usize,
    stop: Stop<'_>,
    mut line: impl FnMut(&str),
) -> bool {
    line(&format!(
        "{:<25} {:>6} | {:>9} {:>9} {:>9} | {:>6} {:>6} | {:>6} {:>7} {:>10} | {}",
        "lowest served; sums of",
        "",
        "none",
        "turns",
        "spillway",
        "deaths",
        "turns",
        "drains",
        "refused",
        "overloaded",
        "turns alone"
    ));
    for setting in settings(scenario, nodes) {
        let of = |policy: Policy| -> Option<Vec<Outcome>> {
            let seeds = (1..=SEEDS).map(|seed| Run { nodes: setting.nodes, seed, policy });
            seeds.map(|run| simulate(&setting.scenario, run, stop, |_| {})).collect()
        };
        let outcomes: Option<Vec<_>> =
            [Policy::None, Policy::Turns, Policy::Spillway].into_iter().map(of).collect();
        match outcomes.as_deref() {
            Some([none, turns, shedding]) => line(&row(&setting, none, turns, shedding)),
            _ => return false,
        }
    }
    true
}

fn row(setting: &Setting, none: &[Outcome], turns: &[Outcome], shedding: &[Outcome]) -> String {
    let worst = |outcomes: &[Outcome]| {
        outcomes.iter().map(|outcome| outcome.served_share).fold(1.0, f64::min)
    };
    let sum = |outcomes: &[Outcome], of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (died, dies) = (sum(none, |one| one.oom_deaths), sum(turns, |one| one.oom_deaths));
    format!(
        "{:<25} {:>6} | {:>7.2} % {:>7.2} % {:>7.2} % | {:>6} {:>6} | {:>6} {:>7} {:>10} | {}",
        setting.what,
        setting.value,
        worst(none) * 100.0,
        worst(turns) * 100.0,
        worst(shedding) * 100.0,
        died,
        dies,
        sum(turns, |one| one.drains),
        sum(turns, |one| one.refused),
        sum(turns, |one| one.overloaded_by_drain),
        verdict([1.0 - worst(none), 1.0 - worst(turns)], [died, dies]),
    )
}

/// Judges turns alone by the requests lost and the hosts that died, without and with them.
fn verdict([lost, loses]: [f64; 2], [died, dies]: [u64; 2]) -> &'static str {
    let serves = lost >= LOST_MIN && loses <= lost * (1.0 - HELP_SHARE);
    let spares = died > 0 && dies as f64 <= died as f64 * (1.0 - HELP_SHARE);
    match (serves, spares) {
        _ if loses > lost + LOST_MIN || dies > died => "HARM",
        (true, true) => "help",
        (true, false) => "serve more",
        (false, true) => "spare deaths",
        (false, false) => "do not help",
    }
}

fn settings(scenario: &Scenario, nodes: usize) -> Vec<Setting> {
    let mut all =
        vec![Setting { what: "as it is", value: String::new(), nodes, scenario: scenario.clone() }];
    for count in [2, 3, 5, 10, 20, 200] {
        let what = "hosts";
        all.push(Setting {
            what,
            value: count.to_string(),
            nodes: count,
            scenario: scenario.clone(),
        });
    }
    let mut vary = |what, value: String, change: &dyn Fn(&mut Scenario)| {
        let mut scenario = scenario.clone();
        change(&mut scenario);
        all.push(Setting { what, value, nodes, scenario });
    };
    for load in [0.3, 0.5, 0.7, 0.8, 0.9] {
        vary("load", percent(load), &|one| one.load = load);
    }
    for proven in [0.55, 0.61, 0.65, 0.95] {
        vary("load proven before", percent(proven), &|one| one.proven = proven);
    }
    for slots in [0.0, 0.02, 0.1, 0.2] {
        vary("slots", percent(slots), &|one| one.slots = slots);
    }
    if let Some(leak) = scenario.leak {
        for minutes in [20.0, 40.0, 60.0, 90.0, 240.0] {
            let leak = Leak { lasts_secs: minutes * 60.0, ..leak };
            vary("leak fills memory in, min", format!("{minutes:.0}"), &|one| {
                one.leak = Some(leak)
            });
        }
        for hours in [8.0, 12.0] {
            let leak = Leak { until: leak.from + hours * 3_600.0, ..leak };
            vary("cause lasts, h", format!("{hours:.0}"), &|one| {
                (one.leak, one.secs) = (Some(leak), leak.until + 1_800.0);
            });
        }
        for rates in [0.0, 0.2, 0.8] {
            let leak = Leak { rates, ..leak };
            vary("rates differ by", percent(rates), &|one| one.leak = Some(leak));
        }
        for share in [0.1, 0.5] {
            let leak = Leak { share, ..leak };
            vary("hosts that leak", percent(share), &|one| one.leak = Some(leak));
        }
    }
    if let Some(surge) = scenario.surge {
        for factor in [1.4, 2.5, 4.0] {
            let surge = Surge { factor, ..surge };
            vary("surge to", format!("{factor}"), &|one| one.surge = Some(surge));
        }
    }
    all
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
