//! A limit on a host with swap: with `memory.high` alone a leaker goes on into swap; with a limit
//! on swap too it stops.
//!
//! The drive is slow, so that it takes seconds to swap some megabytes. The check reads the kernel's
//! own count for the cgroup.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_tests::limit_live::is_alive;

use crate::{
    checks::Seen,
    drive::{Swap, be_there, vmstat},
    rungs::{Prepared, Rung},
    unit_stage::{MIB, SOON, Stage, until},
};

const SWAP_BYTES: u64 = 256 * MIB;
const LEAK: &str = "leak --rate=20MiB --limit=1GiB";
/// Swap of the cgroup before it is limited, and the minimum by which it would grow otherwise.
const SWAPPED_BYTES: u64 = 8 * MIB;
/// Maximum that is under way to swap when the limit is set and still arrives there.
const ON_ITS_WAY_BYTES: u64 = MIB;
/// Time for which it must not grow: without the limit it would swap a multiple of the first amount.
const STANDS: Duration = Duration::from_secs(5);

/// Checks that it swaps without the limit, does not with it, and may again afterwards.
pub fn swap(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let kills = vmstat("oom_kill")?;
    bounded()?;
    let mut stage = Stage::running("swap", LEAK, "")?;
    let before = stage.properties()?;
    let swapped = |stage: &Stage| number(stage, "memory.swap.current");

    // The state with memory.high alone.
    until(SOON, || (stage.used_bytes().ok()? > 64 * MIB).then_some(()))
        .context("the leak does not grow")?;
    fs::write(stage.file("memory.high"), (64 * MIB).to_string())?;
    let swaps = until(SOON, || (swapped(&stage).ok()? > SWAPPED_BYTES).then_some(()));
    ensure!(
        swaps.is_some(),
        "memory.high alone stops it too: {} bytes are swapped",
        swapped(&stage)?
    );
    fs::write(stage.file("memory.high"), "max")?;

    let limit_bytes = stage.limit()?;
    let held_bytes = number(&stage, "memory.swap.max")?;
    ensure!(held_bytes >= SWAPPED_BYTES, "the limit of swap is {held_bytes} bytes, below its use");
    let full = until(SOON, || (stage.used_bytes().ok()? + 4 * MIB > limit_bytes).then_some(()));
    ensure!(
        full.is_some(),
        "it does not reach its limit of {limit_bytes}: {}",
        stage.used_bytes()?
    );
    sleep(STANDS);
    let after_bytes = swapped(&stage)?;
    let used_bytes = stage.used_bytes()?;
    ensure!(
        after_bytes <= held_bytes + ON_ITS_WAY_BYTES,
        "{after_bytes} bytes are swapped, the limit is {held_bytes}"
    );
    ensure!(
        used_bytes <= limit_bytes + 16 * MIB,
        "{used_bytes} bytes are used, the limit is {limit_bytes}"
    );
    ensure!(is_alive(stage.pid()?) && vmstat("oom_kill")? == kills, "a process was killed");

    stage.undo()?;
    let after = stage.properties()?;
    ensure!(
        after == before && stage.drop_ins().is_empty(),
        "{before}; after: {after}; {:?}",
        stage.drop_ins()
    );
    let swap_max = fs::read_to_string(stage.file("memory.swap.max"))?;
    ensure!(swap_max.trim() == "max", "memory.swap.max is {swap_max}");
    let detail = format!(
        "at {} MiB, with {} KiB of swap of {} at most; {} MiB of the host's are used",
        limit_bytes / MIB,
        after_bytes / 1024,
        held_bytes / 1024,
        swap.used_bytes()? / MIB
    );
    Ok(Seen { events: 2, detail })
}

/// Checks that swap is not limited in a cgroup with a hard limit: only swap keeps the kernel from
/// killing at it.
fn bounded() -> anyhow::Result<()> {
    let mut stage = Stage::service("bounded", "MemoryMax=400M\n")?;
    stage.limit()?;
    let swap_max = fs::read_to_string(stage.file("memory.swap.max"))?;
    ensure!(swap_max.trim() == "max", "a cgroup with a hard limit may swap {swap_max}");
    stage.undo()
}

fn number(stage: &Stage, file: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(stage.file(file))?;
    text.trim().parse().with_context(|| format!("{file} is {text}"))
}
