//! The agent through floods and rests, and what it keeps of them: `cargo xtask soak` builds and
//! runs it.
//!
//! A run is an agent's months in minutes: floods of processes, listeners, destinations, reloads and
//! notifications in turns, with a rest after each. Resident memory, processor time, threads and
//! open files are sampled all along, and judged at the end. Needs root; changes nothing but cgroups
//! that it makes itself, in a network namespace of its own.
//!
//! Exit codes: 0 all targets were met, 1 one was missed, 130 interrupted.

mod figures;
mod floods;
mod report;
mod stage;

use std::{process::ExitCode, time::Duration};

use anyhow::{bail, ensure};
use clap::{Parser, ValueEnum as _};
use spillway_tests::is_root;

use floods::{Counts, Kind, Sizes};
use report::Report;
use stage::{Interrupted, Stage};

/// Time for which a flood and the rest after it are taken to last, together.
const TURN_SECS: f64 = 40.0;

/// Run the agent through floods, and see what it keeps of them
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask soak",
    after_help = "Examples:\n  \
    cargo xtask soak                          every flood, for twelve minutes\n  \
    cargo xtask soak --minutes 60 --json      for an hour, the figures as JSON on standard output\n  \
    cargo xtask soak --flood listeners        one kind of flood\n\n\
    Exit codes: 0 all targets met, 1 a target was missed or something failed, 130 interrupted."
)]
struct Cli {
    /// Duration of the run; each flood is made at least once
    #[arg(long, default_value_t = 12.0)]
    minutes: f64,
    /// Print the figures as JSON; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Make only floods of this kind; may be given several times
    #[arg(long, value_enum)]
    flood: Vec<Kind>,
    /// Duration of each flood, in seconds
    #[arg(long, default_value_t = 10.0)]
    flood_secs: f64,
    /// Longest rest after a flood, in seconds: memory goes back in steps of which the fourth comes
    /// after 100 s
    #[arg(long, default_value_t = 110.0)]
    rest_secs: f64,
    /// Idle processes at once
    #[arg(long, default_value_t = 5_000)]
    processes: usize,
    /// Cgroups that they are in
    #[arg(long, default_value_t = 500)]
    cgroups: usize,
    /// Listeners at once
    #[arg(long, default_value_t = 8_000)]
    listeners: usize,
    /// Destinations at a time
    #[arg(long, default_value_t = 4_000)]
    destinations: usize,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted: everything was stopped and removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    ensure!(cli.minutes > 0.0 && cli.flood_secs > 0.0, "a duration has to be above 0");
    if !is_root("soak") {
        bail!("the agent, the network namespace and the cgroups need root\n  hint: use sudo");
    }
    let sizes = Sizes {
        lasting: Duration::try_from_secs_f64(cli.flood_secs)?,
        processes: cli.processes,
        cgroups: cli.cgroups,
        listeners: cli.listeners,
        destinations: cli.destinations,
    };
    let kinds = if cli.flood.is_empty() { Kind::value_variants() } else { &cli.flood };
    let mut stage = Stage::set(Duration::try_from_secs_f64(cli.rest_secs)?)?;
    let (mut counts, mut crowd) = (Counts::default(), None);
    stage.rest()?;
    for (nth, kind) in kinds.iter().cycle().enumerate() {
        let goes_on = stage.secs() + TURN_SECS <= cli.minutes * 60.0;
        if nth >= kinds.len() && !goes_on {
            break;
        }
        let seen = stage.flood(kind.name(), |stage| kind.play(stage, &sizes, &mut counts))?;
        // The last of several turns has gone through most.
        crowd = seen.or(crowd);
        stage.rest()?;
    }
    let (samples, parts) = stage.seen();
    let report = Report::new(samples, parts, crowd, counts);
    stage.end()?;
    match cli.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{}", report.table()),
    }
    Ok(if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
