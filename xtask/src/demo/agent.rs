//! The agent that the demo watches: the real one, on `configs/demo.toml`, held by `xtask hold` as root.
//!
//! Its standard output carries verdicts, its standard error says when it watches and is kept for the case that something fails.
//! Dropping it closes the pipe that `hold` reads, which stops the agent and removes what it made on a machine that never ran it.

use std::collections::VecDeque;
use std::env;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::hold::PID_LINE;
use crate::progress::Progress;
use crate::step::{Group, each_line};
use crate::workspace::is_root;
use crate::{clock, signals, sudo};

/// What the agent prints on standard error once its probes are attached.
const READY: &str = "spillway is watching";
/// How long that may take: loading BPF programs takes a second or two, on an emulated CPU ten.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to end: `hold` gives it 10 s before it kills it.
const STOP_WITHIN: Duration = Duration::from_secs(15);
const LOG_LINES: usize = 40;
/// What the agent may make on a machine: removed in the end unless it was there before.
pub const OWN_PATHS: [&str; 3] = ["/var/lib/spillway", "/run/spillway", "/sys/fs/bpf/spillway"];

enum Event {
    Out(String),
    Log(String),
}

/// A running agent.
pub struct Agent {
    group: Group,
    pipe: Option<ChildStdin>,
    events: Receiver<Event>,
    log: VecDeque<String>,
    pid: Option<u32>,
    ready: bool,
}

/// Asks for the password that the agent will need, before anything else has started.
pub fn authenticate(binary: &Path) -> anyhow::Result<()> {
    sudo::authenticate(&format!("{} run", binary.display()))
}

impl Agent {
    /// Starts the agent and waits until it watches.
    pub fn start(binary: &Path, config: &Path) -> anyhow::Result<Self> {
        let xtask = env::current_exe().context("the path of this program is not known")?;
        let mut command = if is_root() { Command::new(&xtask) } else { Command::new("sudo") };
        if !is_root() {
            eprintln!("demo: the agent runs through sudo, since loading BPF programs needs root; nothing else does");
            command.arg("-n").arg(&xtask);
        }
        command.arg("hold");
        for path in OWN_PATHS {
            command.args(["--own", path]);
        }
        command.arg("--").arg(binary).args(["run", "--json", "--config"]).arg(config);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = Group::spawn(&mut command)?;
        let (sender, events) = channel();
        let pipe = group.child().stdin.take();
        listen(&mut group, &sender);
        let mut agent = Self { group, pipe, events, log: VecDeque::new(), pid: None, ready: false };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// The next line of standard output, if one comes in time.
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

    /// What became of it, if it has ended.
    pub fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        Ok(self.group.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Stops it with SIGTERM and returns its exit code; `None` if it would not end.
    pub fn stop(&mut self) -> Option<i32> {
        self.pipe = None;
        let status = self.group.wait_for(STOP_WITHIN);
        while let Some(_verdict) = self.next_line(Duration::ZERO) {}
        status.map(|status| status.code().unwrap_or(-1))
    }

    /// Whether any of its processes is still there.
    pub fn remains(&self) -> bool {
        self.group.has_members() || self.pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.log.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn keep(&mut self, line: String) {
        self.ready |= line.contains(READY);
        if let Some(pid) = line.strip_prefix(PID_LINE) {
            self.pid = pid.parse().ok();
            return;
        }
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let start = clock::now();
        let mut progress = Progress::new();
        while !self.ready {
            signals::check().inspect_err(|_| progress.clear())?;
            progress.show("the agent attaches its probes", start.elapsed(), "");
            self.next_line(Duration::from_millis(100));
            let ended = self.ended()?;
            if let Some(code) = ended {
                progress.clear();
                self.next_line(Duration::from_millis(200));
                let log = self.log();
                bail!(
                    "the agent ended with exit code {code} before it was ready\n  its log:{log}\n  hint: try `spillway doctor`"
                );
            }
            if start.elapsed() > READY_WITHIN {
                progress.clear();
                let (limit, log) = (READY_WITHIN.as_secs(), self.log());
                bail!(
                    "the agent did not say \"{READY}\" within {limit} s\n  its log:{log}\n  hint: try `spillway doctor`"
                );
            }
        }
        progress.clear();
        eprintln!("  ok  the agent watches ({:.1} s)", start.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Drop for Agent {
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
