//! `cargo xtask corpus list`, `write`, `write-manifest`, `score`, `queues`, `requests` and
//! `counts`: passed on to the `corpus` binary of the tests package.
//!
//! The binary is built with optimisation, because one score evaluates some hundred million facts.
//! It needs neither root nor the BPF programs. `cargo xtask test` runs `score --check` on all
//! corpora.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, passed_on};

/// Runs the binary with these arguments.
pub fn main(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    run(&workspace, Command::new(binary(&workspace)), arguments)
}

/// Scores the detectors on the held-out parts of all corpora, and on a week of healthy hosts, with
/// what others leave of the processors; returns `false` if a target is missed.
pub fn meets_targets(workspace: &Workspace) -> anyhow::Result<bool> {
    const CHECK: [&str; 5] = ["score", "--part", "held-out", "--check", "--detector-only"];
    let mut met = true;
    let run = |arguments: &[String]| {
        // Whatever else wants the processor has it at once: tests beside this one measure time.
        let mut yielding = Command::new("chrt");
        yielding.args(["--idle", "0"]).arg(binary(workspace));
        run(workspace, yielding, arguments)
    };
    for corpus in [&[][..], &["queues"], &["requests"]] {
        let arguments: Vec<_> =
            corpus.iter().chain(&CHECK).map(|part| String::from(*part)).collect();
        met &= run(&arguments)? == ExitCode::SUCCESS;
    }
    met &= run(&["counts", "--check"].map(String::from))? == ExitCode::SUCCESS;
    let week = ["week", "--part", "held-out", "--check"].map(String::from);
    Ok(met & (run(&week)? == ExitCode::SUCCESS))
}

fn binary(workspace: &Workspace) -> PathBuf {
    workspace.binary(true, "corpus")
}

/// Builds the binary and runs a command that starts it.
fn run(
    workspace: &Workspace,
    mut corpus: Command,
    arguments: &[String],
) -> anyhow::Result<ExitCode> {
    build::binaries(workspace, true, &["corpus"])?;
    passed_on::run("corpus", corpus.args(arguments))
}
