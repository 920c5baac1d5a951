//! Live: accept queues, through BPF and through `sock_diag`, against queues of a known depth and age.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use spillway_agent::{
    kernel::Probe,
    sense::{ListenerFact, Sensors},
};
use spillway_tests::{Workload, is_root, listeners, sensors_with, wait_for};

fn listen(backlog: u32, pending: u32, more: &[&str]) -> Workload {
    let (backlog, pending) = (format!("--backlog={backlog}"), format!("--pending={pending}"));
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["listen", &backlog, &pending]).args(more))
}

fn find(facts: &[ListenerFact], addr: SocketAddr) -> &ListenerFact {
    let addr = addr.to_string();
    facts.iter().find(|fact| *fact.addr == *addr).unwrap_or_else(|| panic!("no listener {addr} in {facts:#?}"))
}

fn own_netns() -> u32 {
    fs::metadata("/proc/self/ns/net").expect("there is a network namespace").ino() as u32
}

fn sees_depth_limit_and_owner(sensors: &mut Sensors) {
    let early = listen(16, 5, &[]);
    let v6 = listen(32, 3, &["--v6"]);
    let facts = listeners(sensors, 0.0);
    for (listener, backlog, backlog_max) in [(&early, 5, 16), (&v6, 3, 32)] {
        let fact = find(&facts, listener.addr());
        assert_eq!((fact.backlog, fact.backlog_max), (backlog, backlog_max), "{fact:?}");
        assert_eq!(fact.pid, Some(listener.pid()), "{fact:?}");
        assert_eq!(fact.netns, own_netns(), "{fact:?}");
        assert_eq!(fact.overflows_total, Some(0), "{fact:?}");
    }
    let addr = v6.addr();
    v6.stop();
    let facts = listeners(sensors, 0.1);
    assert!(facts.iter().all(|fact| *fact.addr != *addr.to_string()), "a closed listener is still seen");
}

#[test]
fn bpf_sees_depth_limit_and_owner() {
    if let Some(mut sensors) = sensors_with(Probe::AcceptQueue, "bpf_sees_depth_limit_and_owner") {
        sees_depth_limit_and_owner(&mut sensors);
    }
}

#[test]
fn sock_diag_sees_depth_limit_and_owner() {
    sees_depth_limit_and_owner(&mut Sensors::without_bpf("this test is about sock_diag"));
}

#[test]
fn bpf_finds_listeners_that_were_there_before() {
    let test = "bpf_finds_listeners_that_were_there_before";
    let before = listen(8, 2, &[]);
    if let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) {
        let facts = listeners(&mut sensors, 0.0);
        let fact = find(&facts, before.addr());
        assert_eq!((fact.backlog, fact.pid), (2, Some(before.pid())));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the test's own clock is the truth that the age is held against")]
fn the_age_of_the_head_is_true_to_a_jiffy() {
    let test = "the_age_of_the_head_is_true_to_a_jiffy";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    // The sensor measures how long a jiffy is between its first look and the next.
    let early = listen(8, 1, &[]);
    listeners(&mut sensors, 0.0);
    sleep(Duration::from_secs(1));
    let asked = Instant::now();
    let queue = listen(8, 3, &[]);
    let ready = Instant::now();
    for _ in 0..3 {
        sleep(Duration::from_millis(300));
        let oldest = ready.elapsed();
        let facts = listeners(&mut sensors, 1.0);
        let newest = asked.elapsed();
        let fact = find(&facts, queue.addr());
        let seen = Duration::from_micros(fact.oldest_wait_us.expect("the head's age is seen"));
        // Two jiffies of the slowest clock (100 a second) either way.
        let slack = Duration::from_millis(20);
        assert!(seen + slack >= oldest && seen <= newest + slack, "{oldest:?} <= {seen:?} <= {newest:?}");
    }
    drop(early);
}

#[test]
fn a_restarted_server_is_named_by_its_new_pid() {
    let test = "a_restarted_server_is_named_by_its_new_pid";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let serve = |addr: &str| {
        Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["stuck-server", "--addr", addr]))
    };
    let addr = serve("127.0.0.1:0").addr();
    // The kernel likes to put the new socket where the old one was; owners are looked up only every ten seconds.
    for restart in 0..20 {
        let server = serve(&addr.to_string());
        let facts = listeners(&mut sensors, f64::from(restart) / 10.0);
        assert_eq!(find(&facts, addr).pid, Some(server.pid()), "restart {restart}");
    }
}

#[test]
fn an_empty_queue_has_no_age() {
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, "an_empty_queue_has_no_age") else { return };
    let queue = listen(8, 0, &[]);
    let facts = listeners(&mut sensors, 0.0);
    assert_eq!(find(&facts, queue.addr()).oldest_wait_us, Some(0));
}

fn sees_other_namespaces(sensors: &mut Sensors) {
    let script =
        format!("ip link set lo up && exec {} listen --backlog=16 --pending=4", env!("CARGO_BIN_EXE_workload"));
    let inside = Workload::start(Command::new("unshare").args(["--net", "sh", "-c", &script]));
    let facts = listeners(sensors, 0.0);
    let fact = find(&facts, inside.addr());
    let netns = fs::metadata(format!("/proc/{}/ns/net", inside.pid())).expect("it has a namespace").ino() as u32;
    assert_ne!(netns, own_netns());
    assert_eq!((fact.netns, fact.backlog, fact.backlog_max, fact.pid), (netns, 4, 16, Some(inside.pid())));
}

#[test]
fn bpf_sees_other_network_namespaces() {
    let test = "bpf_sees_other_network_namespaces";
    if !is_root(test) {
        return;
    }
    if let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) {
        sees_other_namespaces(&mut sensors);
    }
}

#[test]
fn sock_diag_sees_other_network_namespaces() {
    if is_root("sock_diag_sees_other_network_namespaces") {
        sees_other_namespaces(&mut Sensors::without_bpf("this test is about sock_diag"));
    }
}

fn counts_overflows(sensors: &mut Sensors) {
    // A limit of 2 lets 3 wait; the other clients' handshakes are dropped.
    let full = listen(2, 8, &[]);
    let overflowed = wait_for(Duration::from_secs(5), || {
        let facts = listeners(sensors, 0.0);
        let fact = find(&facts, full.addr());
        assert_eq!((fact.backlog, fact.backlog_max), (3, 2));
        fact.overflows_total.filter(|&total| total > 0)
    });
    assert!(overflowed.is_some(), "no overflow was counted");
}

#[test]
fn bpf_counts_overflows() {
    if let Some(mut sensors) = sensors_with(Probe::AcceptQueue, "bpf_counts_overflows") {
        counts_overflows(&mut sensors);
    }
}

#[test]
fn sock_diag_counts_overflows() {
    counts_overflows(&mut Sensors::without_bpf("this test is about sock_diag"));
}

#[test]
fn a_full_map_of_listeners_is_counted() {
    let test = "a_full_map_of_listeners_is_counted";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    // The map has room for 8,192.
    let mut many = Command::new(env!("CARGO_BIN_EXE_workload"));
    let many = Workload::start(many.args(["listeners", "--count=8300"]));
    let seen = listeners(&mut sensors, 0.0).len();
    let lost = sensors.lost().totals().find(|&(what, _)| what == "listener_map_full").map_or(0, |(_, total)| total);
    assert_eq!(seen, 8_192);
    assert!(lost >= 108, "{lost} of at least 108 were counted");
    many.stop();
    assert!(listeners(&mut sensors, 0.1).len() < 8_192, "closed listeners leave the map");
}
