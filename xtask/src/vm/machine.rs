//! One virtual machine, from power-on to power-off, and the results that it tells as they come.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::table::{self, Outcome};
use crate::progress::Progress;
use crate::step::{self, Group};
use crate::{clock, signals};

/// For the checks of a virtual machine, which take about a minute when nothing hangs.
const LIMIT: Duration = Duration::from_mins(6);
/// For the same checks on hardware, which take about ten seconds.
pub const HOST_LIMIT: Duration = Duration::from_mins(4);
const TICK: Duration = Duration::from_millis(100);
/// How much of the console is shown where the machine itself fails.
const TAIL_LINES: usize = 25;

/// Boots a kernel and runs the checks in it.
pub fn boot(vmlinuz: &Path, image: &Path, log: &Path, only: Option<&str>) -> anyhow::Result<Outcome> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    // Emulation works everywhere. The model is the newest that Debian 12's emulator has in full. A count that each CPU
    // keeps for itself shows only with several of them.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "Haswell-v4", "-smp", "8", "-m", "2G"]);
    qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(image);
    let only = only.map(|only| format!(" -- --only {only}")).unwrap_or_default();
    qemu.args(["-append", &format!("console=ttyS0 panic=-1 loglevel=5{only}")]);
    // The first port is the console, the second the results.
    let console = log.with_extension("console");
    qemu.args(["-serial", &format!("file:{}", console.display()), "-serial", "stdio"]);
    let outcome = watch(qemu, log, LIMIT);
    // The emulator's own words, then the console: one file tells it all.
    let told = fs::read(log).unwrap_or_default();
    let said = fs::read(&console).unwrap_or_default();
    fs::remove_file(&console).ok();
    fs::write(log, [said, told].concat()).with_context(|| format!("{} cannot be written", log.display()))?;
    outcome.map(|outcome| outcome.with_tail(log))
}

/// Runs a program that prints one JSON line a result, and shows each as it comes. What it says beside that goes to the log.
pub fn watch(mut command: Command, log: &Path, limit: Duration) -> anyhow::Result<Outcome> {
    let errors = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let start = clock::now();
    let mut group = Group::spawn(&mut command)?;
    let (sender, lines) = channel();
    let stdout = group.child().stdout.take().context("standard output is piped")?;
    step::each_line(stdout, move |line| sender.send(line).is_ok());
    let mut progress = Progress::new();
    let mut outcome = table::Checked::default();
    let ended = loop {
        signals::check().inspect_err(|_| progress.clear())?;
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && let Some(result) = outcome.take(&value)
                {
                    progress.clear();
                    eprintln!("{result}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break "ended early",
            Err(RecvTimeoutError::Timeout) if start.elapsed() > limit => break "hung, and was stopped",
            Err(RecvTimeoutError::Timeout) => progress.show(&outcome.stands(), start.elapsed(), ""),
        }
    };
    progress.clear();
    group.stop(Duration::from_secs(2));
    if !outcome.done {
        outcome.broken = Some(format!("{ended} after {:.0} s", start.elapsed().as_secs_f64()));
    }
    outcome.log = log.to_path_buf();
    Ok(Outcome::Checked(outcome))
}

/// The last lines of a file.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ")
}
