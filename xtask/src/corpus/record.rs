//! `cargo xtask corpus record`: runs real programs side by side, each in its own cgroup and under
//! its own load, records the host with `spillway record`, and splits that trace into a small one
//! for each program.
//!
//! The recorder starts first, so that the trace contains the programs' start. Load generators talk
//! to loopback only and share one more cgroup. Every cgroup has a hard limit, which is set before
//! anything runs in it and is not changed afterwards. At the end, also after Ctrl-C, every process
//! is stopped, and everything written outside the cache and `tests/corpus/recorded` is removed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::program::Program;
use super::trace_filter::{self, Subject};
use crate::child::Group;
use crate::demo::cgroup::{self, LeakCgroup};
use crate::progress::Progress;
use crate::workspace::{Workspace, is_root};
use crate::{build, clock, signals, sudo};

const PREFIX: &str = "spillway-corpus-";
/// Time for the recorder to attach its probes before the programs start: it takes 2 s on the
/// development machine, and more on a busy host.
const AHEAD: Duration = Duration::from_secs(8);
/// Configuration of the recorder. Two seconds between scans keep traces small and lose no detail of
/// curves that take minutes. The agent refuses horizons with only one scan per bucket, so the first
/// is longer than by default. Listeners are not kept in the trace, and therefore are sampled
/// rarely.
const CONFIG: &str = "[sense]\ninterval = \"2s\"\n\
    [detect.leak]\nhorizons = [\"64s\"]\n\
    [detect.overload]\ninterval = \"5s\"\nsustain = \"10s\"\nclear_after = \"10s\"\n";
/// Memory limit of all load generators together: a few small clients, with room to spare.
const LOAD_LIMIT: u64 = 2 << 30;

/// Run real programs under load and record them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Programs of tests/corpus/programs to record, each in all its versions; all programs by
    /// default
    names: Vec<String>,
    /// Duration in minutes or seconds, such as 45m or 90s
    #[arg(long = "for", value_name = "TIME", default_value = "45m", value_parser = duration)]
    time: Duration,
    /// Use this agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// A running program and its cgroup. The fields are dropped in order, so the processes end before
/// their cgroup is removed.
struct Running {
    program: Program,
    group: Group,
    cgroup: LeakCgroup,
}

/// Temporary directory, removed on drop.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let corpus = workspace.root.join("tests/corpus");
    let scratch = Scratch(env::temp_dir().join(format!("spillway-corpus-{}", std::process::id())));
    fs::create_dir_all(&scratch.0)
        .with_context(|| format!("cannot create {}", scratch.0.display()))?;
    let programs = Program::load(&corpus.join("programs"), &args.names, &scratch.0)?;
    for program in &programs {
        program.install()?;
    }
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => {
            build::bpf(&workspace)?;
            build::binaries(&workspace, true, &["spillway"])?;
            workspace.binary(true, "spillway")
        }
    };
    cgroup::remove_stale();
    let trace = scratch.0.join("trace.jsonl");
    let config = scratch.0.join("spillway.toml");
    fs::write(&config, CONFIG).with_context(|| format!("cannot write {}", config.display()))?;
    let mut recorder = recorder(&agent, &config, &trace, args.time)?;
    wait(AHEAD)?;
    let load = LeakCgroup::make_named(&format!("{PREFIX}load"), LOAD_LIMIT)?;
    let mut running = Vec::new();
    let mut clients = Vec::new();
    for program in programs {
        let (one, client) = start(program, &load)?;
        running.push(one);
        clients.extend(client);
    }
    let mut failed = watch(&mut recorder, &mut running, args.time)?;
    let subjects: Vec<_> =
        running.iter().map(|one| Subject::of(&one.program, name_of(&one.cgroup))).collect();
    let load_name = name_of(&load);
    drop(clients);
    drop(running);
    drop(load);
    let recorded = corpus.join("recorded");
    fs::create_dir_all(&recorded)
        .with_context(|| format!("cannot create {}", recorded.display()))?;
    for subject in &subjects {
        signals::check()?;
        if failed.contains(&subject.id) {
            continue;
        }
        if let Err(error) = trace_filter::keep(&trace, subject, &load_name, &recorded) {
            eprintln!("  not kept: {}: {error:#}", subject.id);
            failed.push(subject.id.clone());
        }
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts the agent's recorder, through sudo if this process is not root.
fn recorder(agent: &Path, config: &Path, trace: &Path, time: Duration) -> anyhow::Result<Group> {
    sudo::authenticate(&format!("{} record", agent.display()))?;
    let xtask = env::current_exe().context("the path of this program is not known")?;
    let mut command = if is_root() { Command::new(&xtask) } else { Command::new("sudo") };
    if !is_root() {
        command.arg("-n").arg(&xtask);
    }
    command.args(["hold", "--"]).arg(agent).args([
        "record",
        "--duration",
        &format!("{}s", time.as_secs()),
    ]);
    command.arg("--config").arg(config).arg("--out").arg(trace);
    // The pipe stays open for as long as the group lives: closing it stops the recorder.
    Group::spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()))
}

/// Starts a program in its own cgroup, and its load.
fn start(program: Program, load: &LeakCgroup) -> anyhow::Result<(Running, Option<Group>)> {
    let limit = program.number("memory_max_bytes") as u64;
    let cgroup = LeakCgroup::make_named(&format!("{PREFIX}{}", program.id()), limit)?;
    if let LeakCgroup::Shared(why) = &cgroup {
        bail!("{} has no cgroup of its own: {why}\n  hint: run this as root", program.id());
    }
    let spawn = |cgroup: &LeakCgroup, key| -> anyhow::Result<Option<Group>> {
        let Some(words) = program.words(key) else { return Ok(None) };
        let (binary, arguments) =
            words.split_first().with_context(|| format!("{}: empty {key}", program.family))?;
        let mut command = cgroup.command(Path::new(binary))?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        program.equip(&mut command);
        Group::spawn(&mut command).map(Some)
    };
    let group = spawn(&cgroup, "program")?
        .with_context(|| format!("{}: no command to start", program.family))?;
    let client = spawn(load, "client")?;
    Ok((Running { program, group, cgroup }, client))
}

/// Waits until the recorder is done; returns the programs that ended before it.
fn watch(
    recorder: &mut Group,
    running: &mut [Running],
    time: Duration,
) -> anyhow::Result<Vec<String>> {
    let start = clock::now();
    let mut failed = Vec::new();
    let mut progress = Progress::new();
    loop {
        wait(Duration::from_millis(500)).inspect_err(|_| progress.clear())?;
        for one in running.iter_mut() {
            if let Some(status) = one.group.try_wait()?
                && !failed.contains(&one.program.id())
            {
                progress.clear();
                eprintln!("  not kept: {} ended by itself ({status})", one.program.id());
                failed.push(one.program.id());
            }
        }
        if let Some(status) = recorder.try_wait()? {
            progress.clear();
            if !status.success() {
                bail!("`spillway record` failed ({status})\n  hint: see its message above");
            }
            return Ok(failed);
        }
        let what = format!("record {} programs for {} s", running.len(), time.as_secs());
        progress.show(&what, start.elapsed(), "");
    }
}

fn wait(time: Duration) -> anyhow::Result<()> {
    let start = clock::now();
    while start.elapsed() < time {
        signals::check()?;
        thread::sleep(Duration::from_millis(50).min(time));
    }
    signals::check()
}

/// Returns the last part of a cgroup's path, by which traces name it.
fn name_of(cgroup: &LeakCgroup) -> String {
    match cgroup {
        LeakCgroup::Made(path) => {
            path.file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
        LeakCgroup::Scope { unit, .. } => format!("{unit}.scope"),
        LeakCgroup::Shared(_) => String::new(),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.len().saturating_sub(1);
    let (number, factor) = match text.get(split..) {
        Some("m") => (&text[..split], 60),
        Some("s") => (&text[..split], 1),
        _ => return Err("no unit: write it as 45m or 90s".into()),
    };
    let number: u64 = number.parse().map_err(|_| format!("{number:?} is not a whole number"))?;
    Ok(Duration::from_secs(number * factor))
}
