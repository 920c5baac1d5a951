//! `spillway run`: watches this host until a signal asks it to stop.

use std::path::Path;

use super::{CommandError, load};
use crate::{agent, sense::Sensors};

/// Runs the agent. Starts the sensors only after the configuration has been accepted.
///
/// # Errors
///
/// Returns an error if the configuration is invalid or the agent cannot start.
pub fn run(
    config: Option<&Path>,
    json: bool,
    sensors: impl FnOnce() -> Sensors,
) -> Result<(), CommandError> {
    let file = config;
    let config = load(file)?;
    Ok(agent::run(&config, file, json, sensors)?)
}
