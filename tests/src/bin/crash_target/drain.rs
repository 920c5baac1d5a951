//! Drains and undrains as the agent does, by an operator's word, and says what was done: to be
//! killed anywhere in between.

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

/// How soon it is said what was done.
const LOOKS_EVERY: Duration = Duration::from_micros(200);

/// Keep a node where an operator says until killed, one line on standard output for each thing that
/// was done.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's configuration
    #[arg(long)]
    config: PathBuf,
}

/// Runs until it is killed, or has come to its end.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let clock = Clock::start();
    let mut drainer = DrainWorker::start(&config::load(&args.config)?, clock, None)?;
    let mut out = io::stdout().lock();
    loop {
        for outcome in drainer.outcomes(clock.now()) {
            writeln!(out, "{}", outcome.event.name())?;
            out.flush()?;
        }
        sleep(LOOKS_EVERY);
    }
}
