//! `cargo xtask corpus list`, `write`, `write-manifest`, `score`, `queues` and `requests`: passed
//! on to the `corpus` binary of the tests package.
//!
//! The binary is built with optimisation, because one score evaluates some hundred million facts.
//! It needs neither root nor the BPF programs. `cargo xtask test` runs `score --check` on all
//! corpora.

use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, child};

/// Runs the binary with these arguments.
pub fn main(arguments: &[String]) -> anyhow::Result<ExitCode> {
    run(&Workspace::find()?, arguments)
}

/// Scores the detectors on the held-out parts of all corpora, and on a week of healthy hosts;
/// returns `false` if a target is missed.
pub fn meets_targets(workspace: &Workspace) -> anyhow::Result<bool> {
    const CHECK: [&str; 5] = ["score", "--part", "held-out", "--check", "--detector-only"];
    let mut met = true;
    for corpus in [&[][..], &["queues"], &["requests"]] {
        let arguments: Vec<_> =
            corpus.iter().chain(&CHECK).map(|part| String::from(*part)).collect();
        met &= run(workspace, &arguments)? == ExitCode::SUCCESS;
    }
    let week = ["week", "--part", "held-out", "--check"].map(String::from);
    Ok(met & (run(workspace, &week)? == ExitCode::SUCCESS))
}

fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<ExitCode> {
    build::binaries(workspace, true, &["corpus"])?;
    let mut corpus = Command::new(workspace.binary(true, "corpus"));
    let code = child::streaming("corpus", corpus.args(arguments))?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
