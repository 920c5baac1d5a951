//! One limit from its beginning to its end, by the agent's own code in one thread: to be killed anywhere in between.
//!
//! Limits the cgroup of a process, has the limit wiped as somebody else would and sets it again, and puts back what was there.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;
use spillway_agent::{
    act::{Event, Journal, limit::Limits},
    config::{self, Config},
    sense::ProcessId,
};

/// Limit a cgroup, have it wiped, set it again, and put it back.
#[derive(Debug, Parser)]
struct Args {
    /// Where the journal is
    #[arg(long)]
    state_dir: PathBuf,
    /// What the operator says of it
    #[arg(long)]
    config: Option<PathBuf>,
    /// The cgroup, from the hierarchy's root
    #[arg(long)]
    cgroup: String,
    /// A file of it, and what is put there between
    #[arg(long, num_args = 2)]
    wipe: Vec<String>,
    /// A process in it, and when it was started
    #[arg(long)]
    pid: u32,
    /// In ticks since boot
    #[arg(long)]
    start_ticks: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), config::load)?;
    config.record.state_dir = args.state_dir;
    let journal = Journal::claim(&config.record.state_dir).context("the journal cannot be claimed")?;
    let mut limits = Limits::new(&config, Ok(journal));
    let culprit = ProcessId { pid: args.pid, start_ticks: args.start_ticks };
    let limited = limits.limit(0.0, "leak-1-1", &args.cgroup.into(), culprit);
    if limited.event != Event::Limited {
        println!("{}", serde_json::to_string(&limited)?);
        return Ok(ExitCode::FAILURE);
    }
    let [file, value] = &args.wipe[..] else { anyhow::bail!("--wipe takes a file and a value") };
    std::fs::write(file, value).with_context(|| format!("{file}={value} was refused"))?;
    let looked = limits.look(1.0);
    ensure!(matches!(&looked[..], [one] if one.event == Event::Reasserted), "{looked:?}");
    let undone = limits.undo_all(2.0);
    ensure!(matches!(&undone[..], [one] if one.event == Event::Undone), "{undone:?}");
    Ok(ExitCode::SUCCESS)
}
