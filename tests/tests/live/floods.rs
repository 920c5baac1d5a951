//! The installed agent under more load than it has room for: process events that are not read,
//! listeners beyond the map, and tens of thousands of short-lived processes. It counts its losses,
//! logs them once, and keeps running.

use std::{process::Command, thread, time::Duration};

use spillway_agent::bpf::Probe;
use spillway_tests::{
    ANY_PORT, Running, Scratch, Workload, field_bytes, metric, run_with, sensors_with, wait_for,
    warnings,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Time for scans of many new listeners. A scan of thousands takes some 0.3 s, more on a busy
/// machine, and after two of them the agent rests for twenty times as long.
const PATIENCE_FOR_LISTENERS: Duration = Duration::from_secs(60);

/// Time for memory to be given back: the agent remembers closed listeners for half a minute.
const PATIENCE_FOR_MEMORY: Duration = Duration::from_secs(80);

/// Starts an agent that is healthy and has no losses yet. Returns `None` and reports a skip if the
/// tested probe does not attach.
fn agent_with(probe: Probe, test: &str) -> Option<(Scratch, Running)> {
    drop(sensors_with(probe, test)?);
    let scratch = Scratch::make(test);
    let running = Running::start(run_with(&scratch.file("spillway.toml", ANY_PORT)));
    let scanned = wait_for(PATIENCE, || {
        running.get("/metrics").contains("spillway_lost_total{").then_some(())
    });
    assert!(scanned.is_some() && running.is_well(), "{}", running.log());
    Some((scratch, running))
}

fn workload(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(args))
}

/// Starts and ends `count` processes, one after the other.
fn churn(count: u32) {
    let mut churn = workload(&["churn", &format!("--count={count}")]);
    churn.until_done();
}

/// Process events that were read, and those counted as lost.
fn read_and_lost(running: &Running) -> (f64, f64) {
    let metrics = running.get("/metrics");
    let read = ["births", "deaths"]
        .map(|what| metric(&metrics, &format!("spillway_process_{what}_total")));
    (read.iter().sum(), lost(&metrics, "life_ring_full"))
}

fn lost(metrics: &str, what: &str) -> f64 {
    metric(metrics, &format!("spillway_lost_total{{what=\"{what}\"}}"))
}

/// Checks that a single line of the log says this, however often it happened, and that the agent is
/// healthy and stops on request. Other events on the host may have other lines.
fn assert_logged_once(running: Running, text: &str) {
    assert!(wait_for(PATIENCE, || running.is_well().then_some(())).is_some(), "{}", running.log());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(warnings(&log).iter().filter(|line| line.contains(text)).count(), 1, "{log}");
}

#[test]
fn overflowing_ring_is_counted_and_logged_once() {
    let Some((_scratch, running)) =
        agent_with(Probe::ProcessLife, "overflowing_ring_is_counted_and_logged_once")
    else {
        return;
    };
    // Twice, to catch a line that is logged each time. The ring holds some 10,900 process events.
    for turn in 1..=2 {
        let (read, lost) = read_and_lost(&running);
        running.signal(libc::SIGSTOP);
        churn(7_500);
        running.signal(libc::SIGCONT);
        let counted = wait_for(PATIENCE, || {
            let (read_now, lost_now) = read_and_lost(&running);
            (lost_now > lost && read_now - read + lost_now - lost >= 15_000.0).then_some(())
        });
        assert!(
            counted.is_some(),
            "turn {turn}: of ({read}, {lost}) became {:?}",
            read_and_lost(&running)
        );
    }
    let (read, lost) = read_and_lost(&running);
    churn(500);
    let counted =
        wait_for(PATIENCE, || (read_and_lost(&running).0 >= read + 1_000.0).then_some(()));
    assert!(counted.is_some(), "later events are missing");
    assert_eq!(read_and_lost(&running).1, lost, "later events were lost");
    assert_logged_once(running, "what=\"life_ring_full\"");
}

#[test]
fn listeners_beyond_the_map_are_counted_and_logged_once() {
    let test = "listeners_beyond_the_map_are_counted_and_logged_once";
    let Some((_scratch, running)) = agent_with(Probe::AcceptQueue, test) else { return };
    // The map has room for 8,192.
    let many = workload(&["listeners", "--count=8300"]);
    let counted = wait_for(PATIENCE_FOR_LISTENERS, || {
        let metrics = running.get("/metrics");
        (lost(&metrics, "listener_map_full") >= 108.0
            && metric(&metrics, "spillway_listeners") >= 8_192.0)
            .then_some(())
    });
    assert!(counted.is_some(), "{}", running.get("/metrics"));
    assert!(running.is_well());
    many.stop();
    let seen = || metric(&running.get("/metrics"), "spillway_listeners");
    assert!(
        wait_for(PATIENCE_FOR_LISTENERS, || (seen() < 8_192.0).then_some(())).is_some(),
        "closed listeners stay in the map"
    );
    assert_logged_once(running, "what=\"listener_map_full\"");
}

#[test]
fn listeners_beyond_the_engine_are_counted_and_logged_once() {
    let scratch = Scratch::make("listeners_beyond_the_engine_are_counted_and_logged_once");
    let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
    // sock_diag has no map that would fill up first.
    command.arg("--no-bpf");
    let running = Running::start(command);
    let _many = workload(&["listeners", "--count=16500"]);
    let counted = wait_for(PATIENCE_FOR_LISTENERS, || {
        (metric(&running.get("/metrics"), "spillway_untracked_total") >= 116.0).then_some(())
    });
    assert!(counted.is_some(), "{}", running.get("/metrics"));
    assert_logged_once(running, "too many processes or listeners to track");
}

fn resident_bytes(running: &Running) -> u64 {
    field_bytes(running.pid(), "status", "VmRSS").expect("the agent runs")
}

#[test]
fn fifty_thousand_processes_are_counted_without_growth() {
    let test = "fifty_thousand_processes_are_counted_without_growth";
    let Some((_scratch, running)) = agent_with(Probe::ProcessLife, test) else { return };
    // Lets buffers reach their final size, which is not a leak.
    churn(2_000);
    let (read, lost) = read_and_lost(&running);
    let resident = resident_bytes(&running);
    let churning = thread::spawn(|| churn(50_000));
    let done = wait_for(Duration::from_secs(60), || {
        assert!(running.is_well(), "{}", running.get("/healthz"));
        churning.is_finished().then_some(())
    });
    assert!(done.is_some(), "50,000 processes take more than a minute here");
    churning.join().expect("the workload ends");
    let counted = wait_for(PATIENCE, || {
        let (read_now, lost_now) = read_and_lost(&running);
        (read_now - read + lost_now - lost >= 100_000.0).then_some(lost_now - lost)
    });
    let lost = counted
        .unwrap_or_else(|| panic!("of ({read}, {lost}) became {:?}", read_and_lost(&running)));
    let grown = resident_bytes(&running).saturating_sub(resident);
    assert!(grown < 4 << 20, "the agent grew by {grown} bytes");
    assert!(running.is_well());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    let said = warnings(&log).iter().filter(|line| line.contains("life_ring_full")).count();
    assert_eq!(said, usize::from(lost > 0.0), "{log}");
}

/// Starts a few and then many of what a workload makes, and checks that the agent takes no more
/// memory after them than before. `counted` is the metric that says how many the agent sees.
fn assert_given_back(running: Running, workload_name: &str, many: u32, counted: &str) {
    let seen = || metric(&running.get("/metrics"), counted);
    let start = |count: u32| workload(&[workload_name, &format!("--count={count}")]);
    let count = |least: u32| {
        let is_there = || (seen() >= f64::from(least)).then_some(());
        assert!(wait_for(PATIENCE_FOR_LISTENERS, is_there).is_some(), "{}", running.log());
    };
    // A first, smaller flood lets buffers reach their usual size.
    let few = start(200);
    count(200);
    few.stop();
    let resident = resident_bytes(&running);
    let flood = start(many);
    count(many);
    thread::sleep(Duration::from_secs(2));
    let most = resident_bytes(&running);
    flood.stop();
    // What ended is forgotten after a while, and memory is given back in steps.
    let left = wait_for(PATIENCE_FOR_MEMORY, || {
        (resident_bytes(&running) < resident + (2 << 20)).then_some(())
    });
    let now = resident_bytes(&running);
    let sizes = format!("{resident} bytes before, {most} with {many} {workload_name}, {now} after");
    println!("resident memory: {sizes}");
    assert!(left.is_some(), "{sizes}");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn memory_of_many_processes_is_given_back() {
    let test = "memory_of_many_processes_is_given_back";
    let Some((_scratch, running)) = agent_with(Probe::ProcessMemory, test) else { return };
    assert_given_back(running, "sleepers", 5_000, "spillway_processes");
}

#[test]
fn memory_of_many_listeners_is_given_back() {
    let test = "memory_of_many_listeners_is_given_back";
    let Some((_scratch, running)) = agent_with(Probe::AcceptQueue, test) else { return };
    assert_given_back(running, "listeners", 8_000, "spillway_listeners");
}
