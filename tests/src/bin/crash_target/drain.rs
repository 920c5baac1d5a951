//! Drains and undrains on an operator's word with the agent's own code, and prints each step, so
//! that it can be killed anywhere in between.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use spillway_agent::{
    act::{Executor as _, drain::DrainWorker},
    clock::Clock,
    config,
};

/// Interval between checks for a finished step.
const LOOKS_EVERY: Duration = Duration::from_micros(200);

/// Keep a node in the state that an operator wants until killed, with one line on standard output
/// for each step
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's configuration
    #[arg(long)]
    config: PathBuf,
}

/// Runs until it is killed or done.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let clock = Clock::start();
    let mut drainer = DrainWorker::start(&config::load(&args.config)?, clock, None, None)?;
    let mut out = io::stdout().lock();
    loop {
        for outcome in drainer.outcomes(clock.now()) {
            writeln!(out, "{}", outcome.event.name())?;
            out.flush()?;
        }
        sleep(LOOKS_EVERY);
    }
}
