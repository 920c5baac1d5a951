//! A scan's view of the host as a whole. `src/kernel/memory.rs` checks the values of each process
//! on every kernel.

use std::{collections::HashSet, fs, process::Command, time::Duration};

use spillway_agent::{
    bpf::{LoadOptions, Loader, Probe},
    sense::{Fact, Hierarchy, LossCounters, ProcessMemorySensor, Sensors},
};
use spillway_tests::{OwnCgroup, Workload, processes, sensors_with, skip, wait_for};

#[test]
fn bpf_sees_the_unified_hierarchy() {
    let test = "bpf_sees_the_unified_hierarchy";
    if sensors_with(Probe::ProcessMemory, test).is_none() {
        return;
    }
    let unified = Hierarchy::unified();
    let Some(mount) = unified.mount() else {
        return skip(test, "no unified hierarchy is mounted");
    };
    let cgroup = match OwnCgroup::make(mount, "unified") {
        Ok(cgroup) => cgroup,
        Err(error) => return skip(test, &error.to_string()),
    };
    let workload = Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).arg("touch"));
    cgroup.set("cgroup.procs", workload.pid()).expect("the workload can be moved");
    let mut loader = Loader::load(&LoadOptions::default(), &[&ProcessMemorySensor::PROBE]);
    let mut sensor = ProcessMemorySensor::start(&mut loader, &unified);
    let mut facts = Vec::new();
    sensor.scan(&mut LossCounters::default(), |fact| facts.push(fact)).expect("the scan succeeds");
    let fact = facts
        .iter()
        .find(|fact| fact.id.pid == workload.pid())
        .expect("the scan sees the workload");
    assert_eq!(*fact.cgroup, *cgroup.path);
    workload.stop();
}

#[test]
fn scan_of_two_thousand_processes_loses_none() {
    let test = "scan_of_two_thousand_processes_loses_none";
    let Some(mut sensors) = sensors_with(Probe::ProcessMemory, test) else { return };
    let sleepers = Workload::start(
        Command::new(env!("CARGO_BIN_EXE_workload")).args(["sleepers", "--count=2000"]),
    );
    let children = processes(&mut sensors).into_iter().filter(|fact| fact.ppid == sleepers.pid());
    let names: HashSet<_> = children.map(|fact| fact.id.pid).collect();
    assert_eq!(names.len(), 2_000);
    // Their records fill the kernel's buffer more than once. A process at its end is neither lost
    // nor counted twice.
    let mut seen = Vec::new();
    sensors.scan_processes(1_000.0, &mut seen);
    let handles = seen
        .into_iter()
        .filter_map(|one| if let Fact::Handles(fact) = one.fact { Some(fact) } else { None });
    let mut held: Vec<_> =
        handles.filter(|fact| names.contains(&fact.id.pid)).map(|fact| fact.fds).collect();
    assert_eq!(held.len(), 2_000);
    held.dedup();
    assert_eq!(held.len(), 1, "identical processes have different counts: {held:?}");
    assert_eq!(
        sensors.lost().totals().map(|(_, total)| total).sum::<u64>(),
        0,
        "{:?}",
        sensors.lost()
    );
    drop(sleepers);
    let gone = wait_for(Duration::from_secs(10), || {
        processes(&mut sensors).iter().all(|fact| &*fact.comm != "workload").then_some(())
    });
    assert!(gone.is_some(), "sleepers outlived their parent");
}

#[test]
fn host_memory_matches_proc() {
    let mut seen = Vec::new();
    Sensors::without_bpf("this test is about /proc").scan_processes(0.0, &mut seen);
    let Fact::Host(host) = &seen[0].fact else {
        panic!("a scan must begin with the host: {:?}", seen[0])
    };
    let memory = fs::read_to_string("/proc/meminfo").expect("meminfo can be read");
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .expect("meminfo has MemAvailable");
    let available =
        available.trim().trim_end_matches(" kB").parse::<u64>().expect("the value is a number")
            * 1024;
    // Other processes keep running meanwhile.
    assert!(
        host.mem_available_bytes.abs_diff(available) < 256 << 20,
        "{host:?} against {available}"
    );
    let psi = fs::read_to_string("/proc/pressure/memory").ok();
    assert_eq!(host.psi_memory_some_avg10.is_some(), psi.is_some());
}
