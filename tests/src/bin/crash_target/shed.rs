//! Bounds and restores one accept queue with the agent's own code in one thread, so that it can be
//! killed anywhere in between.
//!
//! The queue is bounded, has another bound as the rate changes, and gets its original length back.

use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use spillway_agent::{
    act::{
        OutcomeKind,
        shed::{ActiveSheds, QueueReading, ShedJournal, ShedTarget},
    },
    config::Config,
    decide::IncidentId,
    sense::{CgroupPaths, Hierarchy},
};

/// Bound an accept queue, change the bound, and restore the length
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the journal
    #[arg(long)]
    state_dir: PathBuf,
    /// Process that holds the listener
    #[arg(long)]
    pid: u32,
    /// Inode number of its network namespace
    #[arg(long)]
    netns: u32,
    /// Address of the listener
    #[arg(long)]
    addr: String,
    /// Connections are reset meanwhile, in the network namespace of the process
    #[arg(long)]
    reset: bool,
    /// The bound is undone by another process meanwhile: check no outcome
    #[arg(long)]
    overtaken: bool,
}

/// Runs until it is killed or done.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Config::default();
    config.record.state_dir = args.state_dir;
    config.act.shed.reset = args.reset;
    let journal = ShedJournal::claim(&config.record.state_dir).map_err(|error| error.to_string());
    let mut sheds = ActiveSheds::new(&config, journal);
    let addr = std::sync::Arc::from(args.addr);
    let id = IncidentId::Overload { netns: args.netns, addr: std::sync::Arc::clone(&addr) };
    let target = ShedTarget {
        id: id.clone(),
        netns: args.netns,
        addr,
        cgroup: CgroupPaths::new(Hierarchy::detect()).of_process(args.pid),
        pids: [args.pid].into(),
        accepts_per_sec: Some(100.0),
        first: QueueReading { accepted_total: Some(0), ..QueueReading::default() },
    };
    let is_alone = !args.overtaken;
    let begun = sheds.begin(0.0, &target);
    ensure!(!is_alone || begun.event == OutcomeKind::Shedding, "{begun:?}");
    let reading = |t: f64, accepted| QueueReading {
        t,
        backlog: 40,
        accepted_total: Some(accepted),
        ..QueueReading::default()
    };
    for (t, accepted) in [(1.0, 300), (2.0, 600)] {
        let outcomes = sheds.read(&id, reading(t, accepted));
        ensure!(!is_alone || outcomes.is_empty(), "{outcomes:?}");
    }
    sheds.end(2.0, &id);
    let outcomes = sheds.read(&id, reading(63.0, 700));
    let is_restored = matches!(&outcomes[..], [one] if one.event == OutcomeKind::Unshed);
    ensure!(!is_alone || is_restored, "{outcomes:?}");
    Ok(ExitCode::SUCCESS)
}
