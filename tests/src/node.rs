//! Nodes on one machine: each is a network and a PID namespace, so that its agent sees its own
//! listeners and processes and nothing of the others'. They are connected to the namespace of the
//! thread that makes them.

use std::{
    ffi::OsStr,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{Program, wait_for};

/// Address of the thread that made the nodes, as they see it.
pub const OUTSIDE: &str = "10.0.0.10";

/// Maximum time until a namespace is there.
const SOON: Duration = Duration::from_secs(10);

/// Node; removed with all its processes when dropped.
pub struct Node {
    unshare: Program,
    /// First process of the namespaces.
    pid: u32,
    /// Name of the link to it.
    link: String,
}

impl Node {
    /// Makes the `nth` node, and connects it to this thread's network.
    ///
    /// # Errors
    ///
    /// Returns the reason if it cannot run here.
    pub fn make(nth: usize) -> Result<Self, String> {
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
        let child = || only_child(unshare.pid());
        let pid = wait_for(SOON, child).ok_or("unshare started no process")?;
        let node = Self { unshare, pid, link: format!("node{nth}") };
        // It is in its namespaces once it has a `/proc` of its own.
        let is_ready = || {
            node.enter("test").args(["-d", "/proc/1"]).status().is_ok_and(|status| status.success())
        };
        wait_for(SOON, || is_ready().then_some(())).ok_or("cannot enter a namespace")?;
        let (outside, own) = (&node.link, Self::address(nth));
        let here = |arguments: &[&str]| ip(Command::new("ip").args(arguments));
        let there = |arguments: &[&str]| ip(node.enter("ip").args(arguments));
        let pid = node.pid.to_string();
        here(&["link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        here(&["addr", "add", &format!("{OUTSIDE}/32"), "peer", &own, "dev", outside])?;
        here(&["link", "set", outside, "up"])?;
        there(&["addr", "add", &format!("{own}/32"), "peer", OUTSIDE, "dev", "eth0"])?;
        there(&["link", "set", "lo", "up"])?;
        there(&["link", "set", "eth0", "up"])?;
        Ok(node)
    }

    /// Returns a command that runs on this node.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--pid", "--mount"]).arg(program);
        command
    }

    /// Address of the `nth` node.
    pub fn address(nth: usize) -> String {
        format!("10.0.0.1{}", nth + 1)
    }

    /// Cuts the node off from all others, or connects it again.
    ///
    /// # Errors
    ///
    /// Returns the reason for which its link cannot be changed.
    pub fn set_connected(&self, is_connected: bool) -> Result<(), String> {
        let state = if is_connected { "up" } else { "down" };
        ip(Command::new("ip").args(["link", "set", &self.link, state]))
    }

    /// Returns whether its first process still runs.
    pub fn is_running(&mut self) -> bool {
        self.unshare.is_running()
    }
}

/// Process that a command of [`Node::enter`] runs on its node, by the pid of that command.
pub fn only_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.trim().parse().ok()
}

fn ip(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
