//! Output of `spillway run`: a sentence per event for people, or the same JSON Lines as replay.

use std::{
    io::{self, Write},
    time::Duration,
};

use crate::{
    act::Outcome,
    decide::{Action, Decision},
    detect::Verdict,
    os::nonblocking_writer::{DroppedLines, NonblockingWriter},
    trace::format::write_line,
};

/// Prints verdicts, decisions and outcomes to standard output as they happen.
pub struct EventPrinter {
    json: bool,
    out: Box<dyn Write>,
    /// The same stream as `out`, if a thread writes it.
    writer: Option<NonblockingWriter>,
}

impl EventPrinter {
    /// Prints to standard output through a thread, so that a blocked pipe never blocks the loop.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn to_stdout(json: bool) -> io::Result<Self> {
        let writer = NonblockingWriter::start("stdout", io::stdout())?;
        Ok(Self { json, out: Box::new(writer.clone()), writer: Some(writer) })
    }

    /// Prints to any writer.
    pub fn to(out: Box<dyn Write>, json: bool) -> Self {
        Self { json, out, writer: None }
    }

    /// Lines that were dropped, if a thread writes them.
    pub fn dropped(&self) -> Option<DroppedLines> {
        self.writer.as_ref().map(NonblockingWriter::dropped)
    }

    /// Waits until everything printed so far is written, for at most about `limit`.
    pub fn drain(&self, limit: Duration) {
        if let Some(writer) = &self.writer {
            writer.drain(limit);
        }
    }

    /// Prints a verdict.
    pub fn verdict(&mut self, verdict: &Verdict) {
        let (kind, state) = (verdict.claim.name(), verdict.state.name());
        let (severity, reason) = match &verdict.harm {
            Some(harm) => (
                format!(", {}", harm.severity.name()),
                format!("; {}: {}", harm.severity.name(), harm.reason),
            ),
            None => (String::new(), String::new()),
        };
        let sure = verdict.confidence * 100.0;
        let sentence =
            format!("{kind} {state}{severity} ({sure:.0} % sure): {}{reason}", verdict.why);
        self.line(verdict, &sentence);
    }

    /// Prints an action that the policy takes, would take, or refuses.
    pub fn decision(&mut self, decision: &Decision) {
        let sentence = match &decision.refused {
            None if decision.performed => format!("  {} for {}", decision.action, decision.id),
            None => format!("  would {} for {}", decision.action, decision.id),
            Some(refusal) => {
                format!("  refused to {} {}: {refusal}", decision.action, target(decision))
            }
        };
        self.line(decision, &sentence);
    }

    /// Prints the outcome of an action.
    pub fn outcome(&mut self, outcome: &Outcome) {
        let why = outcome.why.replace("\n  hint:", "; hint:");
        self.line(outcome, &format!("  {} {}: {why}", outcome.event, outcome.cgroup));
    }

    /// Writes one line as a whole.
    fn line(&mut self, json: &impl serde::Serialize, sentence: &str) {
        let printed = if self.json {
            write_line(&mut self.out, json).map_err(|error| error.to_string())
        } else {
            self.out
                .write_all(format!("{sentence}\n").as_bytes())
                .map_err(|error| error.to_string())
        };
        if let Err(error) = printed {
            tracing::warn!(error, "cannot print a line of output");
        }
    }
}

/// Target of an action, for a sentence.
fn target(decision: &Decision) -> &str {
    match decision.action {
        Action::Limit | Action::Unlimit if !decision.cgroup().is_empty() => decision.cgroup(),
        Action::Limit | Action::Unlimit => "a process",
        _ => "this node",
    }
}
