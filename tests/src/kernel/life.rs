//! Births and deaths of processes.

use std::time::Duration;

use anyhow::ensure;
use spillway_agent::{
    kernel::Probe,
    sense::{Fact, ProcessId},
};
use spillway_tests::{Workload, wait_for};

use crate::{
    checks::Seen,
    memory::{start_and_parent, touch, workload},
    rungs::{Prepared, Rung},
};

const WITHIN: Duration = Duration::from_secs(10);

/// A known process's exec and exit, named by pid and start.
pub fn exec_and_exit(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessLife, rung)?;
    let started = touch(0, &[])?;
    let id = ProcessId { pid: started.pid(), start_ticks: start_and_parent(started.pid())?.0 };
    let mut seen = Vec::new();
    let mut saw = |wanted: Fact| {
        wait_for(WITHIN, || {
            sensors.drain_life(0.0, &mut seen);
            seen.iter().any(|one| one.fact == wanted).then_some(())
        })
    };
    ensure!(saw(Fact::Exec(id)).is_some(), "no exec of {id}");
    started.stop();
    ensure!(saw(Fact::Exit(id)).is_some(), "no exit of {id}");
    Ok(Seen { events: seen.len() as u64, detail: format!("exec and exit of {id}") })
}

/// Five hundred processes that live for a moment.
pub fn short_lives(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessLife, rung)?;
    let before = sensors.life_totals();
    let mut churn = Workload::start(workload()?.args(["churn", "--count=500"]));
    while !churn.ready.to_string().contains("done") && !churn.next_line().contains("done") {}
    churn.stop();
    sensors.drain_life(0.0, &mut Vec::new());
    let after = sensors.life_totals();
    let (forks, exits) = (after.forks - before.forks, after.exits - before.exits);
    ensure!(forks >= 501 && exits >= 501, "{forks} births and {exits} deaths were seen of 501 each");
    let lost: u64 = sensors.lost().totals().map(|(_, total)| total).sum();
    ensure!(lost == 0, "{lost} were lost: {:?}", sensors.lost());
    Ok(Seen { events: forks + exits, detail: format!("{forks} births, {exits} deaths, none lost") })
}
