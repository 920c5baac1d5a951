//! Hard limits of cgroups under the memory controller, of either version, and the memory charged
//! against them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{CgroupFact, Fact, Hierarchy, ProcessFact, Sensors},
};
use spillway_tests::{OwnCgroup, Workload, field_bytes, processes, wait_for};

use crate::{
    checks::{NotOffered, Seen},
    memory::{find, workload},
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;
/// Maximum error of a sum: each CPU keeps up to 64 pages of each cgroup to itself, and the programs
/// have a few pages that are charged but are in no page table.
const CHARGE_OFF_BYTES: u64 = 4 * MIB;
/// Two seconds, plus the time that an emulated processor takes for some scans.
const SUMMED_WITHIN: Duration = Duration::from_secs(5);
/// More than anything else that is charged to the cgroup, so that it would show if it counted.
const CACHE_BYTES: u64 = 96 * MIB;
/// Twice the error of a sum, so that it would show if it did not count.
const SHMEM_BYTES: u64 = 2 * CHARGE_OFF_BYTES;

/// Cgroup for a check, and the names of its files.
struct Limited {
    cgroup: OwnCgroup,
    max: &'static str,
    usage: &'static str,
    version: u32,
}

impl Limited {
    fn make(name: &str) -> anyhow::Result<Self> {
        let (mount, max, usage, version) = match Hierarchy::detect() {
            Hierarchy::V1 { mount, .. } => {
                (mount, "memory.limit_in_bytes", "memory.usage_in_bytes", 1)
            }
            Hierarchy::V2 { mount, .. } => (mount, "memory.max", "memory.current", 2),
            Hierarchy::None => {
                return Err(NotOffered("no cgroup file system is mounted".to_owned()).into());
            }
        };
        let cgroup = OwnCgroup::make(&mount, name).map_err(NotOffered::from)?;
        if !cgroup.has(max) {
            return Err(NotOffered(format!(
                "cannot enable the memory controller in {}",
                mount.display()
            ))
            .into());
        }
        cgroup.set(max, 512 * MIB)?;
        Ok(Self { cgroup, max, usage, version })
    }
}

/// Starts a process that touches that much of each kind, all of it charged to that cgroup.
fn touch_in(cgroup: &OwnCgroup, kinds: &[(&str, u64)]) -> anyhow::Result<Workload> {
    let mut workload = workload()?;
    workload.arg("touch").args(kinds.iter().map(|(kind, bytes)| format!("--{kind}-bytes={bytes}")));
    Ok(Workload::start(cgroup.admit(&mut workload)?))
}

/// Returns the memory of these processes that counts; `shmem_bytes` were touched by one of them.
/// `RssShmem` would not do: if the root is a tmpfs, as in the virtual machines, the program itself
/// is in it, charged to the process that unpacked it.
fn held_bytes(workloads: &[Workload], shmem_bytes: u64) -> anyhow::Result<u64> {
    let anon: anyhow::Result<u64> =
        workloads.iter().map(|workload| field_bytes(workload.pid(), "status", "RssAnon")).sum();
    Ok(anon? + shmem_bytes)
}

/// Compares limit and charge of a process with the truth; returns the error of the charge.
fn check(fact: &ProcessFact, held: u64) -> anyhow::Result<u64> {
    ensure!(
        fact.memory_max_bytes == Some(512 * MIB),
        "the limit is {:?}, expected 512 MiB",
        fact.memory_max_bytes
    );
    let charged = fact.memory_charged_bytes.context("the charge against the limit is missing")?;
    let off = charged.abs_diff(held);
    ensure!(
        off <= CHARGE_OFF_BYTES,
        "{charged} bytes charged, expected {held}: {} KiB off",
        off / 1024
    );
    Ok(off)
}

/// Scans until every process has its limit and its charge. The kernel sums up the counts of each
/// CPU every two seconds, and may leave a part of them out in between; the agent reads again every
/// ten scans.
fn until_charged(
    sensors: &mut Sensors,
    members: &[(&Workload, &OwnCgroup)],
    held: u64,
) -> anyhow::Result<(Vec<ProcessFact>, u64)> {
    let mut read = || -> anyhow::Result<_> {
        let facts = processes(sensors);
        let mut off = 0;
        for (workload, cgroup) in members {
            let fact = find(&facts, workload.pid())?;
            ensure!(
                *fact.cgroup == *cgroup.path,
                "the cgroup is {}, expected {}",
                fact.cgroup,
                cgroup.path
            );
            off = off.max(check(fact, held)?);
        }
        Ok((facts, off))
    };
    let mut last = read();
    wait_for(SUMMED_WITHIN, || {
        if last.is_err() {
            last = read();
        }
        last.is_ok().then_some(())
    });
    last
}

/// Checks a limit of the processes' own cgroup: both have the same charge, without the page cache
/// of one.
pub fn own(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let Limited { cgroup, usage, version, .. } = Limited::make("limit")?;
    let workloads = [
        touch_in(&cgroup, &[("anon", 48 * MIB), ("file", CACHE_BYTES), ("shmem", SHMEM_BYTES)])?,
        touch_in(&cgroup, &[("anon", 24 * MIB)])?,
    ];
    let held = held_bytes(&workloads, SHMEM_BYTES)?;
    ensure!(held >= 80 * MIB, "the workloads have {held} bytes instead of 80 MiB");
    let used: u64 = cgroup.get(usage)?.trim().parse()?;
    ensure!(
        used >= held + CACHE_BYTES - CHARGE_OFF_BYTES,
        "only {used} bytes are in use: the page cache is not charged"
    );
    let members = workloads.iter().map(|workload| (workload, &cgroup));
    let (facts, off) = until_charged(sensors, &members.collect::<Vec<_>>(), held)?;
    let detail = format!("path, limit and charge in version {version}, {} KiB off", off / 1024);
    Ok(Seen { events: facts.len() as u64, detail })
}

/// Checks a limit of the parent that is below the child's: the charge is that of the parent and
/// both its children.
pub fn parents(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let Limited { cgroup: parent, max, version, .. } = Limited::make("parent")?;
    if version == 2 {
        parent.set("cgroup.subtree_control", "+memory")?;
    }
    let (child, sibling) = (parent.make_below("child")?, parent.make_below("sibling")?);
    child.set(max, 1024 * MIB)?;
    let workloads =
        [touch_in(&child, &[("anon", 16 * MIB)])?, touch_in(&sibling, &[("anon", 40 * MIB)])?];
    let held = held_bytes(&workloads, 0)?;
    ensure!(held >= 56 * MIB, "the workloads have {held} bytes instead of 56 MiB");
    let members = workloads.iter().zip([&child, &sibling]);
    let (facts, off) = until_charged(sensors, &members.collect::<Vec<_>>(), held)?;
    Ok(Seen {
        events: facts.len() as u64,
        detail: format!("limit and charge of the parent, {} KiB off", off / 1024),
    })
}

/// Returns the charge of a cgroup as of the next time that it is read; `t` is the sensors' time.
fn charge_of(sensors: &mut Sensors, t: &mut f64, cgroup: &str) -> Option<CgroupFact> {
    // Long enough for the next read of each cgroup.
    *t += 11.0;
    let mut seen = Vec::new();
    sensors.scan_processes(*t, &mut seen);
    seen.into_iter().find_map(|one| match one.fact {
        Fact::Cgroup(fact) if *fact.cgroup == *cgroup => Some(fact),
        _ => None,
    })
}

/// Checks what is charged to a cgroup against what its processes touched: anonymous and shared
/// memory, page tables, and the page cache, which is in the total alone.
pub fn charges(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const TABLE_BYTES: u64 = 48 * MIB;
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let Limited { cgroup, version, .. } = Limited::make("charges")?;
    let kinds =
        [("anon", 32 * MIB), ("shmem", SHMEM_BYTES), ("table", TABLE_BYTES), ("file", CACHE_BYTES)];
    let workload = touch_in(&cgroup, &kinds)?;
    let held = field_bytes(workload.pid(), "status", "RssAnon")?;
    let stat = std::fs::read_to_string(cgroup.directory().join("memory.stat"))?;
    let counts_tables = ["pagetables ", "kernel "].iter().any(|field| stat.contains(field));
    let check = |fact: &CgroupFact| -> anyhow::Result<String> {
        let mut detail = format!("version {version}");
        for (what, seen, truth) in
            [("anonymous", fact.anon_bytes, held), ("shared", fact.shmem_bytes, SHMEM_BYTES)]
        {
            let seen = seen.with_context(|| format!("{what} memory is missing"))?;
            let off = seen.abs_diff(truth);
            ensure!(off <= CHARGE_OFF_BYTES, "{what}: {seen} bytes, expected {truth}");
            detail.push_str(&format!(", {what} {} KiB off", off / 1024));
        }
        let kernel = fact.kernel_bytes.context("memory of the kernel is missing")?;
        // Version 1 gives a lower bound, and so does version 2 before 5.11, which does not count
        // page tables. Tables of the program itself come on top.
        let least = if version == 1 || !counts_tables { 0 } else { TABLE_BYTES };
        ensure!(
            (least..TABLE_BYTES + 2 * CHARGE_OFF_BYTES).contains(&kernel),
            "{kernel} bytes of the kernel, expected {TABLE_BYTES}"
        );
        let current = fact.current_bytes.context("the total is missing")?;
        let all = held + SHMEM_BYTES + TABLE_BYTES + CACHE_BYTES;
        ensure!(current + CHARGE_OFF_BYTES >= all, "{current} bytes in all, expected {all}");
        ensure!(fact.max_bytes == Some(512 * MIB), "the limit is {:?}", fact.max_bytes);
        ensure!(fact.oom_kills_total == Some(0), "{:?} were killed", fact.oom_kills_total);
        detail.push_str(&format!(", {} MiB of the kernel", kernel / MIB));
        Ok(detail)
    };
    let mut t = 1e6;
    let mut last = Err(anyhow::anyhow!("{} was not read", cgroup.path));
    wait_for(SUMMED_WITHIN, || {
        if let Some(fact) = charge_of(sensors, &mut t, &cgroup.path) {
            last = check(&fact);
        }
        last.is_ok().then_some(())
    });
    Ok(Seen { events: 1, detail: last? })
}
