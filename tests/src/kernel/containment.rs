//! Limits on cgroups, on this kernel and in this version of the memory controller.

use spillway_tests::limit_live::{self, Programs, Share, Stage};

use crate::{
    checks::{NotOffered, Seen},
    guest::{is_guest, is_thorough},
    memory::beside,
    rungs::{Prepared, Rung, kernel_version},
};

/// A leaker is held.
pub fn held(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("held", limit_live::held)
}

/// Whom a limit is not for.
pub fn refused(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("refused", limit_live::refused)
}

/// Others have a say.
pub fn changed_by_others(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("others", limit_live::changed_by_others)
}

/// So has a person.
pub fn by_hand(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("by-hand", limit_live::by_hand)
}

/// The end of an incident.
pub fn over(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("over", limit_live::over)
}

/// A limit that does harm.
pub fn thrashing(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    on_stage("thrashing", limit_live::thrashing)
}

/// The end of an agent, anywhere.
pub fn killed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let share = share()?;
    on_stage("killed", |stage| limit_live::killed(stage, share))
}

/// Limits that come and go while everybody allocates.
pub fn racing(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    // Emulated, a change takes 40 ms beside processes that only allocate; here it waits eight times for the disk.
    let least_changes = match (is_thorough(), is_guest()) {
        (true, _) => 10_000,
        (_, true) => 500,
        _ => 2_000,
    };
    on_stage("racing", |stage| limit_live::racing(stage, least_changes))
}

/// Emulated kernels are slow, and take a quarter each; between them they are thorough, and hardware is alone.
fn share() -> anyhow::Result<Share> {
    let nth = match kernel_version()? {
        _ if !is_guest() || is_thorough() => return Ok(Share::WHOLE),
        (5, _) => 0,
        (6, 0..10) => 1,
        (6, _) => 2,
        _ => 3,
    };
    Ok(Share { of: 4, nth })
}

fn on_stage(name: &str, scenario: impl FnOnce(&Stage) -> String) -> anyhow::Result<Seen> {
    let path = |name: &str| Ok::<_, anyhow::Error>(beside(name)?.get_program().into());
    let programs = Programs { workload: path("workload")?, contain: path("contain")? };
    let stage = Stage::set(name, programs).map_err(NotOffered)?;
    let detail = scenario(&stage);
    let version = if stage.is_v1 { 1 } else { 2 };
    Ok(Seen { events: 1, detail: format!("in version {version}: {detail}") })
}
