//! What `spillway run` prints: a sentence for a person, or the same JSON Lines as replay.

use std::{
    io::{self, Write},
    time::Duration,
};

use crate::{
    act::Outcome,
    decide::{Action, Decision},
    detect::Verdict,
    os::nonblocking_writer::NonblockingWriter,
    trace::format::write_line,
};

/// What an action is about, for a person.
fn subject(decision: &Decision) -> &str {
    match decision.action {
        Action::Limit | Action::Unlimit if !decision.cgroup().is_empty() => decision.cgroup(),
        Action::Limit | Action::Unlimit => "a process",
        _ => "this node",
    }
}

/// Prints verdicts, decisions and outcomes to standard output as they come.
pub struct EventPrinter {
    json: bool,
    out: NonblockingWriter,
}

impl EventPrinter {
    /// Prints JSON Lines or sentences.
    ///
    /// # Errors
    ///
    /// Where no thread can be had that writes them.
    pub fn to_stdout(json: bool) -> io::Result<Self> {
        Ok(Self { json, out: NonblockingWriter::start("standard output", io::stdout())? })
    }

    /// Waits for what was printed so far, for about `limit` at most.
    pub fn drain(&self, limit: Duration) {
        self.out.drain(limit);
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

    /// Prints what the policy does, or would do.
    pub fn decision(&mut self, decision: &Decision) {
        let sentence = match &decision.refused {
            None if decision.performed => format!("  {} for {}", decision.action, decision.id),
            None => format!("  would {} for {}", decision.action, decision.id),
            Some(refusal) => {
                format!("  refused {} of {}: {refusal}", decision.action, subject(decision))
            }
        };
        self.line(decision, &sentence);
    }

    /// Prints what came of a decision.
    pub fn outcome(&mut self, outcome: &Outcome) {
        let why = outcome.why.replace("\n  hint:", "; hint:");
        self.line(outcome, &format!("  {} {}: {why}", outcome.event, outcome.cgroup));
    }

    /// Hands it on as a whole; nobody waits until it is written.
    fn line(&mut self, json: &impl serde::Serialize, sentence: &str) {
        let printed = if self.json {
            write_line(&mut self.out, json).map_err(|error| error.to_string())
        } else {
            self.out
                .write_all(format!("{sentence}\n").as_bytes())
                .map_err(|error| error.to_string())
        };
        if let Err(error) = printed {
            tracing::warn!(error, "a line is not printed");
        }
    }
}
