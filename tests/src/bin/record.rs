//! Records accept queues for the corpus: real servers under real load, seen by the agent's own
//! sensors, labelled by independent means. `cargo xtask corpus queues record` builds and runs it.
//!
//! Each recording runs on a thread and in a network namespace of its own, over loopback only;
//! everything that it starts ends with the thread. A recording is discarded if its truth
//! contradicts it, or if the truth had a gap, as on a busy machine.
//!
//! Exit codes: 0 all are kept, 1 some are not.

#[path = "../record/keep.rs"]
mod keep;
#[path = "../record/label.rs"]
mod label;
#[path = "../record/plays.rs"]
mod plays;
#[path = "../record/quota.rs"]
mod quota;
#[path = "../record/set.rs"]
mod set;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use spillway_tests::{Servers, is_root, now, recorder::Recorder};

use self::{
    plays::{PLAYS, Play},
    set::Set,
};

/// Maximum share of the CPUs' time that other processes may take when a recording begins, and how
/// long it waits for that.
const OTHERS_MAX: f64 = 0.2;
const QUIET_WITHIN: Duration = Duration::from_secs(300);

/// Record accept queues of real servers under real load.
#[derive(Debug, Parser)]
struct Cli {
    /// Names of the recordings; by default all
    names: Vec<String>,
}

fn main() -> ExitCode {
    record(&Cli::parse().names).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn record(names: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(unknown) = names.iter().find(|name| PLAYS.iter().all(|play| play.name != **name)) {
        let known: Vec<_> = PLAYS.iter().map(|play| play.name).collect();
        bail!("no recording is called {unknown}\n  hint: there are {}", known.join(", "));
    }
    if !is_root("recording") {
        bail!("the sensors and a network namespace need root");
    }
    let servers = Servers::find().map_err(|reason| anyhow!(reason))?;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/queues");
    fs::create_dir_all(corpus.join("recorded"))?;
    let mut code = ExitCode::SUCCESS;
    for play in
        PLAYS.iter().filter(|play| names.is_empty() || names.iter().any(|name| name == play.name))
    {
        if let Err(error) = one(play, &servers, &corpus) {
            eprintln!("  not kept: {}: {error:#}", play.name);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn one(play: &'static Play, servers: &Servers, corpus: &Path) -> anyhow::Result<()> {
    wait_for_quiet()?;
    // Outside of the namespace, like the agent.
    let recorder = Recorder::start()?;
    let servers = servers.clone();
    let played = thread::spawn(move || Set::play(play, servers, recorder)).join();
    let played = played.map_err(|_| anyhow!("it panicked, see above"))??;
    keep::keep(play, &played, corpus)
}

/// Waits until other processes leave the CPUs idle.
fn wait_for_quiet() -> anyhow::Result<()> {
    let start = now();
    let busy_ticks = || -> anyhow::Result<(f64, f64)> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        let all: f64 = ticks.iter().take(8).sum();
        // Idle and waiting for disks.
        Ok((all - ticks.iter().skip(3).take(2).sum::<f64>(), all))
    };
    loop {
        let before = busy_ticks()?;
        sleep(Duration::from_secs(2));
        let after = busy_ticks()?;
        let share = (after.0 - before.0) / (after.1 - before.1);
        if share <= OTHERS_MAX {
            return Ok(());
        }
        if start.elapsed() > QUIET_WITHIN {
            bail!(
                "other processes use {:.0} % of the CPUs\n  hint: record on an otherwise idle \
                else",
                share * 100.0
            );
        }
    }
}
