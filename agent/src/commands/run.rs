//! `spillway run`: watches this host until a signal asks it to stop.

use std::path::Path;

use super::{CommandError, load};
use crate::{agent, os::nonblocking_writer::DroppedLines, sense::Sensors};

/// Runs the agent. Starts the sensors only after the configuration has been accepted. `log` counts
/// the lines of the log that were dropped.
///
/// # Errors
///
/// Returns an error if the configuration is invalid or the agent cannot start.
pub fn run(
    config: Option<&Path>,
    json: bool,
    log: Option<DroppedLines>,
    sensors: impl FnOnce() -> Sensors,
) -> Result<(), CommandError> {
    let file = config;
    let config = load(file)?;
    Ok(agent::run(&config, file, json, log, sensors)?)
}
