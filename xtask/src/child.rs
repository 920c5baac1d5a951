//! One step of a command: a child process with its purpose, its duration, and its output if it
//! fails.
//!
//! A quiet step keeps the child's output and shows its last lines only on failure. While it runs
//! there is a spinner on a terminal, or a line every 15 s elsewhere, so that a log never seems to
//! hang. A streaming step passes its output through. Every child gets its own process group, which
//! is killed when the command is interrupted or panics.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::progress::Progress;
use crate::{clock, signals};

/// Interval at which a wait checks the signal flag: short enough that Ctrl-C feels immediate.
const TICK: Duration = Duration::from_millis(100);
/// Number of lines shown of a failed child's output.
const TAIL_LINES: usize = 40;
/// Time for an interrupted child to stop by itself before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Child in its own process group, which is killed as a group on drop.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts the command in a new process group.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn();
        let program = command.get_program().to_string_lossy().into_owned();
        child.map(Self).with_context(|| format!("{program} could not be started"))
    }

    /// Returns the child, for its pipes and its pid.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Returns the exit status, if the child has ended.
    pub fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot read a child's state")
    }

    /// Returns true if any process of the group still exists, whichever user owns it.
    pub fn has_members(&self) -> bool {
        let Ok(pid) = i32::try_from(self.0.id()) else { return false };
        // SAFETY: signal 0 sends nothing; kill takes two integers and touches no memory of ours.
        let found = unsafe { libc::kill(-pid, 0) };
        found == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
    }

    /// Sends a signal to every process of the group.
    pub fn signal(&self, signal: i32) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // SAFETY: kill takes two integers and touches no memory of ours; the group is that of
            // an unreaped child.
            unsafe { libc::kill(-pid, signal) };
        }
    }

    /// Waits until the child ends, at most `limit`.
    pub fn wait_for(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = clock::now();
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(20)),
                _ => return None,
            }
        }
    }

    /// Stops the group: SIGTERM, a grace period, SIGKILL.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.0.try_wait() {
            return Some(status);
        }
        self.signal(libc::SIGTERM);
        if let Some(status) = self.wait_for(grace) {
            return Some(status);
        }
        self.signal(libc::SIGKILL);
        self.wait_for(GRACE)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop(GRACE);
    }
}

/// Reaction of a running step to a stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// Stop it at once: the step can be repeated.
    Stop,
    /// Let it finish first: an unfinished step, such as apt-get, would leave the machine in a worse
    /// state.
    Finish,
}

/// Runs a command quietly: `what` names it while it runs, and `hint` is the advice if it fails.
pub fn quiet(
    what: &str,
    command: &mut Command,
    hint: &str,
    on_interrupt: OnInterrupt,
) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = clock::now();
    let mut group = Group::spawn(command)?;
    let lines = lines_of(&mut group);
    let mut tail = VecDeque::new();
    let mut progress = Progress::new();
    let status = loop {
        if on_interrupt == OnInterrupt::Stop {
            signals::check().inspect_err(|_| progress.clear())?;
        }
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // Both pipes are closed: the child has ended, or will in a moment.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(10)),
        }
        let last = tail.back().map_or("", String::as_str).trim();
        let finishing = signals::stopped();
        progress.show(
            what,
            start.elapsed(),
            if finishing { "stopping after this step" } else { last },
        );
        if let Some(status) = group.try_wait()? {
            // The readers may still be a few lines behind; a grandchild may keep the pipe open for
            // a long time.
            tail.extend(std::iter::from_fn(|| lines.recv_timeout(TICK).ok()));
            break status;
        }
    };
    progress.clear();
    signals::check()?;
    if status.success() {
        eprintln!("  ok  {what} ({:.1} s)", start.elapsed().as_secs_f64());
        return Ok(());
    }
    let shown: Vec<_> =
        tail.iter().skip(tail.len().saturating_sub(TAIL_LINES)).map(String::as_str).collect();
    let command = line_of(command);
    bail!(
        "{what} failed ({status})\n  command: {command}\n  last lines:\n    {}\n  hint: {hint}",
        shown.join("\n    ")
    );
}

/// Runs a command and passes its output through.
pub fn streaming(what: &str, command: &mut Command) -> anyhow::Result<ExitStatus> {
    eprintln!("  ..  {what}: {}", line_of(command));
    let start = clock::now();
    let mut group = Group::spawn(command.stdin(Stdio::null()))?;
    loop {
        signals::check()?;
        if let Some(status) = group.try_wait()? {
            let mark = if status.success() { "ok " } else { "FAILED" };
            eprintln!("  {mark} {what} ({:.1} s)", start.elapsed().as_secs_f64());
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(30));
    }
}

/// Returns a command's standard output, if the command could be run and succeeded.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns a program's standard output.
///
/// # Errors
///
/// Returns an error if the program cannot be started or fails.
pub fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let line = line_of(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("`{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// Formats a command as typed in a shell.
pub fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Passes each line of a stream, without its line end, to `sink`, until the stream closes or `sink`
/// returns false.
pub fn each_line(
    stream: impl Read + Send + 'static,
    mut sink: impl FnMut(String) -> bool + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // Cargo and apt redraw a line with carriage returns: only the last version counts.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
            if !sink(line) {
                break;
            }
        }
    });
}

fn lines_of(group: &mut Group) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = group.child().stdout.take() {
        let sender = sender.clone();
        each_line(stdout, move |line| sender.send(line).is_ok());
    }
    if let Some(stderr) = group.child().stderr.take() {
        each_line(stderr, move |line| sender.send(line).is_ok());
    }
    receiver
}
