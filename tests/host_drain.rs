//! Live: a node is drained before it fails, with Debian's HAProxy in front of it, by the files of `configs/haproxy/`.
//!
//! All nodes are one host here, and the agent watches that host. One backend leaks in a cgroup in which it will be killed; its line in
//! HAProxy's configuration is the one whose agent answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::Value;
use spillway_agent::sense::{Hierarchy, InFlight};
use spillway_tests::{
    ANY_PORT, OwnCgroup, Program, Running, Scratch, Servers, Workload, agent, is_root, metric, now, own_network,
    receiver::{Form, Receiver},
    run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;
/// What the leaking backend may use before it is killed.
const LIMIT_BYTES: u64 = 128 * MIB;
/// How long wrk asks. Without an agent the leaker is killed some 20 s in.
const LOAD_SECS: u32 = 40;
const CONNECTIONS: u32 = 8;
/// HAProxy asks once a second.
const INTERVAL: Duration = Duration::from_secs(1);
/// What is due within an interval is there by then on a busy machine too.
const SOON: Duration = Duration::from_secs(15);

/// An address that nobody listens on.
fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    listener.local_addr().expect("it has an address")
}

/// HAProxy by a file of `configs/haproxy/`, with the addresses of this stage.
struct Balancer {
    _haproxy: Program,
    addr: SocketAddr,
    socket: PathBuf,
}

impl Balancer {
    fn start(servers: &Servers, scratch: &Scratch, file: &str, nodes: [SocketAddr; 3], agent: SocketAddr) -> Self {
        let (addr, socket, dead) = (free_addr(), scratch.0.join("admin.sock"), free_addr());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/haproxy").join(file);
        assert_eq!(servers.haproxy_objects_to(&shipped), "", "{file}");
        let mut text = fs::read_to_string(shipped).expect("it is shipped");
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} is in {file}");
            text = text.replace(from, to);
        };
        replace("10.0.0.10:80\n", &format!("{addr}\n"));
        replace("/run/haproxy/admin.sock", &socket.display().to_string());
        for (nth, node) in nodes.iter().enumerate() {
            let own = format!("10.0.0.1{}", nth + 1);
            replace(&format!("{own}:8080"), &node.to_string());
            match file {
                // The others have no agent, which changes nothing.
                "agent-check.cfg" => {
                    let port = if nth == 0 { agent.port() } else { dead.port() };
                    replace(
                        &format!("agent-addr {own} agent-port 9647"),
                        &format!("agent-addr 127.0.0.1 agent-port {port}"),
                    );
                }
                _ => replace(&format!("addr {own}"), "addr 127.0.0.1"),
            }
        }
        if file == "ready.cfg" {
            replace("port 9646", &format!("port {}", agent.port()));
        }
        let config = scratch.file(file, &text);
        Self { _haproxy: servers.haproxy_with(&config, addr), addr, socket }
    }

    /// What HAProxy has of a server, by the name of the column.
    fn shows(&self, server: &str, column: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"show stat\n").ok()?;
        let mut table = String::new();
        stream.read_to_string(&mut table).ok()?;
        let mut lines = table.lines();
        let at = lines.next()?.trim_start_matches("# ").split(',').position(|name| name == column)?;
        let row = lines.find(|line| line.starts_with(&format!("nodes,{server},")))?;
        row.split(',').nth(at).map(str::to_owned)
    }

    /// Waits until a server is shown as `status`; gives how long that took.
    fn until(&self, server: &str, status: &str) -> Duration {
        let begun = now();
        let shown = wait_for(SOON, || self.shows(server, "status").filter(|shown| shown.starts_with(status)));
        assert!(shown.is_some(), "{server} is {:?} and not {status}", self.shows(server, "status"));
        begun.elapsed()
    }
}

fn workload() -> Command {
    Command::new(env!("CARGO_BIN_EXE_workload"))
}

fn backend(leak: &str, cgroup: Option<&OwnCgroup>) -> Workload {
    let mut command = workload();
    command.args(["--name", "backend", "serve", "--threads", "16", "--service", "20ms", "--leak", leak]);
    if let Some(cgroup) = cgroup {
        cgroup.admit(&mut command).expect("it may be entered");
    }
    Workload::start(&mut command)
}

/// A configuration that judges within seconds and drains, and waits for connections of others on this machine as briefly.
fn quick(scratch: &Scratch, mode: &str, agent_check: SocketAddr) -> PathBuf {
    scratch.file(
        "spillway.toml",
        &format!(
            "mode = \"{mode}\"\n[serve]\nlisten = \"127.0.0.1:0\"\n[sense]\ninterval = \"100ms\"\n[detect.leak]\n\
             warm_up = \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"8MiB\"\n\
             [act.limit]\nenabled = false\n[act.drain]\ndwell = \"1s\"\ndrained_within = \"6s\"\n\
             verify = \"2s\"\n\
             [act.drain.agent_check]\nlisten = \"{agent_check}\"\n[record]\nstate_dir = \"{}\"\n",
            scratch.0.join("state").display()
        ),
    )
}

fn start(config: &Path) -> Running {
    let mut command = run_with(config);
    command.arg("--json");
    Running::start(command)
}

/// `spillway WORD` with this configuration.
fn say(words: &[&str], config: &Path) {
    let output = agent().args(words).arg("--config").arg(config).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

fn outcome(agent: &Running, name: &str) -> Option<Value> {
    agent.line_of("outcome", name, "node")
}

/// What came of a load.
#[derive(Debug)]
struct Served {
    requests: u64,
    failed: u64,
}

impl Served {
    fn read(said: &str) -> Self {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let requests = said.lines().find_map(|line| number(line.split(" requests in ").next()?));
        let non_2xx = said.lines().find_map(|line| number(line.split("Non-2xx or 3xx responses:").nth(1)?));
        let errors = said.lines().find_map(|line| line.split("Socket errors:").nth(1));
        let errors =
            errors.map_or(0, |line| line.split(',').filter_map(|part| number(part.split_whitespace().last()?)).sum());
        let requests = requests.unwrap_or_else(|| panic!("wrk gave no count: {said}"));
        Self { requests, failed: non_2xx.unwrap_or(0) + errors }
    }

    fn share(&self) -> f64 {
        1.0 - self.failed as f64 / (self.requests as f64).max(1.0)
    }
}

/// Three backends under load, of which the first leaks until it is killed. Gives what wrk saw, when the node was drained after the load
/// began, and whether the leaker lives.
fn leaking_run(servers: &Servers, test: &str, with_agent: bool) -> (Served, Option<Duration>, bool) {
    let scratch = Scratch::make(&format!("{test}-{with_agent}"));
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().expect("cgroups are mounted");
    let cgroup = OwnCgroup::make(mount, test).expect("a cgroup can be made");
    let file = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    cgroup.set(file, LIMIT_BYTES).expect("it takes a limit");
    let mut leaker = backend("48KiB", Some(&cgroup));
    let others = [backend("0", None), backend("0", None)];
    let agent_check = free_addr();
    let config = quick(&scratch, "enforce", agent_check);
    let agent = with_agent.then(|| start(&config));
    let nodes = [leaker.addr(), others[0].addr(), others[1].addr()];
    let balancer = Balancer::start(servers, &scratch, "agent-check.cfg", nodes, agent_check);
    for server in ["web-1", "web-2", "web-3"] {
        balancer.until(server, "UP");
    }
    let mut wrk = servers.wrk(balancer.addr, CONNECTIONS, LOAD_SECS);
    let begun: Instant = now();
    let wrk = wrk.stdout(Stdio::piped()).spawn().expect("wrk runs");
    let drained = agent.as_ref().and_then(|agent| {
        let limit = Duration::from_secs(LOAD_SECS.into());
        wait_for(limit, || outcome(agent, "draining").map(|_| begun.elapsed()))
    });
    if let Some(at) = drained {
        balancer.until("web-1", "DRAIN");
        let why = agent.as_ref().and_then(|agent| outcome(agent, "drain_requested"));
        println!("drained after {:.1} s: {}", at.as_secs_f64(), why.map_or(Value::Null, |line| line["why"].clone()));
    }
    let output = wrk.wait_with_output().expect("wrk ends");
    let served = Served::read(&String::from_utf8_lossy(&output.stdout));
    if let Some(agent) = agent {
        println!("node: {}", agent.get("/ready").lines().last().unwrap_or_default());
        let drained = outcome(&agent, "drained").map(|line| line["why"].clone());
        println!("then: {}", drained.unwrap_or(Value::Null));
        agent.stop();
    }
    let lives = leaker.is_running();
    (served, drained, lives)
}

#[test]
fn a_node_that_leaks_is_drained_before_a_request_fails_and_without_the_agent_requests_fail() {
    const TEST: &str = "drain-leak";
    if !is_root(TEST) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let (without, _, lives) = leaking_run(&servers, TEST, false);
    println!("without: {} of {} failed, {:.4} % succeeded", without.failed, without.requests, without.share() * 100.0);
    assert!(!lives && without.failed > 0, "nothing went wrong without the agent: {without:?}");
    let (with, drained, lives) = leaking_run(&servers, TEST, true);
    println!("with:    {} of {} failed, {:.4} % succeeded", with.failed, with.requests, with.share() * 100.0);
    assert!(drained.is_some(), "the node was not drained");
    assert!(lives && with.failed == 0 && with.share() >= 0.999, "{with:?}, and the leaker lives: {lives}");
}

#[test]
fn haproxy_does_what_an_operator_says_and_a_restarted_agent_says_it_again() {
    const TEST: &str = "drain-word";
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(TEST, &reason),
    };
    let scratch = Scratch::make(TEST);
    let backends = [backend("0", None), backend("0", None), backend("0", None)];
    let agent_check = free_addr();
    // An operator's word holds in either mode.
    let config = quick(&scratch, "observe", agent_check);
    let agent = start(&config);
    let nodes = [backends[0].addr(), backends[1].addr(), backends[2].addr()];
    let balancer = Balancer::start(&servers, &scratch, "agent-check.cfg", nodes, agent_check);
    let by_ready = Scratch::make("drain-ready");
    let asked = agent.address();
    let health = Balancer::start(&servers, &by_ready, "ready.cfg", nodes, asked);
    balancer.until("web-1", "UP");
    health.until("web-1", "UP");

    say(&["drain"], &config);
    let took = balancer.until("web-1", "DRAIN");
    health.until("web-1", "DOWN");
    println!("drained within {took:?}");
    assert!(agent.get("/ready").starts_with("HTTP/1.1 503"));
    assert!(agent.is_well(), "a node that is drained is well");
    assert_eq!(balancer.shows("web-2", "status").as_deref(), Some("UP"), "its agent is not there");
    sleep(INTERVAL);
    let before = balancer.shows("web-1", "stot");
    for _ in 0..20 {
        spillway_tests::http_get(balancer.addr, "/").expect("somebody answers");
    }
    assert_eq!(balancer.shows("web-1", "stot"), before, "it gets no new work");

    // It is killed: HAProxy keeps what it knows, and hears the same again.
    drop(agent);
    sleep(2 * INTERVAL);
    assert_eq!(balancer.shows("web-1", "status").as_deref(), Some("DRAIN (agent)"));
    let agent = start(&config);
    let hear = || {
        let mut line = String::new();
        TcpStream::connect(agent_check).and_then(|mut stream| stream.read_to_string(&mut line)).expect("it answers");
        line
    };
    assert_eq!(hear(), "drain\n", "the first answer of a restarted agent");
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(agent_check).expect("it listens")).collect();
    assert_eq!(hear(), "drain\n", "whoever says nothing keeps nobody out");
    drop(silent);

    say(&["drain", "--maintenance"], &config);
    balancer.until("web-1", "MAINT");
    say(&["undrain"], &config);
    balancer.until("web-1", "UP");
    say(&["drain"], &config);
    balancer.until("web-1", "DRAIN");
    say(&["resume"], &config);
    balancer.until("web-1", "UP");
    agent.stop();
}

#[test]
fn a_node_whose_end_comes_nearer_asks_for_less_work_and_stays_up() {
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
    let cgroup = OwnCgroup::make(hierarchy.mount().expect("cgroups are mounted"), TEST).expect("one can be made");
    let file = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    cgroup.set(file, 512 * MIB).expect("it takes a limit");
    let backends = [backend("0", None), backend("0", None), backend("0", None)];
    let agent_check = free_addr();
    let config = quick(&scratch, "enforce", agent_check);
    // What is minutes away halves the weight, and drains nothing.
    let text = fs::read_to_string(&config).expect("it is there");
    let text = format!("{text}[decide]\nlimit_within = \"4m\"\ndrain_within = \"1s\"\n");
    fs::write(&config, text).expect("it is ours");
    let agent = start(&config);
    let nodes = [backends[0].addr(), backends[1].addr(), backends[2].addr()];
    let balancer = Balancer::start(&servers, &scratch, "agent-check.cfg", nodes, agent_check);
    balancer.until("web-1", "UP");
    let weight = |server: &str| balancer.shows(server, "weight").and_then(|weight| weight.parse::<u32>().ok());
    let whole = wait_for(SOON, || weight("web-1").filter(|weight| *weight == 100));
    assert!(whole.is_some(), "{:?}", weight("web-1"));
    let mut leak = workload();
    leak.args(["leak", "--rate", "4MiB", "--limit", "200MiB"]);
    cgroup.admit(&mut leak).expect("it may be entered");
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
fn of_two_agents_on_one_host_one_asks_and_the_other_goes_on_when_that_one_is_killed() {
    const TEST: &str = "drain-two";
    let (scratch, receiver) = (Scratch::make(TEST), Receiver::start(Form::Webhook));
    let keys = scratch.secret("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let config = scratch.file(
        "spillway.toml",
        &format!(
            "{ANY_PORT}[act.drain]\nurl = \"{}\"\nsecret_file = \"{}\"\ndwell = \"1s\"\ndrained_within = \"1s\"\nverify = \"1s\"\n\
             [record]\nstate_dir = \"{}\"\n",
            receiver.url("/drains"),
            keys.display(),
            scratch.0.join("state").display()
        ),
    );
    // As systemd makes it before the agent is started.
    fs::create_dir(scratch.0.join("state")).expect("it can be made");
    let (first, second) = (start(&config), start(&config));
    assert!(second.log().contains("this agent does not drain until the other one ends"), "{}", second.log());
    let until = |agent: &Running, state: &str, ready: &str| {
        let is_there = || {
            let metrics = agent.get("/metrics");
            let is_state = metric(&metrics, &format!("spillway_drain_state{{state=\"{state}\"}}")) == 1.0;
            (is_state && agent.get("/ready").starts_with(ready)).then_some(metrics)
        };
        let metrics = wait_for(SOON, is_there).unwrap_or_else(|| panic!("not {state}: {}", agent.log()));
        let states = metrics.lines().filter(|line| line.starts_with("spillway_drain_state{") && line.ends_with(" 1"));
        assert_eq!(states.count(), 1, "a node is in one state");
    };
    for agent in [&first, &second] {
        until(agent, "healthy", "HTTP/1.1 200");
    }
    say(&["drain"], &config);
    for agent in [&first, &second] {
        until(agent, "drained", "HTTP/1.1 503");
    }
    assert_eq!(receiver.calls().len(), 1, "{:?}", receiver.calls());
    first.signal(libc::SIGKILL);
    drop(first);
    assert!(wait_for(SOON, || second.log().contains("no other agent drains any more").then_some(())).is_some());
    say(&["undrain"], &config);
    until(&second, "healthy", "HTTP/1.1 200");
    assert_eq!(receiver.calls().len(), 2, "{:?}", receiver.calls());
    second.stop();
}

#[test]
fn connections_are_counted_by_whose_listener_they_came_to_in_every_namespace() {
    if !is_root("connections_are_counted_by_whose_listener_they_came_to_in_every_namespace") {
        return;
    }
    let counted_of = |pid: u32| {
        let mut in_flight = InFlight::new(Hierarchy::detect());
        in_flight.count(0.0, |owner| owner.is_some_and(|(owner, _)| owner == pid)).expect("they can be counted")
    };
    let count = |wanted: u64, pid: u32| {
        let counted = wait_for(SOON, || (counted_of(pid) == wanted).then_some(()));
        assert!(counted.is_some(), "{} and not {wanted}", counted_of(pid));
    };
    let here = backend("0", None);
    count(0, here.pid());
    // Accepted or not: sixteen of them are, by as many threads.
    let held: Vec<_> = (0..20).map(|_| TcpStream::connect(here.addr()).expect("it listens")).collect();
    assert_eq!(counted_of(here.pid()), 20);
    drop(held);
    count(0, here.pid());

    // A program there ends with the thread that started it.
    let (tells, told) = mpsc::channel();
    let (ends, end) = mpsc::channel::<()>();
    let elsewhere = thread::spawn(move || {
        own_network().expect("root may");
        let there = backend("0", None);
        let held = [(); 3].map(|()| TcpStream::connect(there.addr()).expect("it listens"));
        tells.send((there.pid(), held)).expect("somebody waits for it");
        let _ = end.recv();
    });
    let (pid, held) = told.recv().expect("it says so");
    assert_eq!(counted_of(pid), 3);
    drop(held);
    count(0, pid);
    drop(ends);
    elsewhere.join().expect("it does not panic");
}

#[test]
fn a_node_is_not_called_drained_while_it_serves_until_that_took_too_long() {
    const TEST: &str = "drain-in-flight";
    if !is_root(TEST) {
        return;
    }
    let scratch = Scratch::make(TEST);
    // In no cgroup that is protected, as an operator's own is.
    let hierarchy = Hierarchy::detect();
    let cgroup = OwnCgroup::make(hierarchy.mount().expect("cgroups are mounted"), TEST).expect("one can be made");
    let backend = backend("0", Some(&cgroup));
    let config = quick(&scratch, "observe", free_addr());
    let agent = start(&config);
    // It asks so slowly that it is served all the time.
    let mut held = TcpStream::connect(backend.addr()).expect("it listens");
    let keep_alive = thread::spawn(move || {
        for _ in 0..200 {
            if held.write_all(b"G").is_err() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
    });
    say(&["drain"], &config);
    assert!(wait_for(SOON, || outcome(&agent, "draining")).is_some());
    let begun = now();
    let drained = wait_for(SOON, || outcome(&agent, "drained")).expect("it is drained in the end");
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}: {drained}", begun.elapsed());
    let why = drained["why"].as_str().unwrap_or_default();
    assert!(why.contains("left, and waited for no more"), "{why}");
    agent.stop();
    drop(backend);
    keep_alive.join().expect("it does not panic");
}
