//! Memory pressure, of the host and of a cgroup that is throttled.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_agent::sense::HostMemorySensor;
use spillway_tests::{OwnCgroup, Workload, wait_for};

use crate::{
    checks::{NotOffered, Seen},
    memory::workload,
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;

/// Checks that the host's available memory and its pressure are read.
pub fn readable(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let host = HostMemorySensor::default().read_host().context("cannot read the host's memory")?;
    let Some(avg10) = host.psi_memory_some_avg10 else {
        return Err(NotOffered("this kernel was built or booted without PSI".to_owned()).into());
    };
    ensure!(host.mem_available_bytes > 0, "no memory is available");
    Ok(Seen {
        events: 1,
        detail: format!("{} MiB available, some avg10 {avg10}", host.mem_available_bytes / MIB),
    })
}

/// Checks that a process that wants more than its cgroup's `memory.high` raises that cgroup's
/// pressure.
pub fn throttled_cgroup(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let cgroup = OwnCgroup::make(&unified()?, "hog").map_err(NotOffered::from)?;
    if !cgroup.has("memory.high") {
        return Err(
            NotOffered("the unified hierarchy has no memory controller here".to_owned()).into()
        );
    }
    if !cgroup.has("memory.pressure") {
        return Err(NotOffered("this kernel was built or booted without PSI".to_owned()).into());
    }
    cgroup.set("memory.high", 16 * MIB)?;
    cgroup.set("memory.max", 256 * MIB)?;
    let before = some_total(&cgroup)?;
    let mut hog = workload()?;
    hog.args(["leak", "--rate=64MiB", "--limit=128MiB"]);
    let hog = Workload::start(&mut hog);
    cgroup.set("cgroup.procs", hog.pid())?;
    let rise = wait_for(Duration::from_secs(30), || {
        some_total(&cgroup)
            .ok()
            .and_then(|total| total.checked_sub(before))
            .filter(|&rise| rise > 10_000)
    });
    let current = cgroup.get("memory.current")?;
    hog.stop();
    let rise = rise.with_context(|| {
        format!("`some total` stayed at {before} µs with {} bytes in use", current.trim())
    })?;
    Ok(Seen { events: 1, detail: format!("some total rose by {} ms", rise / 1000) })
}

/// Returns the microseconds of `some total` in `memory.pressure`.
fn some_total(cgroup: &OwnCgroup) -> anyhow::Result<u64> {
    let text = cgroup.get("memory.pressure")?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("some ")?.rsplit_once("total=")?.1.parse().ok());
    total.with_context(|| format!("cannot parse memory.pressure: {text:?}"))
}

/// Returns the mount point of the unified hierarchy.
fn unified() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    let mount = mount.map(|fields| PathBuf::from(fields[1]));
    mount.ok_or_else(|| NotOffered("no unified hierarchy is mounted".to_owned()).into())
}
