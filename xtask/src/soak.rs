//! `cargo xtask soak`: the agent through floods and rests, passed on to the `soak` binary of the
//! tests package.
//!
//! The agent is the optimised one, because it is its memory and time that are judged. The binary
//! stops the agent and removes what it made whatever ends it; it gets a moment for that.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, child};

/// Run the agent through floods, and see what it keeps of them; --help lists its options
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Options of the run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the agent with these options.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    build::binaries(&workspace, true, &["spillway", "workload", "soak"])?;
    let mut soak = Command::new(workspace.binary(true, "soak"));
    soak.env("SPILLWAY_BIN", workspace.binary(true, "spillway")).args(&args.arguments);
    let status = child::streaming("soak", &mut soak)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
