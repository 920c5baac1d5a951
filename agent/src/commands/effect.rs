//! Effect of a request that an operator made by a file: the running agent is asked for the state
//! that results, for some seconds.

use std::{path::Path, thread, time::Duration};

use anyhow::anyhow;

use super::{CommandError, status::ANSWERS_WITHIN};
use crate::{
    clock::Clock,
    status::{
        StatusReport,
        client::{AskError, ask},
    },
};

/// Time for the agent to take a request up, and for a receiver to answer. The agent looks twice a
/// second; a receiver that takes longer is reported as asked.
pub(super) const TAKES_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// State of the running agent after a request.
pub(super) enum Effect {
    /// The agent is in the state that was asked for.
    Reached(Box<StatusReport>),
    /// It is in another state, after [`TAKES_WITHIN`].
    Missed(Box<StatusReport>),
    /// No agent runs.
    NoAgent,
}

impl Effect {
    /// Asks the agent until it is in a state, or the time is up.
    ///
    /// # Errors
    ///
    /// Returns an error if an agent runs and its state remains unknown.
    pub(super) fn wait(
        state_dir: &Path,
        is_reached: impl Fn(&StatusReport) -> bool,
    ) -> Result<Self, CommandError> {
        let clock = Clock::start();
        loop {
            match ask(state_dir, ANSWERS_WITHIN) {
                Ok((_, report)) if is_reached(&report) => return Ok(Self::Reached(report.into())),
                Ok((_, report)) if clock.now() >= TAKES_WITHIN.as_secs_f64() => {
                    return Ok(Self::Missed(report.into()));
                }
                Ok(_) => thread::sleep(ASK_EVERY),
                Err(AskError::NoAgent(_)) => return Ok(Self::NoAgent),
                Err(error) => {
                    return Err(CommandError::Failed(anyhow!(
                        "the request is recorded, and its effect is unknown: {error}"
                    )));
                }
            }
        }
    }
}

/// Returns the error of a request that has no effect.
pub(super) fn no_effect(why: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(anyhow!("{why}"))
}
