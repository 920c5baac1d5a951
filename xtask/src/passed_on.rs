//! Commands that are passed on to a binary of the tests package, with their options and exit code.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::child;

/// Options that the binary parses, `--help` among them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Options of the binary
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// Runs a command and returns its exit code; 1 if a signal ended it.
pub fn run(what: &str, command: &mut Command) -> anyhow::Result<ExitCode> {
    let code = child::streaming(what, command)?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
