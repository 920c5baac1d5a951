//! Undo of recorded changes to accept queues, by the agent, its next run, or `spillway undo`.
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
use crate::act::{
    journal::Unreadable,
    outcome::{Outcome, OutcomeCause, OutcomeKind},
};

/// Result for one entry.
#[derive(Debug)]
pub struct ShedUndone {
    cause: OutcomeCause,
    addr: String,
    prior: u32,
    state: LengthState,
}

/// Result for one length.
#[derive(Debug)]
enum LengthState {
    /// The original length was restored.
    Restored,
    /// The kernel bounds lengths to this one now, so that it is in effect.
    Bounded(u32),
    /// The queue has its original length already.
    AsBefore,
    /// Others have set this length.
    ChangedByOthers(u32),
    /// The socket is closed.
    Gone,
    /// The entry is kept, or could not be read.
    Failed(String),
}

/// Undoes every entry of a journal.
pub fn undo_all(journal: &ShedJournal) -> Vec<ShedUndone> {
    match journal.entries() {
        Ok((entries, unreadable)) => entries
            .iter()
            .map(|entry| undo(journal, entry))
            .chain(unreadable.into_iter().map(ShedUndone::from))
            .collect(),
        Err(error) => vec![ShedUndone {
            cause: OutcomeCause::UNKNOWN,
            addr: String::new(),
            prior: 0,
            state: LengthState::Failed(format!(
                "cannot read the journal: {error}\n  hint: check record.state_dir"
            )),
        }],
    }
}

/// Undoes one entry.
pub fn undo(journal: &ShedJournal, entry: &ShedEntry) -> ShedUndone {
    let mut undone = ShedUndone {
        cause: entry.incident().clone().into(),
        addr: entry.socket().addr.to_string(),
        prior: entry.prior(),
        state: restore(entry),
    };
    if undone.is_done()
        && let Err(error) = journal.remove(entry)
    {
        undone.state =
            LengthState::Failed(format!("cannot remove the entry from the journal: {error}"));
    }
    undone
}

fn restore(entry: &ShedEntry) -> LengthState {
    let prior = entry.prior();
    let changed = ForeignListener::again(entry.socket(), entry.pid())
        .and_then(|mut listener| listener.set_length(|found| entry.is_ours(found), prior));
    match changed {
        Ok(LengthChange::Set(now)) if now < prior => LengthState::Bounded(now),
        Ok(LengthChange::Set(_)) => LengthState::Restored,
        Ok(LengthChange::Unexpected(found)) if found == prior => LengthState::AsBefore,
        Ok(LengthChange::Unexpected(found)) => LengthState::ChangedByOthers(found),
        // A later socket may have its inode number.
        Err(SocketError::Gone | SocketError::Another { .. }) => LengthState::Gone,
        Err(error) => {
            LengthState::Failed(format!("not restored, and kept in the journal: {error}"))
        }
    }
}

impl ShedUndone {
    /// Returns whether nothing is left to undo.
    pub fn is_done(&self) -> bool {
        !matches!(self.state, LengthState::Failed(_))
    }

    /// Converts the result to an outcome at `t`.
    pub fn outcome(&self, t: f64) -> Outcome {
        let event = match self.state {
            LengthState::Failed(_) => OutcomeKind::ShedFailed,
            LengthState::ChangedByOthers(_) => OutcomeKind::ShedYielded,
            _ => OutcomeKind::Unshed,
        };
        let (cause, cgroup) = (self.cause.clone(), Arc::from(self.addr.as_str()));
        Outcome { t, event, cause, cgroup, limit_bytes: None, why: self.to_string() }
    }
}

impl From<Unreadable> for ShedUndone {
    fn from(unreadable: Unreadable) -> Self {
        // The hint below replaces another one.
        let why = unreadable.error.split("\n  hint: ").next().unwrap_or_default();
        Self {
            cause: OutcomeCause::UNKNOWN,
            addr: unreadable.path.display().to_string(),
            prior: 0,
            state: LengthState::Failed(format!(
                "cannot read this entry of the journal: {why}\n  hint: restart the service of the \
                 listener in it, and remove the file"
            )),
        }
    }
}

impl fmt::Display for ShedUndone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prior = self.prior;
        match &self.state {
            LengthState::Restored => write!(f, "length of the accept queue restored to {prior}"),
            LengthState::Bounded(now) => write!(
                f,
                "length of the accept queue restored to {now}: net.core.somaxconn no longer allows \
                 {prior}"
            ),
            LengthState::AsBefore => {
                write!(f, "the accept queue already has its original length of {prior}")
            }
            LengthState::ChangedByOthers(found) => write!(
                f,
                "the length of the accept queue is {found}, set by others, and is left as it is"
            ),
            LengthState::Gone => f.write_str("the listener was closed"),
            LengthState::Failed(error) => f.write_str(error),
        }
    }
}
