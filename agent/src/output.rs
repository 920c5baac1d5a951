//! Output of `spillway run`: a sentence per event for people, or the same JSON Lines as replay. In
//! the systemd journal each has a priority and fields, so that `journalctl SPILLWAY_ID=…` finds an
//! incident.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use crate::{
    act::Outcome,
    config::Choice as _,
    decide::{Action, Decision},
    detect::{ClaimState, Severity, Verdict},
    os::{
        journal_stream::is_journal,
        journald::{JournalRecord, JournalSocket, Priority},
        nonblocking_writer::{DroppedLines, NonblockingWriter},
    },
    sense::identity::Identity,
    trace::format::write_line,
};

/// Prints verdicts, decisions and outcomes to standard output as they happen.
pub struct EventPrinter {
    json: bool,
    out: Box<dyn Write>,
    /// The same stream as `out`, if a thread writes it.
    writer: Option<NonblockingWriter>,
    /// Set if each write to `out` is a record of the journal.
    is_journal: bool,
}

impl EventPrinter {
    /// Prints to standard output through a thread, so that a blocked pipe never blocks the loop.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn to_stdout(json: bool) -> io::Result<Self> {
        let journal = if is_journal(io::stdout()) { JournalSocket::connect().ok() } else { None };
        let is_journal = journal.is_some();
        let writer = match journal {
            Some(journal) => NonblockingWriter::start("stdout", journal)?,
            None => NonblockingWriter::start("stdout", io::stdout())?,
        };
        Ok(Self { json, out: Box::new(writer.clone()), writer: Some(writer), is_journal })
    }

    /// Prints to any writer.
    pub fn to(out: Box<dyn Write>, json: bool) -> Self {
        Self { json, out, writer: None, is_journal: false }
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
        let raised = verdict.state == ClaimState::Raised;
        let identity = verdict.identity.as_deref().filter(|_| raised);
        let workload = identity.map(|identity| format!("; workload: {}", identity.sentence()));
        let sentence = format!(
            "{kind} {state}{severity} ({sure:.0} % sure): {}{reason}{}",
            verdict.why,
            workload.unwrap_or_default()
        );
        let claim = &verdict.claim;
        let severity = verdict.harm.as_ref().map(|harm| harm.severity);
        let priority = match severity.filter(|_| verdict.state != ClaimState::Cleared) {
            Some(Severity::Critical) => Priority::Critical,
            Some(Severity::Warning) => Priority::Warning,
            Some(Severity::Info) | None => Priority::Info,
        };
        self.line(verdict, &sentence, priority, |record| {
            record
                .with("event", "verdict")
                .with("verdict", kind)
                .with("state", state)
                .with("severity", severity.map_or("", Severity::name))
                .with("id", claim.id())
                .with("cgroup", claim.cgroup())
                .with("workload", identity.map_or_else(String::new, Identity::sentence))
                .with("pid", claim.pid().map_or_else(String::new, |pid| pid.to_string()))
        });
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
        self.line(decision, &sentence, Priority::Info, |record| {
            record
                .with("event", "decision")
                .with("action", decision.action.name())
                .with("mode", decision.mode.name())
                .with("performed", decision.performed)
                .with("id", &decision.id)
                .with("cgroup", decision.cgroup())
        });
    }

    /// Prints the outcome of an action.
    pub fn outcome(&mut self, outcome: &Outcome) {
        let why = outcome.why.replace("\n  hint:", "; hint:");
        let sentence = format!("  {} {}: {why}", outcome.event, outcome.cgroup);
        // A change to this host is worth more attention than a decision.
        let is_problem = outcome.event.is_problem();
        let priority = if is_problem { Priority::Warning } else { Priority::Notice };
        self.line(outcome, &sentence, priority, |record| {
            record
                .with("event", "outcome")
                .with("outcome", outcome.event.name())
                .with("id", &outcome.cause)
                .with("cgroup", &outcome.cgroup)
        });
    }

    /// Writes one line as a whole; in the journal with a priority and the fields that `fields`
    /// adds.
    fn line(
        &mut self,
        json: &impl Serialize,
        sentence: &str,
        priority: Priority,
        fields: impl FnOnce(JournalRecord) -> JournalRecord,
    ) {
        let mut line = Vec::new();
        let printed = if self.json {
            write_line(&mut line, json).map_err(|error| error.to_string())
        } else {
            line.extend_from_slice(format!("{sentence}\n").as_bytes());
            Ok(())
        };
        if self.is_journal {
            let message = String::from_utf8_lossy(&line);
            let record = JournalRecord::new(priority, message.trim_end());
            line = fields(record).bytes().to_vec();
        }
        let printed =
            printed.and_then(|()| self.out.write_all(&line).map_err(|error| error.to_string()));
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
