//! Actions on this host, and their outcomes.
//!
//! Every change is recorded in the [`Journal`] first, from which any later run can restore the
//! original value. [`LimitWorker`] limits cgroups, [`shed::ShedWorker`] bounds accept queues and
//! [`drain::DrainWorker`] takes this node out of service, each beside the loop; [`Pause`] stops
//! them; [`undo_all`] and [`shed::undo_all`] restore everything, with or without an agent. A
//! further action is a module here with an [`Executor`].

pub mod drain;
mod executor;
mod files;
pub mod fleet;
mod journal;
pub mod limit;
pub mod notify;
mod outcome;
mod pause;
pub mod shed;
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
