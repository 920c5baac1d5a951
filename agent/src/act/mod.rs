//! The actions: what decisions ask for, done to this host, and what came of it.
//!
//! Everything that is changed is in the [`Journal`] first, so that it can be put back by whoever
//! comes next. [`LimitWorker`] does it beside the loop; [`Pause`] stops it; [`undo_all`] puts
//! everything back, with or without an agent. A [`drain::DrainWorker`] takes this node out of
//! service and back. The next action is a module here with an [`Executor`] in it.

pub mod drain;
mod executor;
mod files;
mod journal;
pub mod limit;
pub mod notify;
mod outcome;
mod pause;
mod worker;

pub use executor::Executor;
pub use files::{FileProblem, check_files};
pub use journal::{Change, ChangedUnit, IsolatedCgroup, Journal, JournalEntry, Unreadable};
pub use limit::{LimitWorker, Undone, recover, undo_all};
pub use notify::Notifier;
pub use outcome::{Outcome, OutcomeCause, OutcomeKind};
pub use pause::Pause;

#[cfg(any(test, fuzzing))]
pub(crate) use journal::read_entry;
