//! Limits on cgroups, on this kernel and in its version of the memory controller.

use std::fs;

use anyhow::Context as _;
use spillway_tests::limit_live::{self, Programs, Share, Stage};

use crate::{
    checks::{NotOffered, Seen},
    guest::{self, is_guest, is_thorough},
    memory::beside,
    rungs::{Prepared, Rung},
};

/// A leaker is kept below its limit.
pub fn held(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("held", limit_live::held)
}

/// Cgroups that must not be limited.
pub fn refused(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("refused", limit_live::refused)
}

/// Limits that others change.
pub fn changed_by_others(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("others", limit_live::changed_by_others)
}

/// Pause and undo by hand.
pub fn by_hand(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("by-hand", limit_live::by_hand)
}

/// The end of an incident.
pub fn over(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("over", limit_live::over)
}

/// A limit that only makes its cgroup wait.
pub fn thrashing(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("thrashing", limit_live::thrashing)
}

/// An agent that is killed anywhere.
pub fn killed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("killed", |stage| limit_live::killed(stage, share()))
}

/// Agent that is killed with every kind of limit set.
pub fn killed_with_all(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("killed-all", |stage| match stage.is_v1 {
        true => "nothing but the limit is set in this version".to_owned(),
        false => limit_live::killed_with_all(stage, share()),
    })
}

/// An agent overtaken by `spillway undo` anywhere.
pub fn overtaken(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let Share { of, nth } = share();
    on_stage("overtaken", |stage| limit_live::overtaken(stage, Share { of: 2 * of, nth: 2 * nth }))
}

/// A hard limit above the soft one.
pub fn backstop(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("backstop", limit_live::backstop)
}

/// A limit never exceeds the one that was there before.
pub fn never_wider(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("wider", limit_live::never_wider_than_before)
}

/// Less CPU for a process that spins at its limit.
pub fn slowed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("slowed", limit_live::slowed)
}

/// A leaker that shares its cgroup.
pub fn divided(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("divided", limit_live::divided)
}

/// Divided cgroup at the end of the incident, or of the leaker.
pub fn divided_and_over(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("divided-over", limit_live::divided_and_over)
}

/// Divided cgroup whose child others use.
pub fn divided_and_used(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("divided-used", limit_live::divided_and_used)
}

/// Memory that the leaker had before the move.
pub fn replaced(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("replaced", limit_live::replaced)
}

/// Memory that the leaker had before the move, in huge pages.
pub fn gathered(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    if !is_guest() {
        return Err(NotOffered(
            "changes the whole host's huge pages: only in virtual machines".to_owned(),
        )
        .into());
    }
    // Not before `gather` is called: an earlier pass would charge pages too early.
    let sleep = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
    fs::write(sleep, "3600000").with_context(|| format!("cannot write {sleep}"))?;
    on_stage("gathered", |stage| limit_live::gathered(stage, gather_huge_pages))
}

/// Lets the kernel gather small pages into huge ones as fast as it can, until the machine ends: by
/// default it scans 16 MiB in ten seconds.
fn gather_huge_pages() {
    for (setting, value) in [
        ("enabled", "always"),
        ("khugepaged/pages_to_scan", "65536"),
        ("khugepaged/scan_sleep_millisecs", "10"),
        ("khugepaged/alloc_sleep_millisecs", "10"),
    ] {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{setting}");
        fs::write(&path, value).unwrap_or_else(|error| panic!("{path}={value}: {error}"));
    }
}

/// An agent that is killed anywhere while it divides a cgroup.
pub fn divided_and_killed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("divided-killed", |stage| limit_live::divided_and_killed(stage, share()))
}

/// Limits that are set and removed while all processes allocate.
pub fn racing(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    // Emulated, a change takes 40 ms beside processes that only allocate; on the host it waits for
    // the disk eight times.
    let least_changes = match (is_thorough(), is_guest()) {
        (true, _) => 10_000,
        (_, true) => 500,
        _ => 1_000,
    };
    on_stage("racing", |stage| limit_live::racing(stage, least_changes))
}

/// Returns the share of the kills that one machine takes unless `--thorough` is given, because
/// emulated machines are slow. The oldest and the newest kernel together take half of them; the
/// tests on the host take all.
fn share() -> Share {
    match guest::machine().as_deref() {
        _ if is_thorough() => Share::WHOLE,
        Some("5.10") => Share { of: 4, nth: 0 },
        Some("host") => Share { of: 8, nth: 1 },
        _ => Share { of: 4, nth: 2 },
    }
}

fn on_stage(name: &str, scenario: impl FnOnce(&Stage) -> String) -> anyhow::Result<Seen> {
    let path = |name: &str| Ok::<_, anyhow::Error>(beside(name)?.get_program().into());
    let programs = Programs { workload: path("workload")?, crash_target: path("crash_target")? };
    let stage = Stage::set(name, programs).map_err(NotOffered)?;
    let detail = scenario(&stage);
    let version = if stage.is_v1 { 1 } else { 2 };
    Ok(Seen { events: 1, detail: format!("in version {version}: {detail}") })
}
