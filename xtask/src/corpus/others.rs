//! `cargo xtask corpus list`, `write`, `write-manifest` and `score`: handed to the `corpus` binary of the tests package.
//!
//! It is built with optimisation: a score is some hundred million facts. It needs neither root nor the BPF programs.
//! `cargo xtask test` runs `score --check`.

use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, step};

/// Runs the binary with these arguments.
pub fn main(arguments: &[String]) -> anyhow::Result<ExitCode> {
    run(&Workspace::find()?, arguments)
}

/// Whether the detector meets every target on the held-out part.
pub fn meets_targets(workspace: &Workspace) -> anyhow::Result<bool> {
    let arguments = ["score", "--part", "held-out", "--check"].map(str::to_owned);
    Ok(run(workspace, &arguments)? == ExitCode::SUCCESS)
}

fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<ExitCode> {
    build::binaries(workspace, true, &[("spillway-tests", "corpus")])?;
    let mut corpus = Command::new(workspace.binary(true, "corpus"));
    let code = step::streaming("corpus", corpus.args(arguments))?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
