//! `spillway pause` and `spillway resume`: a file that stops every new action, even of an agent
//! that hangs.

use std::path::Path;

use anyhow::Context as _;

use super::{CommandError, load};
use crate::act::{Pause, drain::OverrideFile};

/// Stops every new action. Limits and drains that are in effect stay until `spillway undo`.
///
/// # Errors
///
/// Returns an error if the configuration is invalid or the pause file cannot be created.
pub fn pause(config: Option<&Path>) -> Result<(), CommandError> {
    let pause = Pause::below(&load(config)?.record.state_dir);
    let path = pause.path().display();
    pause
        .turn_on()
        .with_context(|| format!("cannot create {path}"))
        .map_err(CommandError::Failed)?;
    println!(
        "paused: no new actions while {path} exists; `spillway undo` reverts those already taken"
    );
    Ok(())
}

/// Allows actions again, and clears the operator's override of drains.
///
/// # Errors
///
/// Returns an error if the configuration is invalid or one of the files cannot be removed.
pub fn resume(config: Option<&Path>) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let (pause, operator) = (Pause::below(&state_dir), OverrideFile::below(&state_dir));
    pause
        .turn_off()
        .with_context(|| format!("cannot remove {}", pause.path().display()))
        .and_then(|()| {
            operator.clear().with_context(|| format!("cannot remove {}", operator.path().display()))
        })
        .map_err(CommandError::Failed)?;
    println!("resumed: actions enabled, drain override cleared");
    Ok(())
}
