//! Two nodes behind HAProxy under a load that alternates between less and more than both can serve,
//! with an agent on each node, which may shed load, or with none.
//!
//! A node is a network and a PID namespace: its agent sees its own listeners and processes and
//! nothing of the other's. It runs without BPF, which sees the whole host. HAProxy and the load run
//! in this thread's own namespace, by the shipped configuration with its own addresses. Nothing is
//! wrong with either node, so a drain only moves its load to the other one.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{Balancer, SOON};
use crate::{
    Program, Refused, Running, Scratch, Servers, Workload, built, own_network, refuse, run_with,
    wait_for,
};

const BALANCER: &str = "10.0.0.10";
/// Connections per second: alternately below and above the capacity.
const RATES_PER_SEC: [u32; 2] = [110, 165];
/// Time at each rate.
const ALTERNATE_EVERY: Duration = Duration::from_secs(20);
/// Eight threads that take 100 ms serve 80 requests per second, less the gap between two requests:
/// two nodes serve 150 to 160.
const THREADS: u32 = 8;
const SERVICE: Duration = Duration::from_millis(100);

/// Agent on each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeAgent {
    /// No agent.
    None,
    /// The default: an overload lowers the weight.
    Weighs,
    /// Also sheds load (`act.shed.enabled`).
    Sheds,
}

/// Result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Served {
    /// Requests sent.
    pub requests: u64,
    /// Answers with 200 within ten seconds.
    pub succeeded: u64,
    /// Answers with 5xx, which HAProxy gives in the name of a node that it cannot reach.
    pub server_errors: u64,
    /// Accept queues that the agents bounded.
    pub bounded: usize,
    /// Lowest weight of each node in HAProxy.
    pub lowest_weights: [u32; 2],
    /// Set if HAProxy had a node out of rotation at any time.
    pub left_rotation: bool,
}

impl Served {
    /// Share of all requests that succeeded.
    pub fn share(&self) -> f64 {
        self.succeeded as f64 / (self.requests as f64).max(1.0)
    }
}

/// Node; removed with all its processes when dropped.
struct Node {
    unshare: Program,
    /// First process of the namespaces.
    pid: u32,
}

impl Node {
    /// Makes the `nth` node, and connects it to this thread's network.
    fn make(nth: usize) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sleep",
            "infinity",
        ]);
        let unshare = Program::start(command.stdout(Stdio::null()));
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let child = || fs::read_to_string(&children).ok()?.trim().parse::<u32>().ok();
        let pid = wait_for(SOON, child).ok_or("unshare started no process")?;
        let node = Self { unshare, pid };
        // It is in its namespaces once it has a `/proc` of its own.
        let is_ready = || {
            node.enter("test").args(["-d", "/proc/1"]).status().is_ok_and(|status| status.success())
        };
        wait_for(SOON, || is_ready().then_some(())).ok_or("cannot enter a namespace")?;
        let (outside, own) = (format!("node{nth}"), own_address(nth));
        let here = |arguments: &[&str]| ip(Command::new("ip").args(arguments));
        let there = |arguments: &[&str]| ip(node.enter("ip").args(arguments));
        let pid = node.pid.to_string();
        here(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        here(&["addr", "add", &format!("{BALANCER}/32"), "peer", &own, "dev", &outside])?;
        here(&["link", "set", &outside, "up"])?;
        there(&["addr", "add", &format!("{own}/32"), "peer", BALANCER, "dev", "eth0"])?;
        there(&["link", "set", "lo", "up"])?;
        there(&["link", "set", "eth0", "up"])?;
        Ok(node)
    }

    /// Returns a command that runs on this node.
    fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--pid", "--mount"]).arg(program);
        command
    }

    fn service(&self, nth: usize) -> Workload {
        let mut command = self.enter(built("workload"));
        command.args([
            "serve",
            "--addr",
            &format!("{}:8080", own_address(nth)),
            "--threads",
            &THREADS.to_string(),
        ]);
        command.args(["--service", &format!("{}ms", SERVICE.as_millis())]);
        Workload::start(&mut command)
    }

    /// Starts the agent as described in `configs/haproxy/agent-check.cfg`, with its defaults.
    fn agent(&self, nth: usize, scratch: &Scratch, sheds: bool) -> Running {
        let (name, state_dir) =
            (format!("agent-{nth}.toml"), scratch.0.join(format!("state-{nth}")));
        let text = format!(
            "mode = \"enforce\"\n[serve]\nlisten = \"127.0.0.1:0\"\nallow = \
            [\"{BALANCER}\"]\n[decide]\n\
             services = [\"tcp:{0}:8080\"]\n[act.drain.agent_check]\nlisten \
             = \"{0}:9647\"\n[record]\nstate_dir = \"{1}\"\n[act.shed]\nenabled = {sheds}\n",
            own_address(nth),
            state_dir.display()
        );
        let agent = run_with(&scratch.file(&name, &text));
        let mut command = self.enter(agent.get_program());
        command.args(agent.get_args()).arg("--json");
        refuse(&mut command, Refused::BPF);
        Running::start(command)
    }

    fn is_running(&mut self) -> bool {
        self.unshare.is_running()
    }
}

/// Loads two nodes for this long, in namespaces of their own, and counts the results of the
/// requests. It takes the calling thread into a network namespace, so that a run needs a thread of
/// its own.
///
/// # Errors
///
/// Returns the reason if it cannot run here.
///
/// # Panics
///
/// Panics if one of the programs does not start.
pub fn two_nodes(
    servers: &Servers,
    name: &str,
    agent: NodeAgent,
    lasting: Duration,
) -> Result<Served, String> {
    let scratch = Scratch::make(name);
    own_network().map_err(|error| format!("cannot make a network namespace: {error}"))?;
    let mut nodes = [Node::make(0)?, Node::make(1)?];
    let _services = [nodes[0].service(0), nodes[1].service(1)];
    let agents = (agent != NodeAgent::None)
        .then(|| [0, 1].map(|nth| nodes[nth].agent(nth, &scratch, agent == NodeAgent::Sheds)));
    let balancer = Balancer::as_shipped(servers, &scratch);
    for server in ["web-1", "web-2"] {
        balancer.until(server, "UP");
    }
    let mut load = Command::new(built("workload"));
    load.args(["offer", "--addr", &format!("{BALANCER}:80"), "--alternate-every", "20s"]);
    load.args([
        "--for",
        &format!("{}s", lasting.as_secs()),
        "--rate-per-sec",
        &RATES_PER_SEC[0].to_string(),
    ]);
    load.args(["--to-rate-per-sec", &RATES_PER_SEC[1].to_string()]);
    assert_eq!(ALTERNATE_EVERY, Duration::from_secs(20));
    let mut load = Workload::start(&mut load);
    let (mut lowest_weights, mut left_rotation) = ([u32::MAX; 2], false);
    while load.is_running() {
        for (server, lowest) in ["web-1", "web-2"].into_iter().zip(&mut lowest_weights) {
            let weight = balancer.shows(server, "weight").and_then(|weight| weight.parse().ok());
            *lowest = weight.map_or(*lowest, |weight: u32| weight.min(*lowest));
            left_rotation |=
                ["DRAIN", "MAINT", "DOWN"].iter().any(|status| balancer.is(server, status));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let done: Value = serde_json::from_str(&load.next_line()).map_err(|error| error.to_string())?;
    let number = |name: &str| done[name].as_u64().unwrap_or_default();
    let requests = number("started") + number("not_opened");
    let server_errors = balancer.shows("BACKEND", "hrsp_5xx").and_then(|count| count.parse().ok());
    let mut bounded = 0;
    for (nth, running) in agents.iter().flatten().enumerate() {
        let printed = running.printed();
        let lines = printed
            .lines()
            .filter(|line| ["\"decision\"", "\"outcome\""].iter().any(|it| line.contains(it)));
        lines.for_each(|line| println!("{agent:?}, node {nth}: {line}"));
        bounded += printed.matches("accept queue bounded").count();
    }
    assert!(nodes.iter_mut().all(Node::is_running), "a node is gone");
    Ok(Served {
        requests,
        succeeded: number("succeeded"),
        server_errors: server_errors.ok_or("HAProxy shows no count of its answers")?,
        bounded,
        lowest_weights,
        left_rotation,
    })
}

fn own_address(nth: usize) -> String {
    format!("10.0.0.1{}", nth + 1)
}

fn ip(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
