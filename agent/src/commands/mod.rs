//! One file for each subcommand, from its arguments to its output.
//!
//! A command takes parsed arguments, does its work through the library, prints its result to
//! standard output and returns. `main` turns the [`CommandError`] into an exit code.

pub mod check_config;
pub mod doctor;
pub mod drain;
mod effect;
pub mod explain;
pub mod fleet;
pub mod pause;
pub mod record;
pub mod replay;
pub mod run;
pub mod status;
pub mod top;
pub mod undo;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, anyhow};

use crate::{
    config::{self, Config},
    trace::TraceError,
};

/// Failure of a command; each variant has one exit code.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments, the configuration or the trace are wrong: exit 2.
    BadInput(anyhow::Error),
    /// The input was valid, but the work failed: exit 1.
    Failed(anyhow::Error),
    /// The work failed, and the output says so already: exit 1.
    AlreadyReported,
    /// The reader of standard output closed it: exit 0.
    OutputClosed,
}

/// Reads the configuration, or returns the defaults without a file.
fn load(file: Option<&Path>) -> Result<Config, CommandError> {
    file.map_or_else(|| Ok(Config::default()), config::load)
        .map_err(|errors| CommandError::BadInput(errors.into()))
}

/// Opens a trace; `-` is standard input.
fn open_trace(path: &Path) -> Result<Box<dyn BufRead>, CommandError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).with_context(|| format!("cannot open trace {}", path.display()));
    Ok(Box::new(BufReader::new(file.map_err(CommandError::BadInput)?)))
}

/// Creates a file that only its owner can read, because a trace names every process of the host.
/// Never overwrites.
fn create_new(path: &Path) -> Result<File, CommandError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let hint = if fs::exists(path).unwrap_or(false) {
            "\n  hint: remove it, or name another file"
        } else {
            ""
        };
        CommandError::BadInput(anyhow!("cannot create {}: {error}{hint}", path.display()))
    })
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TraceError> for CommandError {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Io(error) => error.into(),
            error => Self::Failed(error.into()),
        }
    }
}
