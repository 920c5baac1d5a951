//! Real processes that the agent watches: a leak, a cache that fills, a server that stops
//! accepting, and its clients.
//!
//! Each is the `workload` binary in its own process group. It prints one JSON line when it is
//! ready, ends on SIGTERM, and is killed by the kernel if this process dies.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::cgroup::LeakCgroup;
use crate::child::{Group, each_line};
use crate::{clock, signals};

/// Rate of the leak, in bytes per second.
pub const LEAK_RATE: u64 = 4 << 20;
/// Hard memory limit of the leaking process: reached about eight minutes after the demo's start.
pub const LEAK_LIMIT: u64 = 2 << 30;
/// Options of the cache: it grows faster than the leak, for 15 s, and stops.
const CACHE: [&str; 4] = ["--rate", "6MiB", "--size", "90MiB"];
/// Options of the server: with ten connections a second, a queue of 128 is full about 13 s after
/// the last accept().
const SERVER: [&str; 4] = ["--backlog", "128", "--healthy-for", "10s"];
const CLIENTS: [&str; 4] = ["--rate-per-sec", "10", "--for", "120s"];
const READY_WITHIN: Duration = Duration::from_secs(10);

/// All workloads; dropping them stops them.
pub struct Workloads {
    groups: Vec<Group>,
    server_lines: Receiver<String>,
    /// Pid of the leaking process.
    pub leaker: u32,
    /// Pid of the healthy cache.
    pub cache: u32,
    /// Address of the server that stops accepting.
    pub addr: String,
    /// Time at which the server stopped accepting.
    pub stopped_at: Option<Instant>,
}

impl Workloads {
    /// Starts them all and waits until each is ready.
    pub fn start(binary: &Path, leak_cgroup: &LeakCgroup) -> anyhow::Result<Self> {
        let mut groups = Vec::new();
        let mut leak = leak_cgroup.command(binary)?;
        leak.args(["leak", "--name", "demo-leak", "--rate", &LEAK_RATE.to_string()]);
        let (leaker, _) = launch(&mut groups, &mut leak)?;

        let mut cache = Command::new(binary);
        cache.args(["cache", "--name", "demo-cache"]).args(CACHE);
        let (cache, _) = launch(&mut groups, &mut cache)?;

        let mut server = Command::new(binary);
        server
            .args(["stuck-server", "--name", "demo-server", "--addr", "127.0.0.1:0"])
            .args(SERVER);
        let (server, server_lines) = launch(&mut groups, &mut server)?;
        let addr = server["addr"].as_str().context("the server printed no address")?.to_owned();

        let mut clients = Command::new(binary);
        clients.args(["clients", "--name", "demo-clients", "--addr", &addr]).args(CLIENTS);
        launch(&mut groups, &mut clients)?;
        let (leaker, cache) = (pid(&leaker)?, pid(&cache)?);
        Ok(Self { groups, server_lines, leaker, cache, addr, stopped_at: None })
    }

    /// Notes when the server reports that it has stopped accepting; returns true at that moment.
    pub fn server_just_stopped(&mut self) -> bool {
        let has_stopped =
            self.server_lines.try_iter().any(|line| line.contains("stopped_accepting"));
        if has_stopped {
            self.stopped_at.get_or_insert_with(clock::now);
        }
        has_stopped
    }

    /// Stops them all.
    pub fn stop(&mut self) {
        for group in &self.groups {
            group.signal(libc::SIGTERM);
        }
        for group in &mut self.groups {
            group.stop(Duration::from_secs(2));
        }
    }

    /// Returns true if any process of the workloads still exists.
    pub fn remain(&self) -> bool {
        self.groups.iter().any(Group::has_members)
    }
}

impl Drop for Workloads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pid(ready: &Value) -> anyhow::Result<u32> {
    ready["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .context("a workload printed no pid")
}

/// Starts one workload and waits for its first line; further lines go to the receiver.
fn launch(
    groups: &mut Vec<Group>,
    command: &mut Command,
) -> anyhow::Result<(Value, Receiver<String>)> {
    let mut group = Group::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let (sender, lines) = channel();
    if let Some(stdout) = group.child().stdout.take() {
        each_line(stdout, move |line| sender.send(line).is_ok());
    }
    groups.push(group);
    let start = clock::now();
    while start.elapsed() < READY_WITHIN {
        signals::check()?;
        if let Ok(line) = lines.recv_timeout(Duration::from_millis(50)) {
            let ready = serde_json::from_str(&line)
                .with_context(|| format!("a workload printed {line:?}"))?;
            return Ok((ready, lines));
        }
    }
    bail!("{} was not ready within {} s", crate::child::line_of(command), READY_WITHIN.as_secs())
}
