//! Memory of processes, compared with the amounts touched and with other figures of the kernel.

use std::{collections::HashSet, fs, process::Command};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{ProcessFact, ProcessMemorySensor, Sensors},
};
use spillway_tests::{Workload, field_bytes, processes};

use crate::{
    checks::Seen,
    rungs::{Prepared, Rung, kernel_version},
};

const MIB: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
/// Maximum that may move between a CPU's slot and the count while they are summed: the kernel's
/// batch of 32 pages.
const BATCH_BYTES: u64 = 32 * PAGE_BYTES;
/// Some 20 MiB: on each of eight CPUs 24 pages more than a multiple of the 32 that a CPU may keep
/// to itself; a thread's stack takes a few more. A plain count then misses nearly as much as it
/// can, which is 992 KiB.
const HELD_BYTES: u64 = 8 * (640 + 24) * PAGE_BYTES;
/// Four times the part of it that is touched, so that neither is taken for the other.
const MAPPED_BYTES: u64 = 64 * MIB;
/// Maximum difference between two processes of one program with different arguments: pages of the
/// stack, of which parsing takes more, and one of the heap.
const STARTED_OTHERWISE_BYTES: u64 = 16 * PAGE_BYTES;

/// Returns the workload program, which is installed beside this one.
pub fn workload() -> anyhow::Result<Command> {
    beside("workload")
}

/// Returns a program that is installed beside this one.
pub fn beside(name: &str) -> anyhow::Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not built\n  hint: run `cargo xtask vm host`, which builds it",
        path.display()
    );
    Ok(Command::new(path))
}

/// Starts a process that touches that much memory, and waits.
pub fn touch(anon_bytes: u64, more: &[String]) -> anyhow::Result<Workload> {
    Ok(Workload::start(
        workload()?.arg("touch").arg(format!("--anon-bytes={anon_bytes}")).args(more),
    ))
}

/// Returns the facts of a process.
pub fn find(facts: &[ProcessFact], pid: u32) -> anyhow::Result<&ProcessFact> {
    facts
        .iter()
        .find(|fact| fact.id.pid == pid)
        .with_context(|| format!("pid {pid} is not among {} seen", facts.len()))
}

/// Checks that a figure is within 1 % or 1 MiB, whichever is more; returns the error.
fn near(what: &str, seen: u64, truth: u64) -> anyhow::Result<String> {
    let off = seen.abs_diff(truth);
    ensure!(
        off <= (truth / 100).max(MIB),
        "{what}: {seen} bytes, expected {truth}: {} KiB off",
        off / 1024
    );
    Ok(format!("{what} {} KiB off", off / 1024))
}

/// Compares known amounts of each kind with the facts and with `/proc/PID/status`.
pub fn touched(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let idle = touch(0, &[])?;
    let busy = touch(
        64 * MIB,
        &[format!("--file-bytes={}", 24 * MIB), format!("--shmem-bytes={}", 16 * MIB)],
    )?;
    let facts = processes(sensors);
    let (before, after) = (find(&facts, idle.pid())?, find(&facts, busy.pid())?);
    let mut detail = vec![
        near("anonymous", after.anon_bytes.saturating_sub(before.anon_bytes), 64 * MIB)?,
        near("file", after.file_bytes.saturating_sub(before.file_bytes), 24 * MIB)?,
        near("shared", after.shmem_bytes.saturating_sub(before.shmem_bytes), 16 * MIB)?,
    ];
    for (seen, field) in [
        (after.anon_bytes, "RssAnon"),
        (after.file_bytes, "RssFile"),
        (after.shmem_bytes, "RssShmem"),
    ] {
        detail.push(near(field, seen, field_bytes(busy.pid(), "status", field)?)?);
    }
    let swap = field_bytes(busy.pid(), "status", "VmSwap")?;
    ensure!(after.swap_bytes == swap, "{} swapped bytes, expected {swap}", after.swap_bytes);
    Ok(Seen { events: facts.len() as u64, detail: detail.join(", ") })
}

/// Checks private writable memory that is mapped but only partly touched, beside memory that is not
/// private or not writable.
pub fn mapped(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let idle = touch(0, &[])?;
    let [file, shmem] = [24, 16].map(|mib| mib * MIB);
    let more = [("mapped", MAPPED_BYTES), ("file", file), ("shmem", shmem)];
    let busy = touch(16 * MIB, &more.map(|(kind, bytes)| format!("--{kind}-bytes={bytes}")))?;
    let facts = processes(sensors);
    let (before, after) = (find(&facts, idle.pid())?, find(&facts, busy.pid())?);
    for fact in [before, after] {
        let truth = statm_data_bytes(fact.id.pid)?;
        ensure!(
            fact.mapped_bytes == Some(truth),
            "{:?} mapped bytes, expected {truth}",
            fact.mapped_bytes
        );
    }
    let grown = after.mapped_bytes.unwrap_or(0).saturating_sub(before.mapped_bytes.unwrap_or(0));
    let off = grown.abs_diff(MAPPED_BYTES);
    ensure!(
        off <= STARTED_OTHERWISE_BYTES,
        "{grown} more bytes mapped, expected {MAPPED_BYTES}: {} KiB off",
        off / 1024
    );
    let touched = near("touched", after.anon_bytes.saturating_sub(before.anon_bytes), 16 * MIB)?;
    let detail = format!("equal to statm, {} KiB off the mapping, {touched}", off / 1024);
    Ok(Seen { events: facts.len() as u64, detail })
}

/// Returns `data` of `/proc/PID/statm`, its sixth field.
fn statm_data_bytes(pid: u32) -> anyhow::Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/statm")).context("the workload has no statm")?;
    let pages: u64 = text.split(' ').nth(5).context("statm has a sixth field")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

/// Compares the peak with `VmHWM`: of a process that has grown and shrunk, and of one at its peak.
pub fn peak(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let shrunk = touch(16 * MIB, &[format!("--freed-bytes={}", 96 * MIB)])?;
    let grown = touch(48 * MIB, &[])?;
    let facts = processes(sensors);
    let mut detail = Vec::new();
    for (name, process, touched) in [("shrunk", &shrunk, 96 * MIB), ("grown", &grown, 48 * MIB)] {
        let fact = find(&facts, process.pid())?;
        let seen = fact.peak_rss_bytes.context("the peak is unknown")?;
        let truth = field_bytes(process.pid(), "status", "VmHWM")?;
        ensure!(truth >= touched, "{name}: VmHWM is {truth}, below the {touched} bytes touched");
        detail.push(near(name, seen, truth)?);
    }
    let now = find(&facts, shrunk.pid())?.anon_bytes;
    ensure!(now < 32 * MIB, "the shrunk process still holds {now} bytes");
    Ok(Seen { events: facts.len() as u64, detail: detail.join(", ") })
}

/// Compares start, parent and name with `/proc/PID/stat`.
pub fn identity(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let workload = touch(MIB, &[])?;
    let facts = processes(sensors);
    let fact = find(&facts, workload.pid())?;
    let (start_ticks, ppid) = start_and_parent(workload.pid())?;
    ensure!(
        fact.id.start_ticks == start_ticks,
        "the start is {}, expected {start_ticks}",
        fact.id.start_ticks
    );
    ensure!(fact.ppid == ppid, "the parent is {}, expected {ppid}", fact.ppid);
    ensure!(&*fact.comm == "workload", "the name is {:?}, expected \"workload\"", fact.comm);
    Ok(Seen { events: facts.len() as u64, detail: format!("{}, child of {ppid}", fact.id) })
}

/// Returns fields 22 and 4 of `/proc/PID/stat`.
pub fn start_and_parent(pid: u32) -> anyhow::Result<(u64, u32)> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).context("the workload has no stat")?;
    // Counted from field 3, which comes first after the name.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").context("stat has no name in parentheses")?.1.split(' ').collect();
    Ok((fields[19].parse()?, fields[1].parse()?))
}

/// Checks that both ways show every process that existed throughout, in the same cgroup.
pub fn complete(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let bpf = prepared.sensors(Probe::ProcessMemory, rung)?;
    let mut proc = Sensors::without_bpf("this check compares two rungs");
    let _sleepers = Workload::start(workload()?.args(["sleepers", "--count=200"]));
    let before = processes(&mut proc);
    let seen: HashSet<_> =
        processes(bpf).iter().map(|fact| (fact.id, fact.cgroup.clone())).collect();
    let after: HashSet<_> =
        processes(&mut proc).iter().map(|fact| (fact.id, fact.cgroup.clone())).collect();
    // Some sandboxes shield their own pid 1 from ptrace and from iterators, even from root.
    let shielded = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_err();
    let stable: Vec<_> = before
        .into_iter()
        .map(|fact| (fact.id, fact.cgroup))
        .filter(|fact| after.contains(fact) && !shielded(fact.0.pid))
        .collect();
    ensure!(stable.len() > 200, "only {} processes stayed, though 200 are sleepers", stable.len());
    let unseen: Vec<_> = stable.iter().filter(|process| !seen.contains(process)).collect();
    ensure!(unseen.is_empty(), "{} of {} are missing: {unseen:?}", unseen.len(), stable.len());
    Ok(Seen {
        events: seen.len() as u64,
        detail: format!("{} stable processes, all seen", stable.len()),
    })
}

/// Compares the programs of all processes with those that `/proc` shows to root.
pub fn programs(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let list = sensors.program_list().context("no programs are listed")?;
    let _sleepers = Workload::start(workload()?.args(["sleepers", "--count=20"]));
    let pids: Vec<u32> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let listed = list.programs(&pids).context("cannot list programs")?;
    let mut compared = 0;
    for pid in pids {
        // Kernel threads have none.
        let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { continue };
        let program = program.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
        let seen = listed.get(&pid).map(|path| path.to_string_lossy().into_owned());
        ensure!(
            seen.as_ref() == Some(&program),
            "pid {pid}: listed as {seen:?}, expected {program}"
        );
        compared += 1;
    }
    ensure!(compared > 20, "only {compared} processes have a program, though 20 are sleepers");
    Ok(Seen { events: compared, detail: format!("{compared} programs") })
}

/// Compares memory that eight threads touched, on a CPU each, with the page tables: the kernel may
/// keep a count per CPU.
pub fn eight_threads(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::ProcessMemory, rung)?;
    let workload = touch(HELD_BYTES, &["--threads=8".to_owned()])?;
    let facts = processes(sensors);
    let seen = find(&facts, workload.pid())?.anon_bytes;
    let truth = field_bytes(workload.pid(), "smaps_rollup", "Anonymous")?;
    ensure!(truth >= HELD_BYTES, "the workload has {truth} bytes instead of {HELD_BYTES}");
    let detail = near("anonymous", seen, truth)?;
    let summed = rung.is_some_and(|rung| rung.hook == ProcessMemorySensor::TASK_ITER)
        && kernel_version()? >= (6, 2);
    let off = seen.abs_diff(truth);
    ensure!(
        !summed || off <= BATCH_BYTES,
        "{} KiB off, more than a slot's share: slots are not summed",
        off / 1024
    );
    Ok(Seen { events: facts.len() as u64, detail })
}
