//! Live: births and deaths of processes, as the tracepoints tell them.

use std::{fs, process::Command, time::Duration};

use spillway_agent::{
    kernel::Probe,
    sense::{Fact, ProcessId},
};
use spillway_tests::{Workload, sensors_with, wait_for};

fn workload(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(args))
}

#[test]
fn an_exec_and_an_exit_name_their_process() {
    let test = "an_exec_and_an_exit_name_their_process";
    let Some(mut sensors) = sensors_with(Probe::ProcessLife, test) else { return };
    let started = workload(&["touch"]);
    let stat = fs::read_to_string(format!("/proc/{}/stat", started.pid())).expect("the workload has a stat");
    let start_ticks = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok());
    let id = ProcessId { pid: started.pid(), start_ticks: start_ticks.expect("field 22 is a number") };
    let mut seen = Vec::new();
    let mut saw = |wanted: Fact| {
        wait_for(Duration::from_secs(5), || {
            sensors.drain_life(0.0, &mut seen);
            seen.iter().any(|one| one.fact == wanted).then_some(())
        })
    };
    assert!(saw(Fact::Exec(id)).is_some(), "no exec of {id}");
    started.stop();
    assert!(saw(Fact::Exit(id)).is_some(), "no exit of {id}");
}

#[test]
fn every_short_life_is_counted() {
    let test = "every_short_life_is_counted";
    let Some(mut sensors) = sensors_with(Probe::ProcessLife, test) else { return };
    let before = sensors.life_totals();
    let mut churn = Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["churn", "--count=500"]));
    while !churn.ready.to_string().contains("done") && !churn.next_line().contains("done") {}
    churn.stop();
    sensors.drain_life(0.0, &mut Vec::new());
    let after = sensors.life_totals();
    assert!(after.forks - before.forks >= 501, "{before:?} → {after:?}");
    assert!(after.exits - before.exits >= 501, "{before:?} → {after:?}");
    assert_eq!(sensors.lost().totals().map(|(_, total)| total).sum::<u64>(), 0, "{:?}", sensors.lost());
}

#[test]
fn a_full_ring_is_counted() {
    let test = "a_full_ring_is_counted";
    let Some(mut sensors) = sensors_with(Probe::ProcessLife, test) else { return };
    // Nobody reads meanwhile: the ring holds 10,900 entries and each short life makes two.
    for _ in 0..3 {
        let mut churn = Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["churn", "--count=2500"]));
        while !churn.ready.to_string().contains("done") && !churn.next_line().contains("done") {}
    }
    let lost = sensors.lost().totals().find(|&(what, _)| what == "life_ring_full").map(|(_, total)| total);
    sensors.drain_life(0.0, &mut Vec::new());
    let totals = sensors.life_totals();
    let told = totals.forks + totals.execs + totals.exits + lost.unwrap_or(0);
    assert!(lost.is_some_and(|lost| lost > 0), "{lost:?} after {totals:?}");
    assert!(told >= 15_000, "{told} of 15,000 births and deaths were told or counted");
}
