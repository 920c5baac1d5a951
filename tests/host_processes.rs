//! Live: the memory of processes, through BPF and through `/proc`, against what the kernel says elsewhere.

use std::{collections::HashSet, fs, path::PathBuf, process::Command, time::Duration};

use spillway_agent::{
    kernel::{Kernel, Probe, Wanted},
    sense::{Fact, Hierarchy, Lost, ProcessFact, ProcessSensor, Sensors},
};
use spillway_tests::{Workload, is_root, processes, sensors_with};

const MIB: u64 = 1 << 20;

fn touch(anon_mib: u64, file_mib: u64, shmem_mib: u64) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args([
        "touch",
        &format!("--anon-bytes={}", anon_mib * MIB),
        &format!("--file-bytes={}", file_mib * MIB),
        &format!("--shmem-bytes={}", shmem_mib * MIB),
    ]))
}

fn find(facts: &[ProcessFact], pid: u32) -> &ProcessFact {
    facts.iter().find(|fact| fact.id.pid == pid).expect("the scan sees the workload")
}

/// Within 1 % or 1 MiB, whichever is more.
fn assert_near(what: &str, seen: u64, truth: u64) {
    let allowed = (truth / 100).max(MIB);
    assert!(seen.abs_diff(truth) <= allowed, "{what}: {seen} bytes were seen and {truth} are true");
}

fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the workload has a status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") * 1024
}

fn sees_what_was_touched(sensors: &mut Sensors) {
    let (idle, busy) = (touch(0, 0, 0), touch(64, 24, 16));
    let facts = processes(sensors);
    let (before, after) = (find(&facts, idle.pid()), find(&facts, busy.pid()));
    assert_near("anonymous", after.anon_bytes - before.anon_bytes, 64 * MIB);
    assert_near("file", after.file_bytes - before.file_bytes, 24 * MIB);
    assert_near("shared", after.shmem_bytes - before.shmem_bytes, 16 * MIB);
    for (seen, field) in [(after.anon_bytes, "RssAnon"), (after.file_bytes, "RssFile"), (after.shmem_bytes, "RssShmem")]
    {
        assert_near(field, seen, status_bytes(busy.pid(), field));
    }
    assert_eq!(after.swap_bytes, status_bytes(busy.pid(), "VmSwap"));
}

fn names_a_process_as_proc_does(sensors: &mut Sensors) {
    let workload = touch(1, 0, 0);
    let facts = processes(sensors);
    let fact = find(&facts, workload.pid());
    let stat = fs::read_to_string(format!("/proc/{}/stat", workload.pid())).expect("the workload has a stat");
    let after_comm = stat.rsplit_once(") ").expect("the name is in brackets").1;
    // Counted from field 3, which comes first after the name: the parent is field 4, the start field 22.
    let fields: Vec<&str> = after_comm.split(' ').collect();
    assert_eq!(fact.id.start_ticks.to_string(), fields[19]);
    assert_eq!(fact.ppid.to_string(), fields[1]);
    assert_eq!(fact.ppid, std::process::id());
    assert_eq!(&*fact.comm, "workload");
}

#[test]
fn bpf_sees_what_was_touched() {
    let test = "bpf_sees_what_was_touched";
    if let Some(mut sensors) = sensors_with(Probe::ProcessMemory, test) {
        sees_what_was_touched(&mut sensors);
    }
}

#[test]
fn proc_sees_what_was_touched() {
    sees_what_was_touched(&mut Sensors::without_bpf("this test is about /proc"));
}

#[test]
fn bpf_names_a_process_as_proc_does() {
    if let Some(mut sensors) = sensors_with(Probe::ProcessMemory, "bpf_names_a_process_as_proc_does") {
        names_a_process_as_proc_does(&mut sensors);
    }
}

#[test]
fn the_fallback_names_a_process_as_proc_does() {
    names_a_process_as_proc_does(&mut Sensors::without_bpf("this test is about /proc"));
}

#[test]
fn both_ways_see_the_same_processes() {
    let test = "both_ways_see_the_same_processes";
    let Some(mut bpf) = sensors_with(Probe::ProcessMemory, test) else { return };
    let mut proc = Sensors::without_bpf("this test compares");
    let _workload = touch(1, 0, 0);
    // What comes or goes between the scans is in one of them: compare what both ends of the test agree on.
    let before = processes(&mut proc);
    let seen: HashSet<_> = processes(&mut bpf).iter().map(|fact| (fact.id, fact.cgroup.clone())).collect();
    let after: HashSet<_> = processes(&mut proc).iter().map(|fact| (fact.id, fact.cgroup.clone())).collect();
    // Some sandboxes shield their own pid 1 from ptrace and from iterators, even from root.
    let shielded = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_err();
    let stable: Vec<_> = before
        .into_iter()
        .map(|fact| (fact.id, fact.cgroup))
        .filter(|fact| after.contains(fact) && !shielded(fact.0.pid))
        .collect();
    assert!(stable.len() > 2, "a host has processes: {stable:?}");
    for process in stable {
        assert!(seen.contains(&process), "BPF does not see {process:?}");
    }
}

/// A cgroup under the memory controller that goes with the test.
struct OwnCgroup {
    directory: PathBuf,
    path: String,
}

impl OwnCgroup {
    fn make(limit_bytes: u64) -> Option<Self> {
        let (mount, file) = match Hierarchy::detect() {
            Hierarchy::V1 { mount } => (mount, "memory.limit_in_bytes"),
            Hierarchy::V2 { mount } => (mount, "memory.max"),
            Hierarchy::None => return None,
        };
        let path = format!("/spillway-test-{}", std::process::id());
        let directory = mount.join(&path[1..]);
        fs::create_dir(&directory).ok()?;
        let made = Self { directory, path };
        fs::write(made.directory.join(file), limit_bytes.to_string()).ok()?;
        Some(made)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

#[test]
fn bpf_sees_the_unified_hierarchy() {
    let test = "bpf_sees_the_unified_hierarchy";
    if sensors_with(Probe::ProcessMemory, test).is_none() {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    let Some(mount) = unified.map(|fields| PathBuf::from(fields[1])) else {
        return spillway_tests::skip(test, "no unified hierarchy is mounted");
    };
    let path = format!("/spillway-unified-{}", std::process::id());
    let directory = mount.join(&path[1..]);
    if let Err(error) = fs::create_dir(&directory) {
        return spillway_tests::skip(test, &format!("no cgroup can be made in {}: {error}", mount.display()));
    }
    let cgroup = OwnCgroup { directory, path };
    let workload = touch(1, 0, 0);
    fs::write(cgroup.directory.join("cgroup.procs"), workload.pid().to_string()).expect("the workload can be moved");
    let mut kernel = Kernel::load(&Wanted::default());
    let mut sensor = ProcessSensor::new(kernel.process_memory.take(), false, Hierarchy::V2 { mount });
    let mut facts = Vec::new();
    sensor.scan(&mut Lost::default(), |fact| facts.push(fact)).expect("the scan succeeds");
    assert_eq!(&*find(&facts, workload.pid()).cgroup, cgroup.path);
    workload.stop();
}

fn sees_cgroup_and_limit(sensors: &mut Sensors, test: &str) {
    let Some(cgroup) = OwnCgroup::make(512 * MIB) else {
        return spillway_tests::skip(test, "no cgroup with a memory limit can be made here");
    };
    let workload = touch(1, 0, 0);
    fs::write(cgroup.directory.join("cgroup.procs"), workload.pid().to_string()).expect("the workload can be moved");
    let facts = processes(sensors);
    let fact = find(&facts, workload.pid());
    assert_eq!(&*fact.cgroup, cgroup.path);
    assert_eq!(fact.memory_max_bytes, Some(512 * MIB));
    workload.stop();
}

#[test]
fn bpf_sees_cgroup_and_limit() {
    let test = "bpf_sees_cgroup_and_limit";
    if let Some(mut sensors) = sensors_with(Probe::ProcessMemory, test) {
        sees_cgroup_and_limit(&mut sensors, test);
    }
}

#[test]
fn the_fallback_sees_cgroup_and_limit() {
    let test = "the_fallback_sees_cgroup_and_limit";
    if is_root(test) {
        sees_cgroup_and_limit(&mut Sensors::without_bpf("this test is about /proc"), test);
    }
}

#[test]
fn fault_samples_stand_for_the_growth_and_keep_its_stack() {
    let test = "fault_samples_stand_for_the_growth_and_keep_its_stack";
    let Some(mut sensors) = sensors_with(Probe::FaultSamples, test) else { return };
    let workload = touch(128, 0, 0);
    let facts = processes(&mut sensors);
    let fact = find(&facts, workload.pid());
    let faulted = fact.faulted_bytes_total.expect("faults are sampled");
    let near = 96 * MIB..160 * MIB;
    assert!(near.contains(&faulted), "128 MiB were touched and the samples stand for {faulted} bytes");

    let (samples, stacks) = sensors.faults().expect("faults are sampled").of_process(workload.pid());
    assert!(samples > 300, "{samples} samples of 256 KiB each");
    let maps = fs::read_to_string(format!("/proc/{}/maps", workload.pid())).expect("the workload has maps");
    let mapped = |ip: u64| {
        maps.lines().any(|line| {
            let (range, _) = line.split_once(' ').expect("a map has a range");
            let (from, to) = range.split_once('-').expect("a range has two ends");
            let number = |text| u64::from_str_radix(text, 16).expect("an address is hexadecimal");
            line.contains("workload") && (number(from)..number(to)).contains(&ip)
        })
    };
    assert!(
        stacks.iter().any(|stack| stack.first().is_some_and(|&ip| mapped(ip))),
        "no stack leads into it: {stacks:x?}"
    );
}

#[test]
fn a_pass_over_two_thousand_processes_loses_none() {
    let test = "a_pass_over_two_thousand_processes_loses_none";
    let Some(mut sensors) = sensors_with(Probe::ProcessMemory, test) else { return };
    let sleepers = Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["sleepers", "--count=2000"]));
    let children = processes(&mut sensors).iter().filter(|fact| fact.ppid == sleepers.pid()).count();
    assert_eq!(children, 2_000);
    assert_eq!(sensors.lost().totals().map(|(_, total)| total).sum::<u64>(), 0, "{:?}", sensors.lost());
    drop(sleepers);
    let gone = spillway_tests::wait_for(Duration::from_secs(10), || {
        processes(&mut sensors).iter().all(|fact| &*fact.comm != "workload").then_some(())
    });
    assert!(gone.is_some(), "sleepers outlive their parent");
}

#[test]
fn the_host_is_read_as_proc_says() {
    let mut seen = Vec::new();
    Sensors::without_bpf("this test is about /proc").scan_processes(0.0, &mut seen);
    let Fact::Host(host) = &seen[0].fact else { panic!("a scan begins with the host: {:?}", seen[0]) };
    let memory = fs::read_to_string("/proc/meminfo").expect("meminfo can be read");
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it says MemAvailable");
    let available = available.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") * 1024;
    // Other processes go on meanwhile.
    assert!(host.mem_available_bytes.abs_diff(available) < 256 * MIB, "{host:?} against {available}");
    let psi = fs::read_to_string("/proc/pressure/memory").ok();
    assert_eq!(host.psi_memory_some_avg10.is_some(), psi.is_some());
}
