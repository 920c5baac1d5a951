//! Two nodes behind HAProxy under a load that alternates between less and more than both can serve,
//! with an agent on each node, which may shed load, or with none.
//!
//! The agent runs without BPF, which sees the whole host. HAProxy and the load run
//! in this thread's own namespace, by the shipped configuration with its own addresses. Nothing is
//! wrong with either node, so a drain only moves its load to the other one.

use std::{process::Command, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::Balancer;
use crate::{
    Refused, Running, Scratch, Servers, Workload, built,
    node::{Node, OUTSIDE},
    own_network, refuse, run_with,
};

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

/// One of the two nodes.
struct ServingNode(Node);

impl ServingNode {
    fn service(&self, nth: usize) -> Workload {
        let mut command = self.0.enter(built("workload"));
        command.args([
            "serve",
            "--addr",
            &format!("{}:8080", Node::address(nth)),
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
            [\"{OUTSIDE}\"]\n[decide]\n\
             services = [\"tcp:{0}:8080\"]\n[act.drain.agent_check]\nlisten \
             = \"{0}:9647\"\n[record]\nstate_dir = \"{1}\"\n[act.shed]\nenabled = {sheds}\n",
            Node::address(nth),
            state_dir.display()
        );
        let agent = run_with(&scratch.file(&name, &text));
        let mut command = self.0.enter(agent.get_program());
        command.args(agent.get_args()).arg("--json");
        refuse(&mut command, Refused::BPF);
        Running::start(command)
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
    let mut nodes = [ServingNode(Node::make(0)?), ServingNode(Node::make(1)?)];
    let _services = [nodes[0].service(0), nodes[1].service(1)];
    let agents = (agent != NodeAgent::None)
        .then(|| [0, 1].map(|nth| nodes[nth].agent(nth, &scratch, agent == NodeAgent::Sheds)));
    let balancer = Balancer::as_shipped(servers, &scratch);
    for server in ["web-1", "web-2"] {
        balancer.until(server, "UP");
    }
    let mut load = Command::new(built("workload"));
    load.args(["offer", "--addr", &format!("{OUTSIDE}:80"), "--alternate-every", "20s"]);
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
    assert!(nodes.iter_mut().all(|node| node.0.is_running()), "a node is gone");
    Ok(Served {
        requests,
        succeeded: number("succeeded"),
        server_errors: server_errors.ok_or("HAProxy shows no count of its answers")?,
        bounded,
        lowest_weights,
        left_rotation,
    })
}
