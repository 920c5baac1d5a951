//! Three backends behind HAProxy under load, of which the first leaks until the kernel kills it,
//! with or without the agent.
//!
//! All nodes are one host here, which the agent watches; HAProxy asks that agent for the first
//! backend only. Both runs differ only in whether there is an agent. A request takes as long as one
//! that queries a database, so that a backend that dies loses its requests in progress: HAProxy
//! retries a request elsewhere if it could not connect, but not if a backend was already serving
//! it.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::Duration,
};

use serde::Serialize;
use spillway_agent::sense::Hierarchy;

use super::{Balancer, backend, free_addr, quick};
use crate::{OwnCgroup, Program, Running, Scratch, Servers, now, run_with};

const MIB: u64 = 1 << 20;
/// Maximum memory of the leaking backend before it is killed.
const LIMIT_BYTES: u64 = 96 * MIB;
/// Memory that it leaks with each request.
const LEAK: &str = "36KiB";
/// Mean time of a request; times vary between half and one and a half of that.
const SERVICE: Duration = Duration::from_millis(100);
/// Requests in progress: a third of them at each backend.
const CONNECTIONS: u32 = 64;
/// Duration of the load. Without an agent the leaker is killed after some 12 s.
const LOAD_SECS: u32 = 16;
/// Maximum time that a client waits, which is usual. The default of wrk, two seconds, is less than
/// a shared machine sometimes stalls.
const PATIENCE: &str = "10s";
/// Interval between reads of the backends' state.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Event of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happened {
    /// Start of the load.
    Loaded {
        /// Duration.
        secs: u32,
    },
    /// Drain: HAProxy gives the leaker no new work.
    Drained {
        /// Reason that the agent gives.
        why: String,
    },
    /// Death of the leaker.
    Died,
}

/// Result of a run. Times are in seconds since the load began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ran {
    /// Requests that were answered or failed.
    pub requests: u64,
    /// Requests without an answer, or with one other than 2xx or 3xx.
    pub failed: u64,
    /// Time at which HAProxy showed the leaker as drained.
    pub drained_at_secs: Option<f64>,
    /// Time at which it was killed.
    pub died_at_secs: Option<f64>,
}

impl Ran {
    /// Returns the share of all requests that succeeded.
    pub fn share(&self) -> f64 {
        1.0 - self.failed as f64 / (self.requests as f64).max(1.0)
    }

    /// Parses the counts in wrk's output.
    fn count(&mut self, said: &str) {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let answered = said.lines().find_map(|line| number(line.split(" requests in ").next()?));
        let answered = answered.unwrap_or_else(|| panic!("wrk printed no count: {said}"));
        let other =
            said.lines().find_map(|line| number(line.split("Non-2xx or 3xx responses:").nth(1)?));
        let errors = said.lines().find_map(|line| line.split("Socket errors:").nth(1)).into_iter();
        let errors = errors.flat_map(|line| {
            line.split(',').filter_map(|part| number(part.split_whitespace().last()?))
        });
        let unanswered: u64 = errors.sum();
        (self.requests, self.failed) = (answered + unanswered, other.unwrap_or(0) + unanswered);
    }
}

/// Runs it, in a cgroup and a directory of this name, until the load is over or `stop` is set;
/// `tell` gets each event with the seconds since the load began. Returns `None` if it was stopped.
///
/// # Errors
///
/// Returns the reason if it cannot run here.
///
/// # Panics
///
/// Panics if one of the programs does not start.
pub fn leaking(
    servers: &Servers,
    name: &str,
    with_agent: bool,
    stop: &AtomicBool,
    mut tell: impl FnMut(f64, Happened),
) -> Result<Option<Ran>, String> {
    let scratch = Scratch::make(name);
    let cgroup = limited(name)?;
    let mut leaker = backend(SERVICE, LEAK, Some(&cgroup));
    let others = [backend(SERVICE, "0", None), backend(SERVICE, "0", None)];
    let agent_check = free_addr();
    let agent = with_agent.then(|| {
        let mut command = run_with(&quick(&scratch, "enforce", agent_check));
        command.arg("--json");
        Running::start(command)
    });
    let nodes = [leaker.addr(), others[0].addr(), others[1].addr()];
    let balancer = Balancer::start(servers, &scratch, "agent-check.cfg", nodes, agent_check);
    for server in ["web-1", "web-2", "web-3"] {
        balancer.until(server, "UP");
    }
    let mut wrk = servers.wrk(balancer.addr, CONNECTIONS, LOAD_SECS);
    let mut wrk = Program::start(wrk.args(["--timeout", PATIENCE]).stdout(Stdio::piped()));
    let begun = now();
    tell(0.0, Happened::Loaded { secs: LOAD_SECS });
    let mut ran = Ran::default();
    while wrk.is_running() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let at = begun.elapsed().as_secs_f64();
        if ran.drained_at_secs.is_none() && balancer.is("web-1", "DRAIN") {
            ran.drained_at_secs = Some(at);
            let line = agent
                .as_ref()
                .and_then(|agent| agent.line_of("outcome", "drain_requested", "node"));
            let why =
                line.and_then(|line| line["why"].as_str().map(str::to_owned)).unwrap_or_default();
            tell(at, Happened::Drained { why });
        }
        if ran.died_at_secs.is_none() && !leaker.is_running() {
            ran.died_at_secs = Some(at);
            tell(at, Happened::Died);
        }
        sleep(LOOK_EVERY);
    }
    ran.count(&wrk.said());
    if let Some(agent) = agent {
        if ran.drained_at_secs.is_none() {
            eprintln!("the agent did not drain: {}\n{}", agent.printed(), agent.log());
        }
        agent.stop();
    }
    Ok(Some(ran))
}

/// Creates a cgroup with a hard limit on memory.
fn limited(name: &str) -> Result<OwnCgroup, String> {
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().ok_or("no cgroup file system is mounted")?;
    let cgroup = OwnCgroup::make(mount, name).map_err(|error| error.to_string())?;
    let (limit, swap, no_swap) = match hierarchy.is_v1() {
        true => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", LIMIT_BYTES),
        false => ("memory.max", "memory.swap.max", 0),
    };
    if !cgroup.has(limit) {
        return Err(format!("cannot enable the memory controller in {}", mount.display()));
    }
    cgroup.set(limit, LIMIT_BYTES).map_err(|error| format!("{error:#}"))?;
    // With swap, it would only grow more and more slowly.
    if cgroup.has(swap) {
        cgroup.set(swap, no_swap).map_err(|error| format!("{error:#}"))?;
    }
    Ok(cgroup)
}
