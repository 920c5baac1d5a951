//! Command line of the corpora; `cargo xtask corpus` builds and runs it.
//!
//! Exit codes: 0 done, 1 failed, or with `--check` a missed target.

mod command;
mod counts;
mod each;
mod independent;
mod leaks;
mod queues;
mod requests;
mod week;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use spillway_tests::{corpus::Part, independent::Set};

use self::{
    command::Command, counts::Counts, independent::Independent, leaks::Leaks, queues::Queues,
    requests::Requests,
};

/// The published corpora: of leaks and of healthy processes, and of accept and request
/// queues.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    #[command(flatten)]
    Leaks(Command),
    /// Work with the corpus of accept queues
    Queues {
        #[command(subcommand)]
        command: Command,
    },
    /// Work with the corpus of request queues
    Requests {
        #[command(subcommand)]
        command: Command,
    },
    /// Score the corpus of counts that head for their limit
    Counts(Counts),
    /// Count the pages that a human would get in a week of a healthy host
    Week {
        /// Part whose healthy runs make up the week
        #[arg(long, value_enum, default_value = "tuning")]
        part: Part,
        /// Fail on more than one page
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Which::Leaks(command) if command.part().and_then(Set::of).is_some() => {
            command.run::<Independent>()
        }
        Which::Leaks(command) => command.run::<Leaks>(),
        Which::Queues { command } => command.run::<Queues>(),
        Which::Requests { command } => command.run::<Requests>(),
        Which::Counts(counts) => counts.run(),
        Which::Week { part, check } => week::week(part, check),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
