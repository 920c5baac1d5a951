//! Commands of this repository, run as `cargo xtask <command>`.
//!
//! This file only parses the command line; each command has its own file. Exit codes: 0 success, 1
//! something failed or did not match, 2 wrong command line, 130 stopped by Ctrl-C or SIGTERM (after
//! cleaning up).

mod apt;
mod bench;
mod build;
mod built_once;
mod child;
mod clock;
mod collector;
mod corpus;
mod deb_cache;
mod deb_servers;
mod debian_archive;
mod demo;
mod dist;
mod fuzz;
mod kubernetes;
mod passed_on;
mod progress;
mod run;
mod scenes;
mod setup;
mod signals;
mod simulate;
mod soak;
mod sudo;
mod supervise;
mod test;
mod toolchain;
mod tools;
mod vm;
mod wheels;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of Spillway. Each installs the tools that it needs; no preparation is
/// required.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Examples:\n  \
    cargo xtask demo                 see Spillway find a real leak and a real overload, and drain \
    a node, in two minutes\n  \
    cargo xtask test                 all tests\n  \
    cargo xtask vm                   every probe, checked on Linux 5.10, 6.1, 6.12, 7.2 and this \
    host's kernel\n  \
    cargo xtask build --release      build target/release/spillway\n  \
    cargo xtask dist                 packages for Debian and RPM, and a tarball, in target/dist\n\n\
    Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install build and test tools; does nothing if all are present
    Setup(setup::Args),
    /// Build the BPF programs and the agent
    Build(build::Args),
    /// Build the packages: static binary, .deb, .rpm and tarball, in target/dist/
    Dist(dist::Args),
    /// Run the real agent against a real leak, a real overload and a node that has to be drained,
    /// and check its verdicts
    Demo(demo::Args),
    /// Run the agent on this host in observe mode until stopped
    Run(run::Args),
    /// Run all tests
    Test(test::Args),
    /// Check every probe on real kernels, from 5.10 to the newest
    Vm(vm::Args),
    /// Measure what Spillway costs
    Bench(bench::Args),
    /// Run the agent through floods, and see what it keeps of them; --help lists its options
    Soak(passed_on::Args),
    /// Record, list, write or score the corpora of leaks and of accept queues
    Corpus(corpus::Args),
    /// Simulate a fleet of hosts, with and without Spillway; --help lists its options
    Simulate(passed_on::Args),
    /// Shed load at the doors of real servers, and show what their clients see with and without
    Shed(scenes::ShedArgs),
    /// Feed arbitrary bytes to Spillway's parsers
    Fuzz(fuzz::Args),
    /// Run a command for as long as standard input stays open (the demo runs the agent this way)
    #[command(hide = true)]
    Hold(supervise::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Hold(args) = &cli.command {
        return supervise::main(args);
    }
    let outcome = signals::install().and_then(|()| match cli.command {
        Command::Setup(args) => setup::main(&args),
        Command::Build(args) => build::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Corpus(args) => corpus::main(&args),
        Command::Simulate(args) => simulate::main(&args),
        Command::Shed(args) => scenes::shed_main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
        Command::Hold(_) => Ok(ExitCode::SUCCESS),
    });
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<signals::Interrupted>() => {
            eprintln!("interrupted: everything was stopped and cleaned up");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
