//! Code paths of the agent that write, each as a small program that can be killed, stopped or
//! overtaken anywhere.

mod drain;
mod limit;
mod notify;
mod shed;
mod spool;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run one of the agent's code paths that must survive a kill at any time
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    path: CodePath,
}

#[derive(Debug, Subcommand)]
enum CodePath {
    Drain(drain::Args),
    Limit(limit::Args),
    Notify(notify::Args),
    Shed(shed::Args),
    Spool(spool::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().path {
        CodePath::Drain(args) => drain::main(args),
        CodePath::Limit(args) => limit::main(args),
        CodePath::Notify(args) => notify::main(args),
        CodePath::Shed(args) => shed::main(args),
        CodePath::Spool(args) => spool::main(args),
    }
}
