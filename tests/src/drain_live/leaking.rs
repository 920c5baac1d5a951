//! Three backends behind HAProxy under load, of which the first leaks until the kernel kills it,
//! with the agent or without.
//!
//! All nodes are one host here, and the agent watches that host; the first backend's line in
//! HAProxy's configuration is the one whose agent answers. Both runs differ in nothing but whether
//! there is one. A request takes as long as one that asks a database, so that a backend that dies
//! takes with it what it was at: HAProxy tries another for who finds nobody there, and cannot for
//! who was served already.

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
/// What the leaking backend may use before it is killed.
const LIMIT_BYTES: u64 = 96 * MIB;
/// What it forgets with each request.
const LEAK: &str = "36KiB";
/// What a request takes on average, of half as much to one and a half times.
const SERVICE: Duration = Duration::from_millis(100);
/// How many requests there are at once: a third of them at each backend.
const CONNECTIONS: u32 = 64;
/// How long wrk asks. Without an agent the leaker is killed some 12 s in.
const LOAD_SECS: u32 = 16;
/// How long a client waits, as many do. wrk's own two seconds are less than a shared machine stands
/// still now and then.
const PATIENCE: &str = "10s";
/// How often it is looked at what happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happened in a run, as it happens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happened {
    /// The load began.
    Loaded {
        /// How long it lasts.
        secs: u32,
    },
    /// HAProxy gives the leaker no new work.
    Drained {
        /// Why, as the agent says it.
        why: String,
    },
    /// The leaker was killed.
    Died,
}

/// What came of a run. Times are in seconds since the load began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ran {
    /// How many requests were answered or failed.
    pub requests: u64,
    /// How many got no answer, or one other than 2xx or 3xx.
    pub failed: u64,
    /// When HAProxy showed the leaker as drained.
    pub drained_at_secs: Option<f64>,
    /// When it was killed.
    pub died_at_secs: Option<f64>,
}

impl Ran {
    /// The share of all requests that succeeded.
    pub fn share(&self) -> f64 {
        1.0 - self.failed as f64 / (self.requests as f64).max(1.0)
    }

    /// Counts what wrk says.
    fn count(&mut self, said: &str) {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let answered = said.lines().find_map(|line| number(line.split(" requests in ").next()?));
        let answered = answered.unwrap_or_else(|| panic!("wrk gave no count: {said}"));
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

/// Runs it, in a cgroup and a directory of this name, until the load is over or `stop` says so;
/// `tell` gets what happens with the seconds since the load began. `None` where it was stopped.
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

/// A cgroup whose memory comes to a hard end.
fn limited(name: &str) -> Result<OwnCgroup, String> {
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().ok_or("no cgroup file system is mounted")?;
    let cgroup = OwnCgroup::make(mount, name).map_err(|error| error.to_string())?;
    let (limit, swap, no_swap) = match hierarchy.is_v1() {
        true => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", LIMIT_BYTES),
        false => ("memory.max", "memory.swap.max", 0),
    };
    if !cgroup.has(limit) {
        return Err(format!("{} hands no memory controller on", mount.display()));
    }
    cgroup.set(limit, LIMIT_BYTES).map_err(|error| format!("{error:#}"))?;
    // Where there is swap, it would only grow slower and slower.
    if cgroup.has(swap) {
        cgroup.set(swap, no_swap).map_err(|error| format!("{error:#}"))?;
    }
    Ok(cgroup)
}
