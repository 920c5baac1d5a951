//! Undo of recorded changes to accept queues and their network namespaces, by the agent, its next
//! run, or `spillway undo`.
//!
//! A queue with a length of ours gets the original one back. Any other length was set by others,
//! most likely the program itself, and is left alone. An entry is removed once nothing is left to
//! undo.

use std::{fmt, sync::Arc};

use super::{
    entry::{ShedEntry, ShedJournal},
    error::SocketError,
    foreign_listener::{ForeignListener, LengthChange},
};
use crate::{
    act::{
        journal::{Entry, EntryJournal, Unreadable},
        outcome::{Outcome, OutcomeCause, OutcomeKind},
    },
    decide::IncidentId,
};

/// Result for one entry.
#[derive(Debug)]
pub struct ShedUndone {
    cause: OutcomeCause,
    /// Address of the listener, or the namespace.
    subject: String,
    event: OutcomeKind,
    text: String,
}

/// Undoes every entry of a journal of accept queues.
pub fn undo_all(journal: &ShedJournal) -> Vec<ShedUndone> {
    ShedUndone::of_all(journal, |entry| undo(journal, entry))
}

/// Undoes one entry.
pub fn undo(journal: &ShedJournal, entry: &ShedEntry) -> ShedUndone {
    let subject = entry.socket().addr.to_string();
    ShedUndone::of(journal, entry, entry.incident(), subject, restore(entry))
}

fn restore(entry: &ShedEntry) -> Result<(OutcomeKind, String), String> {
    let prior = entry.prior();
    let changed = ForeignListener::again(entry.socket(), entry.pid())
        .and_then(|mut listener| listener.set_length(|found| entry.is_ours(found), prior));
    let text = match changed {
        Ok(LengthChange::Set(now)) if now < prior => format!(
            "length of the accept queue restored to {now}: net.core.somaxconn no longer allows \
             {prior}"
        ),
        Ok(LengthChange::Set(_)) => format!("length of the accept queue restored to {prior}"),
        Ok(LengthChange::Unexpected(found)) if found == prior => {
            format!("the accept queue already has its original length of {prior}")
        }
        Ok(LengthChange::Unexpected(found)) => {
            let text = format!(
                "the length of the accept queue is {found}, set by others, and is left as it is"
            );
            return Ok((OutcomeKind::ShedYielded, text));
        }
        // A later socket may have its inode number.
        Err(SocketError::Gone | SocketError::Another { .. }) => "the listener was closed".into(),
        Err(error) => return Err(format!("not restored, and kept in the journal: {error}")),
    };
    Ok((OutcomeKind::Unshed, text))
}

impl ShedUndone {
    /// Undoes every entry of a journal by `undo`, and reports those that cannot be read.
    pub(super) fn of_all<E: Entry>(
        journal: &EntryJournal<E>,
        undo: impl Fn(&E) -> Self,
    ) -> Vec<Self> {
        match journal.entries() {
            Ok((entries, unreadable)) => {
                entries.iter().map(undo).chain(unreadable.into_iter().map(Self::from)).collect()
            }
            Err(error) => {
                let hint = "check record.state_dir";
                let text = format!("cannot read the journal: {error}\n  hint: {hint}");
                vec![Self::failed(OutcomeCause::UNKNOWN, String::new(), text)]
            }
        }
    }

    /// Result for an entry, which is removed from the journal unless `restored` is an error.
    pub(super) fn of<E: Entry>(
        journal: &EntryJournal<E>,
        entry: &E,
        incident: &IncidentId,
        subject: String,
        restored: Result<(OutcomeKind, String), String>,
    ) -> Self {
        let cause = OutcomeCause::from(incident.clone());
        let removed = restored.and_then(|done| {
            let cannot = |error| format!("cannot remove the entry from the journal: {error}");
            journal.remove(entry).map(|()| done).map_err(cannot)
        });
        match removed {
            Ok((event, text)) => Self { cause, subject, event, text },
            Err(error) => Self::failed(cause, subject, error),
        }
    }

    fn failed(cause: OutcomeCause, subject: String, text: String) -> Self {
        Self { cause, subject, event: OutcomeKind::ShedFailed, text }
    }

    /// Returns whether nothing is left to undo.
    pub fn is_done(&self) -> bool {
        self.event != OutcomeKind::ShedFailed
    }

    /// Converts the result to an outcome at `t`.
    pub fn outcome(&self, t: f64) -> Outcome {
        let (cause, cgroup) = (self.cause.clone(), Arc::from(self.subject.as_str()));
        Outcome { t, event: self.event, cause, cgroup, limit_bytes: None, why: self.to_string() }
    }
}

impl From<Unreadable> for ShedUndone {
    fn from(unreadable: Unreadable) -> Self {
        // The hint below replaces another one.
        let why = unreadable.error.split("\n  hint: ").next().unwrap_or_default();
        let text = format!(
            "cannot read this entry of the journal: {why}\n  hint: restart the service in it, and \
             remove the file"
        );
        Self::failed(OutcomeCause::UNKNOWN, unreadable.path.display().to_string(), text)
    }
}

impl fmt::Display for ShedUndone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
