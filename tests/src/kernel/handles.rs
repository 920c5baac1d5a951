//! Open files, threads and sockets in CLOSE_WAIT of processes, compared with the truth and with
//! `/proc`.

use std::fs;

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{Fact, ProcessResourcesFact, Sensors},
};
use spillway_tests::Workload;

use crate::{
    checks::Seen,
    memory::{start_and_parent, workload},
    rungs::{Prepared, Rung, is_bpf},
};

/// Reads the handles of every process once.
fn read_handles(sensors: &mut Sensors, t: f64) -> Vec<ProcessResourcesFact> {
    let mut seen = Vec::new();
    sensors.scan_processes(t, &mut seen);
    seen.into_iter()
        .filter_map(|one| if let Fact::Handles(fact) = one.fact { Some(fact) } else { None })
        .collect()
}

/// Compares a process with a known number of files, threads and sockets in CLOSE_WAIT, and one
/// without any.
pub fn held(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessHandles, rung)?;
    let idle = Workload::start(workload()?.arg("hold"));
    let busy =
        Workload::start(workload()?.args(["hold", "--fds=300", "--threads=20", "--close-wait=7"]));
    // The sensor reads every ten seconds of the clock that it is given.
    let facts = read_handles(sensors, 1_000.0);
    let find = |pid: u32| {
        facts
            .iter()
            .find(|fact| fact.id.pid == pid)
            .with_context(|| format!("pid {pid} is missing"))
    };
    let (before, after) = (find(idle.pid())?, find(busy.pid())?);
    let (fds, threads) = (after.fds - before.fds, after.threads - before.threads);
    ensure!(
        (fds, threads) == (307, 20),
        "(files, threads) is {fds}, {threads} more, expected 307, 20"
    );
    let close_wait = is_bpf(rung).then_some(7);
    ensure!(
        after.close_wait == close_wait,
        "{:?} in CLOSE_WAIT, expected {close_wait:?}",
        after.close_wait
    );
    let listed = fs::read_dir(format!("/proc/{}/fd", busy.pid()))?.count() as u64;
    ensure!(after.fds == listed, "{} files, but /proc lists {listed}", after.fds);
    let limits = fs::read_to_string(format!("/proc/{}/limits", busy.pid()))?;
    let limit = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok()
    });
    ensure!(after.fds_max == limit, "the limit is {:?}, expected {limit:?}", after.fds_max);
    ensure!(after.id.start_ticks == start_and_parent(busy.pid())?.0, "wrong identity {}", after.id);
    ensure!(read_handles(sensors, 1_005.0).is_empty(), "read again after only five seconds");
    Ok(Seen {
        events: facts.len() as u64,
        detail: format!(
            "{} files, {threads} more threads, {close_wait:?} in CLOSE_WAIT",
            after.fds
        ),
    })
}
