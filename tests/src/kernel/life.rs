//! Births and deaths of processes.

use std::time::Duration;

use anyhow::ensure;
use spillway_agent::{
    bpf::Probe,
    sense::{Fact, ProcessEventTotals, ProcessId, Sensors},
};
use spillway_tests::{Workload, processes, wait_for};

use crate::{
    checks::Seen,
    memory::{start_and_parent, touch, workload},
    rungs::{Prepared, Rung},
};

const WITHIN: Duration = Duration::from_secs(10);

/// Checks exec and exit of a known process, identified by pid and start time.
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

/// Checks five hundred processes that end at once.
pub fn short_lives(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessLife, rung)?;
    let before = sensors.life_totals();
    let mut churn = Workload::start(workload()?.args(["churn", "--count=500"]));
    churn.until_done();
    churn.stop();
    sensors.drain_life(0.0, &mut Vec::new());
    let after = sensors.life_totals();
    let (forks, exits) = (after.forks - before.forks, after.exits - before.exits);
    ensure!(forks >= 501 && exits >= 501, "{forks} births and {exits} deaths, expected 501 each");
    let lost: u64 = sensors.lost().totals().map(|(_, total)| total).sum();
    ensure!(lost == 0, "{lost} were lost: {:?}", sensors.lost());
    Ok(Seen { events: forks + exits, detail: format!("{forks} births, {exits} deaths, none lost") })
}

/// Checks a process that is in one scan and not in the next: this rung reports no births and deaths
/// as such.
pub fn two_scans(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessLife, rung)?;
    let started = touch(0, &[])?;
    let pid = started.pid();
    let sees = |sensors: &mut Sensors| processes(sensors).iter().any(|fact| fact.id.pid == pid);
    ensure!(sees(sensors), "pid {pid} is missing while it runs");
    started.stop();
    ensure!(!sees(sensors), "pid {pid} is gone but still seen");
    let totals = sensors.life_totals();
    ensure!(totals == ProcessEventTotals::default(), "births and deaths are reported: {totals:?}");
    Ok(Seen { events: 2, detail: format!("pid {pid}, then not") })
}
