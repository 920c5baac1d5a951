//! A node is drained before it fails, behind Debian's HAProxy with the files of `configs/haproxy/`.
//!
//! All nodes are on one host here, and the agent watches that host. One backend leaks in a cgroup
//! in which it will be killed. Only its server in HAProxy's configuration has an agent that
//! answers.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread::{self, sleep},
    time::Duration,
};

use serde_json::Value;
use spillway_agent::sense::{EstablishedConnections, Hierarchy, Sensors, SocketList};
use spillway_tests::{
    ANY_PORT, OwnCgroup, Running, Scratch, Servers, Workload, agent,
    drain_live::{
        Balancer, NodeAgent, Ran, SOON, Served, backend, free_addr, leaking, quick, two_nodes,
    },
    is_root, metric, now, own_network,
    receiver::{Form, Receiver},
    run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;
/// HAProxy's check interval.
const INTERVAL: Duration = Duration::from_secs(1);
/// Service time of a request in tests that do not depend on it.
const SERVICE: Duration = Duration::from_millis(20);

fn start(config: &Path) -> Running {
    let mut command = run_with(config);
    command.arg("--json");
    Running::start(command)
}

/// Runs `spillway` with these words and this configuration. A drain fails in so far as no balancer
/// has asked yet.
fn spillway(words: &[&str], config: &Path) {
    let output = agent().args(words).arg("--config").arg(config).output().expect("the agent runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || told.contains("nobody is known to hear of it"),
        "{output:?}"
    );
}

fn outcome(agent: &Running, name: &str) -> Option<Value> {
    agent.line_of("outcome", name, "node")
}

#[test]
fn leaking_node_is_drained_before_a_request_fails() {
    const TEST: &str = "drain-leak";
    if !is_root(TEST) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let run = |with_agent: bool| -> Ran {
        let name = format!("{TEST}-{with_agent}");
        let never = AtomicBool::new(false);
        let ran = leaking(&servers, &name, with_agent, &never, |at, happened| {
            println!("{at:5.1} s  {happened:?}")
        });
        let ran = ran.expect("the scenario runs").expect("the scenario is not cancelled");
        println!("with the agent: {with_agent}: {:.3} % succeeded: {ran:?}", ran.share() * 100.0);
        ran
    };
    let without = run(false);
    // A dying backend loses its current requests: two or three in a thousand of these seconds'
    // requests.
    assert!(
        without.died_at_secs.is_some() && without.share() < 0.999,
        "too few requests failed without the agent: {without:?}"
    );
    let with = run(true);
    assert!(with.drained_at_secs.is_some(), "the node was not drained: {with:?}");
    assert!(with.died_at_secs.is_none() && with.failed == 0 && with.share() >= 0.999, "{with:?}");
}

/// Time for which two nodes are loaded, unless `SPILLWAY_TWO_NODES_SECS` says otherwise.
const TWO_NODES_SECS: u64 = 60;

#[test]
fn two_nodes_overloaded_in_turn_serve_as_much_with_agents() {
    const TEST: &str = "drain-two-nodes";
    if !is_root(TEST) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let secs = env::var("SPILLWAY_TWO_NODES_SECS")
        .ok()
        .and_then(|secs| secs.parse().ok())
        .unwrap_or(TWO_NODES_SECS);
    // All runs at the same time, in their own namespaces: they mostly wait and hardly compute.
    let run = |agent: NodeAgent| {
        let name = format!("{TEST}-{agent:?}");
        let served = two_nodes(&servers, &name, agent, Duration::from_secs(secs));
        let share = served.as_ref().map(|served| served.share() * 100.0);
        println!("agent {agent:?}: {share:.2?} % succeeded: {served:?}");
        served
    };
    let runs = [NodeAgent::None, NodeAgent::Weighs, NodeAgent::Sheds];
    let served: Result<Vec<Served>, String> = thread::scope(|scope| {
        let threads = runs.map(|agent| scope.spawn(move || run(agent)));
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let served = match served {
        Ok(served) => served,
        Err(reason) => return skip(TEST, &reason),
    };
    let [without, weighs, sheds] = &served[..] else { unreachable!("there are three runs") };
    for with in [weighs, sheds] {
        assert!(!with.left_rotation, "a node left rotation for an overload: {with:?}");
        assert!(with.lowest_weights.iter().all(|weight| (50..=100).contains(weight)), "{with:?}");
        // The runs differ in the timing of their requests: half a percent is noise.
        assert!(
            with.share() >= without.share() - 0.005 && with.server_errors <= without.server_errors,
            "the agent made it worse: {with:?}, without {without:?}"
        );
    }
}

#[test]
fn haproxy_follows_the_override_after_a_restart() {
    const TEST: &str = "drain-word";
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let scratch = Scratch::make(TEST);
    let backends =
        [backend(SERVICE, "0", None), backend(SERVICE, "0", None), backend(SERVICE, "0", None)];
    let agent_check = free_addr();
    // An operator's command takes effect in both modes.
    let config = quick(&scratch, "observe", agent_check);
    let agent = start(&config);
    let nodes = [backends[0].addr(), backends[1].addr(), backends[2].addr()];
    let balancer = Balancer::start(&servers, &scratch, "agent-check.cfg", nodes, agent_check);
    let by_ready = Scratch::make("drain-ready");
    let asked = agent.address();
    let health = Balancer::start(&servers, &by_ready, "ready.cfg", nodes, asked);
    balancer.until("web-1", "UP");
    health.until("web-1", "UP");

    spillway(&["drain"], &config);
    let took = balancer.until("web-1", "DRAIN");
    health.until("web-1", "DOWN");
    println!("drained within {took:?}");
    assert!(agent.get("/ready").starts_with("HTTP/1.1 503"));
    assert!(agent.is_well(), "a drained node is unhealthy");
    assert_eq!(
        balancer.shows("web-2", "status").as_deref(),
        Some("UP"),
        "a node without an agent changed"
    );
    sleep(INTERVAL);
    let before = balancer.shows("web-1", "stot");
    for _ in 0..20 {
        spillway_tests::http_get(balancer.addr, "/").expect("a backend answers");
    }
    assert_eq!(balancer.shows("web-1", "stot"), before, "a drained node got a request");

    // After the agent is killed, HAProxy keeps the last state, and the next agent reports the same.
    drop(agent);
    sleep(2 * INTERVAL);
    assert_eq!(balancer.shows("web-1", "status").as_deref(), Some("DRAIN (agent)"));
    let agent = start(&config);
    let agent_line = || {
        let mut line = String::new();
        TcpStream::connect(agent_check)
            .and_then(|mut stream| stream.read_to_string(&mut line))
            .expect("the agent check answers");
        line
    };
    assert_eq!(agent_line(), "drain\n", "the first answer of a restarted agent");
    // More connections than it keeps at once.
    let silent: Vec<_> = (0..70)
        .map(|_| TcpStream::connect(agent_check).expect("the agent check listens"))
        .collect();
    assert_eq!(agent_line(), "drain\n", "with idle connections");
    drop(silent);

    spillway(&["drain", "--maintenance"], &config);
    balancer.until("web-1", "MAINT");
    spillway(&["undrain"], &config);
    balancer.until("web-1", "UP");
    spillway(&["drain"], &config);
    balancer.until("web-1", "DRAIN");
    spillway(&["resume"], &config);
    balancer.until("web-1", "UP");
    agent.stop();
}

#[test]
fn node_near_exhaustion_lowers_its_weight_and_stays_up() {
    const TEST: &str = "drain-weight";
    if !is_root(TEST) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let scratch = Scratch::make(TEST);
    let hierarchy = Hierarchy::detect();
    let cgroup = OwnCgroup::make(hierarchy.mount().expect("cgroups are mounted"), TEST)
        .expect("a cgroup can be created");
    let file = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    cgroup.set(file, 256 * MIB).expect("the limit can be set");
    let backends =
        [backend(SERVICE, "0", None), backend(SERVICE, "0", None), backend(SERVICE, "0", None)];
    let agent_check = free_addr();
    let config = quick(&scratch, "enforce", agent_check);
    // Exhaustion in half a minute halves the weight and does not drain.
    let text = fs::read_to_string(&config).expect("the configuration can be read");
    let text =
        text.replace("[decide]\n", "[decide]\nlimit_within = \"1m\"\ndrain_within = \"1s\"\n");
    fs::write(&config, text).expect("the configuration can be written");
    let agent = start(&config);
    let nodes = [backends[0].addr(), backends[1].addr(), backends[2].addr()];
    let balancer = Balancer::start(&servers, &scratch, "agent-check.cfg", nodes, agent_check);
    balancer.until("web-1", "UP");
    let weight = |server: &str| {
        balancer.shows(server, "weight").and_then(|weight| weight.parse::<u32>().ok())
    };
    let full_weight = wait_for(SOON, || weight("web-1").filter(|weight| *weight == 100));
    assert!(full_weight.is_some(), "{:?}", weight("web-1"));
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    leak.args(["leak", "--rate", "8MiB", "--limit", "200MiB"]);
    cgroup.admit(&mut leak).expect("the process can join the cgroup");
    let leak = Workload::start(&mut leak);
    let fallen = wait_for(2 * SOON, || weight("web-1").filter(|weight| *weight < 100));
    println!("weight of web-1: {fallen:?}");
    assert!(fallen.is_some_and(|weight| (10..=90).contains(&weight)), "{fallen:?}");
    assert_eq!(balancer.shows("web-1", "status").as_deref(), Some("UP"));
    assert_eq!(weight("web-2"), Some(100));
    leak.stop();
    agent.stop();
}

#[test]
fn second_agent_takes_over_when_the_first_is_killed() {
    const TEST: &str = "drain-two";
    let (scratch, receiver) = (Scratch::make(TEST), Receiver::start(Form::Webhook));
    let keys = scratch.secret("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let config = scratch.file(
        "spillway.toml",
        &format!(
            "{ANY_PORT}[act.drain]\nurl = \"{}\"\nsecret_file = \"{}\"\ndwell \
            = \"1s\"\ndrained_within = \"1s\"\nverify = \"1s\"\n\
             [record]\nstate_dir = \"{}\"\n",
            receiver.url("/drains"),
            keys.display(),
            scratch.0.join("state").display()
        ),
    );
    // systemd creates it before it starts the agent.
    fs::create_dir(scratch.0.join("state")).expect("the directory can be created");
    let (first, second) = (start(&config), start(&config));
    assert!(
        second.log().contains("this agent does not drain until the other one ends"),
        "{}",
        second.log()
    );
    let until = |agent: &Running, state: &str, ready: &str| {
        let is_there = || {
            let metrics = agent.get("/metrics");
            let is_state =
                metric(&metrics, &format!("spillway_drain_state{{state=\"{state}\"}}")) == 1.0;
            (is_state && agent.get("/ready").starts_with(ready)).then_some(metrics)
        };
        let metrics =
            wait_for(SOON, is_there).unwrap_or_else(|| panic!("not {state}: {}", agent.log()));
        let states = metrics
            .lines()
            .filter(|line| line.starts_with("spillway_drain_state{") && line.ends_with(" 1"));
        assert_eq!(states.count(), 1, "a node has one state");
    };
    for agent in [&first, &second] {
        until(agent, "healthy", "HTTP/1.1 200");
    }
    spillway(&["drain"], &config);
    for agent in [&first, &second] {
        until(agent, "drained", "HTTP/1.1 503");
    }
    assert_eq!(receiver.calls().len(), 1, "{:?}", receiver.calls());
    first.signal(libc::SIGKILL);
    drop(first);
    assert!(
        wait_for(SOON, || second.log().contains("no other agent drains any more").then_some(()))
            .is_some()
    );
    spillway(&["undrain"], &config);
    until(&second, "healthy", "HTTP/1.1 200");
    assert_eq!(receiver.calls().len(), 2, "{:?}", receiver.calls());
    second.stop();
}

#[test]
fn connections_are_counted_by_listener_in_every_namespace() {
    if is_root("connections_are_counted_by_listener_in_every_namespace") {
        counts_by_listener(None);
    }
}

/// The agent counts like this too: it enters no namespace.
#[test]
fn connections_listed_by_bpf_are_counted_alike() {
    let test = "connections_listed_by_bpf_are_counted_alike";
    if !is_root(test) {
        return;
    }
    let sensors = Sensors::start();
    match sensors.socket_list() {
        Some(list) => counts_by_listener(Some(&list)),
        None => skip(test, "BPF lists no sockets"),
    }
}

fn counts_by_listener(list: Option<&Arc<SocketList>>) {
    let counted_of = |pid: u32| {
        let mut in_flight = EstablishedConnections::new(Hierarchy::detect(), list.cloned());
        in_flight
            .count(0.0, |owner| owner.is_some_and(|(owner, _)| owner == pid))
            .expect("connections can be counted")
    };
    let count = |wanted: u64, pid: u32| {
        let counted = wait_for(SOON, || (counted_of(pid) == wanted).then_some(()));
        assert!(counted.is_some(), "{} and not {wanted}", counted_of(pid));
    };
    let here = backend(SERVICE, "0", None);
    count(0, here.pid());
    // Accepted or not: sixteen threads accept one connection each.
    let held: Vec<_> =
        (0..20).map(|_| TcpStream::connect(here.addr()).expect("the backend listens")).collect();
    assert_eq!(counted_of(here.pid()), 20);
    drop(held);
    count(0, here.pid());

    // The namespace's server ends with the thread that started it.
    let (sender, receiver) = mpsc::channel();
    let (ends, end) = mpsc::channel::<()>();
    let elsewhere = thread::spawn(move || {
        own_network().expect("root can create a network namespace");
        let there = backend(SERVICE, "0", None);
        let held = [(); 3].map(|()| TcpStream::connect(there.addr()).expect("the backend listens"));
        sender.send((there.pid(), held)).expect("the test waits");
        let _ = end.recv();
    });
    let (pid, held) = receiver.recv().expect("the thread sends");
    assert_eq!(counted_of(pid), 3);
    drop(held);
    count(0, pid);
    drop(ends);
    elsewhere.join().expect("the thread does not panic");
}

#[test]
fn node_that_still_serves_is_drained_only_after_a_timeout() {
    const TEST: &str = "drain-in-flight";
    if !is_root(TEST) {
        return;
    }
    let scratch = Scratch::make(TEST);
    // Outside protected cgroups such as the operator's own.
    let hierarchy = Hierarchy::detect();
    let cgroup = OwnCgroup::make(hierarchy.mount().expect("cgroups are mounted"), TEST)
        .expect("a cgroup can be created");
    let backend = backend(SERVICE, "0", Some(&cgroup));
    let config = quick(&scratch, "observe", free_addr());
    let agent = start(&config);
    // A client so slow that its request is always in progress.
    let mut held = TcpStream::connect(backend.addr()).expect("the backend listens");
    let keep_alive = thread::spawn(move || {
        for _ in 0..200 {
            if held.write_all(b"G").is_err() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
    });
    spillway(&["drain"], &config);
    assert!(wait_for(SOON, || outcome(&agent, "draining")).is_some());
    let begun = now();
    let drained =
        wait_for(SOON, || outcome(&agent, "drained")).expect("the node is drained in the end");
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}: {drained}", begun.elapsed());
    let why = drained["why"].as_str().unwrap_or_default();
    assert!(why.contains("in flight, and the drain no longer waits for"), "{why}");
    agent.stop();
    drop(backend);
    keep_alive.join().expect("the thread does not panic");
}
