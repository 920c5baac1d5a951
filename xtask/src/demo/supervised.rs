//! A command that the demo runs as root under `xtask hold`, through sudo if necessary.
//!
//! Its standard output is read; its standard error is kept, to be shown if something fails.
//! Dropping it closes the pipe that `hold` reads. This stops the command, and removes the files
//! that an agent created on a machine where none had run before.

use std::collections::VecDeque;
use std::env;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;

use crate::child::{Group, each_line};
use crate::supervise::PID_LINE;
use crate::workspace::is_root;
use crate::{clock, sudo};

/// Timeout of a stop: `hold` waits 10 s before it kills the command.
const STOP_WITHIN: Duration = Duration::from_secs(15);
const LOG_LINES: usize = 40;
/// Paths that an agent may create: removed at the end unless they existed before.
pub const OWN_PATHS: [&str; 3] = ["/var/lib/spillway", "/run/spillway", "/sys/fs/bpf/spillway"];

enum Event {
    Out(String),
    Log(String),
}

/// A command that runs until it ends or is dropped.
pub struct Held {
    group: Group,
    pipe: Option<ChildStdin>,
    events: Receiver<Event>,
    log: VecDeque<String>,
    pid: Option<u32>,
}

/// Asks for sudo's password, before anything is started.
pub fn authenticate(agent: &Path) -> anyhow::Result<()> {
    sudo::authenticate(&format!("{} run", agent.display()))
}

impl Held {
    /// Starts the command. Only its program and arguments are used.
    pub fn start(held: &Command) -> anyhow::Result<Self> {
        let xtask = env::current_exe().context("the path of this program is not known")?;
        let mut command = if is_root() { Command::new(&xtask) } else { Command::new("sudo") };
        if !is_root() {
            command.arg("-n").arg(&xtask);
        }
        command.arg("hold");
        for path in OWN_PATHS {
            command.args(["--own", path]);
        }
        command.arg("--").arg(held.get_program()).args(held.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = Group::spawn(&mut command)?;
        let (sender, events) = channel();
        let pipe = group.child().stdin.take();
        listen(&mut group, &sender);
        Ok(Self { group, pipe, events, log: VecDeque::new(), pid: None })
    }

    /// Returns the next line of standard output, if one arrives in time.
    pub fn next_line(&mut self, wait: Duration) -> Option<String> {
        let start = clock::now();
        loop {
            match self.events.recv_timeout(wait.saturating_sub(start.elapsed())) {
                Ok(Event::Out(line)) => return Some(line),
                Ok(Event::Log(line)) => self.keep(line),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(wait.saturating_sub(start.elapsed()));
                    return None;
                }
            }
        }
    }

    /// Returns the exit code, if the command has ended.
    pub fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.group.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Stops the command with SIGTERM and returns its exit code; `None` if it does not end.
    pub fn stop(&mut self) -> Option<i32> {
        self.pipe = None;
        let status = self.group.wait_for(STOP_WITHIN);
        while let Some(_last) = self.next_line(Duration::ZERO) {}
        status.map(|status| status.code().unwrap_or(-1))
    }

    /// Returns true if any process of the command still exists.
    pub fn remains(&self) -> bool {
        self.group.has_members()
            || self.pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
    }

    /// Returns the last lines of its log.
    pub fn log(&self) -> String {
        self.log.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn keep(&mut self, line: String) {
        if let Some(pid) = line.strip_prefix(PID_LINE) {
            self.pid = pid.parse().ok();
            return;
        }
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(group: &mut Group, sender: &Sender<Event>) {
    if let Some(stdout) = group.child().stdout.take() {
        let sender = sender.clone();
        each_line(stdout, move |line| sender.send(Event::Out(line)).is_ok());
    }
    if let Some(stderr) = group.child().stderr.take() {
        let sender = sender.clone();
        each_line(stderr, move |line| sender.send(Event::Log(line)).is_ok());
    }
}
