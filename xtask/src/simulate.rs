//! `cargo xtask simulate`: the simulation of a fleet, passed on to the `simulate` binary of the
//! tests package.
//!
//! The binary is built with optimisation. It needs neither root nor the BPF programs. `cargo xtask
//! test` checks its targets on a small fleet.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, child};

/// Hosts and longest time of the check that every full test makes.
const CHECK: [&str; 5] = ["--check", "--json", "--nodes=60", "--hours=168", "--seed=1"];

/// Random schedules of faults in `cargo xtask test --thorough`.
const SCHEDULES: &str = "--schedules=10000";

/// Simulate a fleet of hosts, with and without Spillway; --help lists its options
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Options of the simulation
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the simulation with these options.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let mut simulation = command(&workspace)?;
    let status = child::streaming("simulation", simulation.args(&args.arguments))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Checks the targets on a small fleet, with what others leave of the processors; returns `false`
/// if one is missed.
pub fn meets_targets(workspace: &Workspace) -> anyhow::Result<bool> {
    let simulation = command(workspace)?;
    let mut yielding = Command::new("chrt");
    yielding.args(["--idle", "0"]).arg(simulation.get_program()).args(CHECK);
    Ok(child::streaming("simulation", &mut yielding)?.success())
}

/// Plays random schedules of faults; returns `false` if a rule is broken.
pub fn keeps_rules(workspace: &Workspace) -> anyhow::Result<bool> {
    Ok(child::streaming("schedules", command(workspace)?.arg(SCHEDULES))?.success())
}

fn command(workspace: &Workspace) -> anyhow::Result<Command> {
    build::binaries(workspace, true, &["simulate"])?;
    Ok(Command::new(workspace.binary(true, "simulate")))
}
