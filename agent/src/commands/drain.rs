//! `spillway drain` and `spillway undrain`: the operator's override of the agent's own decision.

use std::path::Path;

use anyhow::Context as _;

use super::{
    CommandError,
    effect::{Effect, no_effect},
    load,
};
use crate::{
    act::drain::{DrainPhase, Override, OverrideFile, StateFile},
    status::{
        StatusReport,
        text::{ASKS_WITHIN_SECS, rotation},
    },
};

/// Writes the override, which a running agent follows at once and a stopped one when it starts, and
/// reports what came of it.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the override cannot be written, or it has no
/// effect: no agent runs that could drain, the receiver refuses, or no balancer is known to hear
/// of it.
pub fn set_override(config: Option<&Path>, operator: Override) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let file = OverrideFile::below(&state_dir);
    file.set(operator)
        .with_context(|| format!("cannot write {}", file.path().display()))
        .map_err(CommandError::Failed)?;
    let follows = |report: &StatusReport| report.drain.operator.as_deref() == Some(operator.name());
    let is_over = |report: &StatusReport| follows(report) && is_settled(report, operator);
    match Effect::wait(&state_dir, is_over)? {
        Effect::NoAgent => without_agent(&state_dir, operator),
        Effect::Missed(report) if !follows(&report) => Err(no_effect(format!(
            "the agent has not taken it up; this node: {}\n  hint: `spillway status` shows its \
             state, `journalctl -u spillway` its log",
            rotation(&report.drain, &report.at)
        ))),
        Effect::Reached(report) | Effect::Missed(report) if operator.is_drain() => drained(&report),
        Effect::Reached(report) | Effect::Missed(report) => undrained(&report),
    }
}

/// Returns whether nothing more is to be expected of a request within seconds.
fn is_settled(report: &StatusReport, operator: Override) -> bool {
    let drain = &report.drain;
    match drain.state.as_str() {
        "healthy" => !operator.is_drain() || drain.obstacle.is_some(),
        "draining" | "drained" => operator.is_drain(),
        _ => false,
    }
}

fn drained(report: &StatusReport) -> Result<(), CommandError> {
    let drain = &report.drain;
    let work = drain.work.as_deref().unwrap_or("its work is not counted yet");
    let obstacle = drain.obstacle.as_deref().unwrap_or("no answer yet");
    match drain.state.as_str() {
        "draining" => println!("This node is draining until `spillway resume`: {work}."),
        "drained" => println!("This node is drained until `spillway resume`: {work}."),
        "healthy" => {
            return Err(no_effect(format!(
                "this node is not drained: {obstacle}\n  hint: only balancers that ask /ready or \
                 the agent check send it no new work; `spillway resume` takes that back"
            )));
        }
        _ => println!(
            "The receiver is asked to drain this node and has not granted it: {obstacle}.\n\
             It is asked again until act.drain.deadline; `spillway status` shows what comes of it."
        ),
    }
    let asked = drain.asked_secs_ago.filter(|secs| *secs <= ASKS_WITHIN_SECS);
    if asked.is_none() && !drain.tells.iter().any(|by| by != "agent_check") {
        return Err(no_effect(
            "nobody is known to hear of it: act.drain.url is not set, and no balancer has asked \
             /ready or the agent check in the last five minutes\n  hint: configs/README.md, \
             \"Drains\", says how balancers are told",
        ));
    }
    Ok(())
}

fn undrained(report: &StatusReport) -> Result<(), CommandError> {
    let drain = &report.drain;
    match drain.state.as_str() {
        "healthy" => {
            println!("This node is in service, at a weight of 100 %, until `spillway resume`.");
        }
        _ => println!(
            "This node comes back until `spillway resume`; balancers are being told{}.\n\
             `spillway status` shows when it is in service.",
            drain.obstacle.as_ref().map_or_else(String::new, |why| format!(" (last reply: {why})"))
        ),
    }
    Ok(())
}

/// Reports a request that only the next agent reads.
fn without_agent(state_dir: &Path, operator: Override) -> Result<(), CommandError> {
    let is_out =
        StateFile::below(state_dir).peek().is_some_and(|saved| saved.phase != DrainPhase::Healthy);
    match (operator.is_drain(), is_out) {
        (true, _) => Err(no_effect(
            "no agent runs, so no balancer is told; the next agent will drain this node when it \
             starts\n  hint: `systemctl start spillway`, or `spillway resume` to take it back",
        )),
        (false, true) => Err(no_effect(
            "no agent runs, so this node stays out of rotation; the next agent will take it back \
             when it starts\n  hint: `systemctl start spillway`",
        )),
        (false, false) => {
            println!(
                "No agent runs, and this node is in service; the next one will keep it there \
                 until `spillway resume`."
            );
            Ok(())
        }
    }
}
