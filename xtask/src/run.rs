//! `cargo xtask run`: builds the agent, then becomes it.
//!
//! The process is replaced by `spillway run` (through sudo if not root) instead of waiting for it,
//! so that Ctrl-C, SIGTERM and the exit code are the agent's own. Observe mode is the agent's
//! default: it changes nothing on the host.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::anyhow;

use crate::workspace::{Workspace, is_root, on_path};
use crate::{build, signals};

/// Build the agent and run it on this host in observe mode until stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask run                          watch this host, with embedded defaults\n  \
    cargo xtask run -- --json                verdicts as JSON Lines on standard output\n  \
    cargo xtask run -- --config my.toml      with a configuration file")]
pub struct Args {
    /// Passed on to `spillway run`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the command; returns only if the agent cannot be started.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    build::binaries(&workspace, true, &["spillway"])?;
    signals::check()?;
    let binary = workspace.binary(true, "spillway");
    let mut command = if is_root() { Command::new(&binary) } else { Command::new("sudo") };
    if !is_root() {
        if on_path("sudo").is_none() {
            return Err(anyhow!(
                "the agent needs root, but there is no sudo\n  hint: run this as root"
            ));
        }
        eprintln!("run: using sudo, since loading BPF programs needs root");
        command.arg(&binary);
    }
    let error = command.arg("run").args(&args.arguments).exec();
    Err(anyhow!(error).context(format!("{} could not be started", binary.display())))
}
