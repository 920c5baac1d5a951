//! `cargo xtask soak`: the agent through floods and rests, passed on to the `soak` binary of the
//! tests package.
//!
//! The agent is the optimised one, because it is its memory and time that are judged. The binary
//! stops the agent and removes what it made whatever ends it; it gets a moment for that.

use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, passed_on};

/// Runs the agent with these options.
pub fn main(args: &passed_on::Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    build::binaries(&workspace, true, &["spillway", "workload", "soak"])?;
    let mut soak = Command::new(workspace.binary(true, "soak"));
    soak.env("SPILLWAY_BIN", workspace.binary(true, "spillway")).args(&args.arguments);
    passed_on::run("soak", &mut soak)
}
