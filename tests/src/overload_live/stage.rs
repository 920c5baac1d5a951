//! Stage of a live test: the installed agent with its defaults, and a network namespace of the
//! test's own in which one server at a time is loaded. Recorders with sensors of their own use it
//! without the agent.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    ANY_PORT, Running, Scratch, Servers, Workload, built, in_real_time, is_root, own_network,
    run_with, sensors_with, skip,
};
use serde_json::Value;
use spillway_agent::{bpf::Probe, config::Config};

/// First port to listen on: a restarted server must be a listener that was never seen.
const FIRST_PORT: u16 = 8_000;

/// Stage of a test.
pub struct Stage {
    /// nginx, HAProxy and wrk.
    pub servers: Servers,
    /// Minimum wait of a connection that stands.
    pub target: Duration,
    /// Minimum time that a queue stands under an overload.
    pub sustain: Duration,
    /// The network namespace's inode number.
    pub netns: u32,
    /// Set if claims are read.
    running: Option<Running>,
    scratch: Scratch,
    next_port: u16,
}

impl Stage {
    /// Starts the agent, then enters the namespace; `None`, reported as a skip, if that is
    /// impossible.
    pub fn set(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let servers = Servers::find().inspect_err(|reason| skip(test, reason)).ok()?.ahead();
        drop(sensors_with(Probe::AcceptQueue, test)?);
        let scratch = Scratch::make(test);
        let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
        command.arg("--json");
        let running = Running::start(command);
        Some(Self::enter(scratch, servers, Some(running)))
    }

    /// Enters the namespace, without an agent of its own outside.
    ///
    /// # Panics
    ///
    /// Panics if that is not allowed.
    pub fn without_agent(name: &str, servers: Servers) -> Self {
        Self::enter(Scratch::make(name), servers, None)
    }

    fn enter(scratch: Scratch, servers: Servers, running: Option<Running>) -> Self {
        let netns = own_network().expect("cannot make a network namespace");
        let overload = Config::default().detect.overload;
        let (target, sustain) = (overload.target, overload.sustain);
        Self { servers, target, sustain, netns, running, scratch, next_port: FIRST_PORT }
    }

    /// Returns an address that was never used for a listener.
    pub fn fresh_addr(&mut self) -> SocketAddr {
        self.next_port += 1;
        SocketAddr::from(([127, 0, 0, 1], self.next_port - 1))
    }

    /// Returns a directory for a server's files.
    pub fn dir(&self, addr: SocketAddr) -> PathBuf {
        self.scratch.0.join(addr.port().to_string())
    }

    /// Returns the time at which an overload of this listener was claimed, by the arrival of the
    /// agent's line.
    pub fn claimed(&self, addr: SocketAddr) -> Option<Instant> {
        self.claims()
            .into_iter()
            .find(|(_, claim)| claim["addr"] == addr.to_string())
            .map(|(at, _)| at)
    }

    /// Returns every overload that was claimed in this namespace.
    pub fn claims(&self) -> Vec<(Instant, Value)> {
        let printed = self.running.iter().flat_map(Running::printed_at);
        let parsed = printed
            .filter_map(|line| Some((line.at, serde_json::from_str::<Value>(&line.line).ok()?)));
        let raised =
            parsed.filter(|(_, line)| line["verdict"] == "overload" && line["state"] == "raised");
        raised.filter(|(_, claim)| claim["netns"] == self.netns).collect()
    }

    /// Stops the agent, which must succeed.
    ///
    /// # Panics
    ///
    /// Panics if it fails.
    pub fn clear(self) {
        let Some(running) = self.running else { return };
        let (code, log) = running.stop();
        assert_eq!(code, Some(0), "{log}");
    }
}

/// Starts a workload of the tests' own, with priority over other processes.
pub fn workload(args: &[&str]) -> Workload {
    Workload::start(in_real_time(&mut Command::new(built("workload"))).args(args))
}
