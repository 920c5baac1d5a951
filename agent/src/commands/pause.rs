//! `spillway pause` and `spillway resume`: a file that stops every new action, even of an agent
//! that hangs.

use std::path::Path;

use anyhow::Context as _;

use super::{
    CommandError,
    effect::{Effect, no_effect},
    load,
};
use crate::{
    act::{Pause, drain::OverrideFile},
    status::{StatusReport, text::rotation},
};

/// Stops every new action. Limits and drains that are in effect stay until `spillway undo`.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the pause file cannot be created, or a running
/// agent is not paused by it.
pub fn pause(config: Option<&Path>) -> Result<(), CommandError> {
    print!("{}", pause_agent(&load(config)?.record.state_dir)?);
    Ok(())
}

/// Stops every new action of the agent with this state directory, and returns what came of it.
///
/// # Errors
///
/// Returns an error if the pause file cannot be created, or a running agent is not paused by it.
pub(super) fn pause_agent(state_dir: &Path) -> Result<String, CommandError> {
    let pause = Pause::below(state_dir);
    let path = pause.path().display();
    pause
        .turn_on()
        .with_context(|| format!("cannot create {path}"))
        .map_err(CommandError::Failed)?;
    match Effect::wait(state_dir, |report| report.paused)? {
        Effect::Reached(report) => Ok(paused(&report)),
        Effect::Missed(_) => Err(no_effect(format!(
            "the agent is not paused, although {path} exists\n  hint: `spillway status` names its \
             state directory"
        ))),
        Effect::NoAgent => Ok("No agent runs; the next one will start paused.\n".to_owned()),
    }
}

fn paused(report: &StatusReport) -> String {
    let mut text =
        "Paused: Spillway starts no action on this host until `spillway resume`.\n".to_owned();
    if report.mode == "observe" {
        text.push_str("It would take none anyway, because of mode = \"observe\".\n");
    }
    match report.changes_total {
        0 => {}
        1 => text.push_str("1 change stays in effect; `spillway undo` reverts it.\n"),
        changes => {
            text += &format!("{changes} changes stay in effect; `spillway undo` reverts them.\n");
        }
    }
    if report.drain.out {
        text.push_str("This node stays out of rotation; `spillway undrain` takes it back.\n");
    }
    text
}

/// Allows actions again, and clears the operator's override of drains.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, one of the files cannot be removed, or a
/// running agent does not notice.
pub fn resume(config: Option<&Path>) -> Result<(), CommandError> {
    print!("{}", resume_agent(&load(config)?.record.state_dir)?);
    Ok(())
}

/// Allows the agent with this state directory to act again, clears the operator's override of
/// drains, and returns what came of it.
///
/// # Errors
///
/// Returns an error if one of the files cannot be removed, or a running agent does not notice.
pub(super) fn resume_agent(state_dir: &Path) -> Result<String, CommandError> {
    let (pause, operator) = (Pause::below(state_dir), OverrideFile::below(state_dir));
    pause
        .turn_off()
        .with_context(|| format!("cannot remove {}", pause.path().display()))
        .and_then(|()| {
            operator.clear().with_context(|| format!("cannot remove {}", operator.path().display()))
        })
        .map_err(CommandError::Failed)?;
    let is_resumed = |report: &StatusReport| !report.paused && report.drain.operator.is_none();
    match Effect::wait(state_dir, is_resumed)? {
        Effect::Reached(report) => {
            let acts = match report.mode.as_str() {
                "observe" => "Resumed: Spillway observes again, and would take actions again.",
                _ => "Resumed: Spillway may act again.",
            };
            Ok(format!("{acts}\nThis node: {}.\n", rotation(&report.drain, &report.at)))
        }
        Effect::Missed(report) => Err(no_effect(format!(
            "the agent has not taken it up: {}\n  hint: `spillway status` shows its state",
            if report.paused { "it is still paused" } else { "it still follows an operator" }
        ))),
        Effect::NoAgent => {
            Ok("No agent runs; the next one will act and drain by its own judgement.\n".to_owned())
        }
    }
}
