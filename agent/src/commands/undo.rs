//! `spillway undo`: restores everything that Spillway changed on this host, with or without an
//! agent.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;

use super::{
    CommandError,
    effect::{Effect, no_effect},
    load,
};
use crate::{
    act::{
        Journal, Outcome, OutcomeCause, OutcomeKind,
        drain::{DrainPhase, Override, OverrideFile, StateFile},
        shed, undo_all,
    },
    os::{proc_reader, sandbox},
    sense::Hierarchy,
    status::{StatusReport, runtime_dir::RUNTIME_DIR, text::rotation},
};

/// Restores limits, accept queues and network namespaces from the journals, and puts a drained node
/// back into service unless `keeps_drain` is set. A running agent is asked for the state that
/// results; nothing but an undrain needs one.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the journal cannot be read, or something
/// cannot be restored; [`CommandError::AlreadyReported`] in the last case.
pub fn undo(config: Option<&Path>, keeps_drain: bool, json: bool) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    // Somebody else may have written the journal, so it must not reach beyond cgroups.
    if state_dir.exists() {
        proc_reader::start()?;
        sandbox::files(&state_dir, Path::new(RUNTIME_DIR), Hierarchy::detect().mount());
    }
    let journal = Journal::find(&state_dir)
        .with_context(|| format!("cannot read the journal in {}", state_dir.display()));
    let (undone, mut unread) = match journal {
        Ok(journal) => (journal.map(|journal| undo_all(&journal)).unwrap_or_default(), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut unshed = Vec::new();
    for undone in shed::undo_recorded(&state_dir) {
        let undone = undone.with_context(|| {
            format!("cannot read what was changed to shed load in {}", state_dir.display())
        });
        match undone {
            Ok(undone) => unshed.extend(undone),
            Err(error) => unread = unread.or(Some(error)),
        }
    }
    // A refused journal must not keep the node out of service.
    let undrained = if keeps_drain { Vec::new() } else { undrain(&state_dir)? };
    let outcomes: Vec<_> = undone
        .iter()
        .map(|one| one.outcome(0.0))
        .chain(unshed.iter().map(|one| one.outcome(0.0)))
        .chain(undrained)
        .collect();
    let mut out = io::stdout().lock();
    for outcome in &outcomes {
        match outcome.event {
            _ if json => writeln!(out, "{}", serde_json::to_string(&outcome)?)?,
            OutcomeKind::UndrainRequested => writeln!(out, "{}", outcome.why)?,
            event => writeln!(out, "{event} {}: {}", outcome.cgroup, outcome.why)?,
        }
    }
    if let Some(error) = unread {
        return Err(CommandError::Failed(error));
    }
    if outcomes.is_empty() && !json {
        writeln!(out, "nothing to undo: {} records no changes", state_dir.display())?;
    }
    drop(out);
    let is_undrained = outcomes.iter().any(|one| one.event == OutcomeKind::UndrainRequested);
    if !outcomes.is_empty() {
        report_agent(&state_dir, is_undrained, json)?;
    }
    use OutcomeKind::{Failed, ShedFailed, UndrainFailed};
    let has_failed =
        outcomes.iter().any(|one| matches!(one.event, Failed | UndrainFailed | ShedFailed));
    if has_failed { Err(CommandError::AlreadyReported) } else { Ok(()) }
}

/// Waits until a running agent knows that nothing is in effect any more, and reports its state.
///
/// # Errors
///
/// Returns an error if this node has to be undrained, and no agent runs that could.
fn report_agent(state_dir: &Path, is_undrained: bool, json: bool) -> Result<(), CommandError> {
    let is_undone = |report: &StatusReport| {
        report.changes_total == 0 && !(is_undrained && report.drain.state != "healthy")
    };
    let report = match Effect::wait(state_dir, is_undone)? {
        Effect::Reached(report) | Effect::Missed(report) => report,
        Effect::NoAgent if is_undrained => {
            return Err(no_effect(
                "no agent runs, so this node stays out of rotation until one starts\n  hint: \
                 `systemctl start spillway`",
            ));
        }
        Effect::NoAgent => return Ok(()),
    };
    if json {
        return Ok(());
    }
    println!("This node: {}.", rotation(&report.drain, &report.at));
    if report.mode == "enforce" && !report.paused {
        println!("The agent runs and may act again; `spillway pause` prevents that.");
    }
    Ok(())
}

/// Asks the agent to undrain, now or when it next starts, if the node is drained or about to be.
/// Returns one outcome for the request, and one for each state file that cannot be read.
fn undrain(state_dir: &Path) -> Result<Vec<Outcome>, CommandError> {
    let state_file = StateFile::below(state_dir);
    let outcome = |event, why| Outcome {
        t: 0.0,
        event,
        cause: OutcomeCause::UNKNOWN,
        cgroup: "node".into(),
        limit_bytes: None,
        why,
    };
    let unreadable = state_file.unreadable().into_iter().map(|why| {
        // One hint is enough.
        let why = why.split("\n  hint: ").next().unwrap_or_default();
        let hint = "look at the file, undrain the node if necessary, and remove the file";
        outcome(
            OutcomeKind::UndrainFailed,
            format!("cannot tell whether this node is drained: {why}\n  hint: {hint}"),
        )
    });
    let mut outcomes: Vec<_> = unreadable.collect();
    if state_file.peek().is_some_and(|saved| saved.phase != DrainPhase::Healthy) {
        let file = OverrideFile::below(state_dir);
        file.set(Override::Undrain)
            .with_context(|| format!("cannot write {}", file.path().display()))
            .map_err(CommandError::Failed)?;
        let why = "the agent undrains this node, now or when it next starts, and keeps it in \
                   service until `spillway resume`";
        outcomes.push(outcome(OutcomeKind::UndrainRequested, why.to_owned()));
    }
    Ok(outcomes)
}
