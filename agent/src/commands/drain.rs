//! `spillway drain` and `spillway undrain`: the operator's override of the agent's own decision.

use std::path::Path;

use anyhow::Context as _;

use super::{CommandError, load};
use crate::act::drain::{Override, OverrideFile};

/// Writes the override, which a running agent follows at once and a stopped one when it starts.
///
/// # Errors
///
/// Returns an error if the configuration is invalid or the override cannot be written.
pub fn set_override(config: Option<&Path>, operator: Override) -> Result<(), CommandError> {
    let file = OverrideFile::below(&load(config)?.record.state_dir);
    file.set(operator)
        .with_context(|| format!("cannot write {}", file.path().display()))
        .map_err(CommandError::Failed)?;
    let done = match operator {
        Override::Drain => "node drained by operator",
        Override::Maintenance => "node drained by operator, in maintenance once it is idle",
        Override::Undrain => "node kept in service by operator, at a weight of 100 %",
    };
    println!("{done}; `spillway resume` returns control to the agent");
    Ok(())
}
