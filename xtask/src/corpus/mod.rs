//! `cargo xtask corpus`: the published corpora of leaks and of accept queues, and the detectors'
//! scores on them.

mod forward;
mod program;
mod queues;
mod record;
mod trace_filter;
mod trace_summary;

use std::process::ExitCode;

use crate::scenes;

pub use forward::meets_targets;

/// Record, list, write or score the corpora of leaks and healthy processes, and of accept and
/// request queues.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask corpus record ujson                       run a real program, both versions, and \
    record it\n  \
    cargo xtask corpus list                               the families and their parts\n  \
    cargo xtask corpus write DIR --family jvm-warm-up     its runs as traces for `spillway \
    replay`\n  \
    cargo xtask corpus write-manifest                     after a change of the families\n  \
    cargo xtask corpus score                              the detector beside the reference \
    rules\n  \
    cargo xtask corpus score --check --part held-out      fails if a target is missed\n  \
    cargo xtask corpus score --part independent --seed 7  leaks of a second generator, drawn \
    anew\n  \
    cargo xtask corpus score --part scenes                its earlier set, for work on the \
    detector\n  \
    cargo xtask corpus week                               the pages in a week of a healthy host\n  \
    cargo xtask corpus queues score                       the same for accept queues\n  \
    cargo xtask corpus requests score                     the same for request queues\n  \
    cargo xtask corpus queues record nginx-ramp           load a real server and record its \
    queue\n  \
    cargo xtask corpus requests record redis              the same of request queues\n\n\
    Exit codes: 0 done, 1 failed or a target was missed, 2 wrong usage.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run real programs under load and record them with the agent's own sensors
    Record(record::Args),
    /// list, write DIR, write-manifest or score, with their options; add queues first for
    /// accept queues, requests first for request queues, also before record
    #[command(external_subcommand)]
    Others(Vec<String>),
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Record(args) => record::main(args),
        Command::Others(arguments) => match &arguments[..] {
            [queues, record, names @ ..] if queues == "queues" && record == "record" => {
                queues::record(names)
            }
            [requests, record, names @ ..] if requests == "requests" && record == "record" => {
                scenes::record(names)
            }
            _ => forward::main(arguments),
        },
    }
}
