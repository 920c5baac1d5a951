//! `cargo xtask simulate`: the simulation of a fleet, passed on to the `simulate` binary of the
//! tests package.
//!
//! The binary is built with optimisation. It needs neither root nor the BPF programs. `cargo xtask
//! test` checks its targets on a small fleet.

use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, child, passed_on};

/// Hosts and longest time of the check that every full test makes.
const CHECK: [&str; 5] = ["--check", "--json", "--nodes=60", "--hours=168", "--seed=1"];

/// Random schedules of faults in `cargo xtask test --thorough`.
const SCHEDULES: &str = "--schedules=10000";

/// Runs the simulation with these options.
pub fn main(args: &passed_on::Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    passed_on::run("simulation", command(&workspace)?.args(&args.arguments))
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
