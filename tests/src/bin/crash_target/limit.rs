//! One limit from its beginning to its end, by the agent's own code in one thread: to be killed
//! anywhere in between.
//!
//! Limits the cgroup of a process, has the limit wiped as somebody else would and sets it again,
//! and puts back what was there; or, with all that an operator may want, has the backstop give way
//! in between, and the CPU limited as well.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    act::{Journal, OutcomeKind, limit::ActiveLimits},
    config::{self, Config, Pattern},
    decide::IncidentId,
    sense::ProcessId,
};

/// Limit a cgroup, have it wiped, set it again, and put it back.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    /// Cgroups that may be divided
    #[arg(long)]
    delegated: Vec<String>,
    /// A process in it, and when it was started
    #[arg(long)]
    pid: u32,
    /// In ticks since boot
    #[arg(long)]
    start_ticks: u64,
    /// With a backstop, and less CPU as soon as more is used
    #[arg(long)]
    all: bool,
    /// Somebody undoes it meanwhile: look once more, and leave what is there
    #[arg(long)]
    overtaken: bool,
}

/// Runs until it is killed, or has come to its end.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), config::load)?;
    config.record.state_dir = args.state_dir;
    if args.all {
        let limit = &mut config.act.limit;
        limit.backstop_bytes = Some(4 * limit.margin_bytes);
        (limit.cpu_weight, limit.cpu_max_percent, limit.cpu_after) =
            (Some(10), Some(50), Duration::ZERO);
    }
    let delegated =
        args.delegated.iter().map(|text| Pattern::new(text).map_err(anyhow::Error::msg));
    config.act.limit.delegated = delegated.collect::<anyhow::Result<_>>()?;
    let journal =
        Journal::claim(&config.record.state_dir).context("the journal cannot be claimed")?;
    let mut limits = ActiveLimits::new(&config, Ok(journal));
    let culprit = ProcessId { pid: args.pid, start_ticks: args.start_ticks };
    let limited = limits.limit(0.0, &IncidentId::from("leak-1-1"), &args.cgroup.into(), culprit);
    if args.overtaken {
        for t in [1.0, 2.0, 3.0] {
            let [file, value] = &args.wipe[..] else {
                anyhow::bail!("--wipe takes a file and a value")
            };
            std::fs::write(file, value).with_context(|| format!("{file}={value} was refused"))?;
            limits.look(t);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if limited.event != OutcomeKind::Limited {
        println!("{}", serde_json::to_string(&limited)?);
        return Ok(ExitCode::FAILURE);
    }
    let [file, value] = &args.wipe[..] else { anyhow::bail!("--wipe takes a file and a value") };
    let mut charged = Vec::new();
    if args.all {
        // What this process takes from now on is the cgroup's.
        let procs = Path::new(file).with_file_name("cgroup.procs");
        std::fs::write(&procs, "0")
            .with_context(|| format!("{} cannot be entered", procs.display()))?;
        charged.push(touched());
    }
    std::fs::write(file, value).with_context(|| format!("{file}={value} was refused"))?;
    let looked = limits.look(1.0);
    ensure!(matches!(&looked[..], [one] if one.event == OutcomeKind::Reasserted), "{looked:?}");
    if args.all {
        charged.push(touched());
        let looked = limits.look(2.0);
        ensure!(
            matches!(&looked[..], [one] if one.event == OutcomeKind::CpuThrottled),
            "{looked:?}"
        );
    }
    let undone = limits.undo_all(2.0);
    ensure!(matches!(&undone[..], [one] if one.event == OutcomeKind::Undone), "{undone:?}");
    drop(charged);
    Ok(ExitCode::SUCCESS)
}

/// Some memory, more than a CPU charges ahead.
fn touched() -> Vec<u8> {
    vec![1; 4 << 20]
}
