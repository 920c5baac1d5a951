//! Sets and removes one limit with the agent's own code in one thread, so that it can be killed
//! anywhere in between.
//!
//! Limits the cgroup of a process, has the limit wiped as another program would, sets it again, and
//! restores the original value; with every option, also widens the backstop in between and limits
//! the CPU.

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

/// Limit a cgroup, have it wiped, set it again, and restore it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the journal
    #[arg(long)]
    state_dir: PathBuf,
    /// The operator's configuration
    #[arg(long)]
    config: Option<PathBuf>,
    /// Cgroup, from the hierarchy's root
    #[arg(long)]
    cgroup: String,
    /// File of the cgroup, and the value written to it in between
    #[arg(long, num_args = 2)]
    wipe: Vec<String>,
    /// Cgroups that may be divided
    #[arg(long)]
    delegated: Vec<String>,
    /// Process in the cgroup
    #[arg(long)]
    pid: u32,
    /// Start of that process, in ticks since boot
    #[arg(long)]
    start_ticks: u64,
    /// With a backstop, and with less CPU as soon as more memory is used
    #[arg(long)]
    all: bool,
    /// The limit is undone by another process meanwhile: read once more, and change nothing
    #[arg(long)]
    overtaken: bool,
}

/// Runs until it is killed or done.
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
    let journal = Journal::claim(&config.record.state_dir).context("cannot claim the journal")?;
    let mut limits = ActiveLimits::new(&config, Ok(journal));
    let culprit = ProcessId { pid: args.pid, start_ticks: args.start_ticks };
    let limited = limits.limit(0.0, &IncidentId::from("leak-1-1"), &args.cgroup.into(), culprit);
    if args.overtaken {
        for t in [1.0, 2.0, 3.0] {
            let [file, value] = &args.wipe[..] else {
                anyhow::bail!("--wipe takes a file and a value")
            };
            std::fs::write(file, value)
                .with_context(|| format!("cannot write {value} to {file}"))?;
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
        // Memory that this process takes from now on is charged to the cgroup.
        let procs = Path::new(file).with_file_name("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| format!("cannot enter {}", procs.display()))?;
        charged.push(touched());
    }
    std::fs::write(file, value).with_context(|| format!("cannot write {value} to {file}"))?;
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

/// Allocates more memory than a CPU charges ahead.
fn touched() -> Vec<u8> {
    vec![1; 4 << 20]
}
