//! Limits on systemd's units while systemd does not answer, as on a host so short of memory that
//! systemd waits for its own pages.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_agent::act::OutcomeKind;
use spillway_tests::{limit_live::life, now};

use crate::{
    checks::Seen,
    rungs::{Prepared, Rung},
    unit_stage::{ID, Stage, systemctl},
};

/// Maximum time until a limit is set: it waits one second for an answer, and an emulated machine
/// that shares its CPU is slow.
const LIMITED_WITHIN: Duration = Duration::from_secs(10);

/// System bus that does not answer until this is dropped. systemctl talks to systemd directly.
struct SilentBus(i32);

impl SilentBus {
    fn stop() -> anyhow::Result<Self> {
        let pid = systemctl(&["show", "--property=MainPID", "--value", "dbus.service"])?;
        let pid = pid.parse().with_context(|| format!("the bus is pid {pid}"))?;
        ensure!(pid > 0, "the bus is not running");
        // SAFETY: a signal to a process that is systemd's child and runs as long as it does.
        ensure!(unsafe { libc::kill(pid, libc::SIGSTOP) } == 0, "cannot stop the bus");
        Ok(Self(pid))
    }
}

impl Drop for SilentBus {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// Checks that a limit is set in the cgroup's file nevertheless, that systemd gets it as soon as it
/// answers, and that it is removed without a trace, whenever that is.
pub fn bus(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("silent", "")?;
    let before = stage.properties()?;
    let limit = |stage: &mut Stage| -> anyhow::Result<(u64, Duration)> {
        let start = now();
        let outcome = stage.limits.limit(0.0, &ID, &stage.cgroup, life(stage.pid()?));
        let took = start.elapsed();
        ensure!(
            outcome.event == OutcomeKind::Limited
                && outcome.why.contains("systemd does not answer"),
            "{outcome:?}"
        );
        ensure!(took < LIMITED_WITHIN, "the limit took {took:?}");
        let limit_bytes = outcome.limit_bytes.context("the outcome has no limit")?;
        ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {}", stage.high()?);
        ensure!(stage.properties()? == before, "before: {before}; after: {}", stage.properties()?);
        Ok((limit_bytes, took))
    };
    let is_as_before = |stage: &Stage| -> anyhow::Result<()> {
        ensure!(stage.high()? == "max", "memory.high is {}", stage.high()?);
        ensure!(stage.properties()? == before, "before: {before}; after: {}", stage.properties()?);
        ensure!(stage.drop_ins().is_empty(), "left behind: {:?}", stage.drop_ins());
        Ok(())
    };

    // One connection that answered before, and one that never did.
    stage.limit()?;
    stage.undo()?;
    let silence = SilentBus::stop()?;
    let (limit_bytes, took) = limit(&mut stage)?;
    let looked = stage.limits.look(1.0);
    ensure!(looked.is_empty(), "{looked:?}");
    fs::write(stage.file("memory.high"), "max")?;
    let looked = stage.limits.look(2.0);
    stage.is_set_again(&looked)?;
    drop(silence);
    stage.pause().turn_on()?;
    stage.limits.look(2.5);
    ensure!(
        stage.drop_ins().is_empty(),
        "systemd gets the limit despite the pause: {:?}",
        stage.drop_ins()
    );
    stage.pause().turn_off()?;
    let looked = stage.limits.look(3.0);
    ensure!(looked.is_empty(), "{looked:?}");
    ensure!(
        stage.drop_ins() == ["50-MemoryHigh.conf"],
        "systemd did not get the limit: {:?}",
        stage.drop_ins()
    );
    let property = format!("MemoryHigh={limit_bytes}");
    ensure!(
        stage.properties()?.lines().any(|line| line == property),
        "{property} is not in {}",
        stage.properties()?
    );
    systemctl(&["daemon-reload"])?;
    systemctl(&["set-property", "--runtime", &stage.name, "TasksMax=99"])?;
    systemctl(&["set-property", "--runtime", &stage.name, "TasksMax="])?;
    ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {}", stage.high()?);
    stage.undo()?;
    let left = stage.drop_ins();
    ensure!(left == ["50-TasksMax.conf"], "left behind: {left:?}");
    fs::remove_file(format!("/run/systemd/system.control/{}.d/50-TasksMax.conf", stage.name))?;
    systemctl(&["daemon-reload"])?;
    is_as_before(&stage)?;

    // It stops answering while it knows a limit, which is then put back.
    let limit_bytes = stage.limit()?;
    let silence = SilentBus::stop()?;
    fs::write(stage.file("memory.high"), "max")?;
    let looked = [10.0, 11.0].map(|t| stage.limits.look(t));
    ensure!(
        stage.high()? == limit_bytes.to_string(),
        "memory.high is {}: {looked:?}",
        stage.high()?
    );
    drop(silence);
    stage.limits.look(12.0);
    stage.undo()?;
    is_as_before(&stage)?;

    // It does not answer until the end.
    let silence = SilentBus::stop()?;
    limit(&mut stage)?;
    stage.undo()?;
    is_as_before(&stage)?;
    drop(silence);
    is_as_before(&stage)?;
    let detail = format!(
        "limited after {:.1} s by the file alone, then by the property",
        took.as_secs_f64()
    );
    Ok(Seen { events: 3, detail })
}
