//! The action `shed`: bounds the accept queue of an overloaded listener to what its server can
//! accept in time, so that it works for clients that still wait.
//!
//! The length is that of `listen()`, set from outside on a descriptor of the server's socket
//! ([`ForeignListener`]). [`ShedControl`] computes it from what is accepted and widens it when the
//! queue is calm; [`ActiveSheds`] sets it. The original length goes to disk first, so that the next
//! run or `spillway undo` can restore it. A connection that is refused costs its client a second or
//! more, because the kernel drops its first packet, and the client repeats it.
//!
//! Cold start: no bounds; those of an earlier run have been undone before. Failure: a partial
//! change is undone and reported. Off by default, and only for listeners that `decide.services`
//! lists.
//!
//! With `act.shed.reset`, connections that find the queue full are reset, if the service has a
//! network namespace of its own ([`netns_sysctl`]).
//!
//! Refused: UNIX sockets, whose credentials `listen()` would replace; a listener whose holder is
//! unknown or runs in another cgroup than the service. Sockets of one address (SO_REUSEPORT), and
//! one that several processes hold, count as one listener.
//!
//! [`ForeignListener`]: foreign_listener::ForeignListener

mod active_shed;
mod active_sheds;
mod control;
mod entry;
mod error;
mod foreign_listener;
mod netns_sysctl;
mod overflow_resets;
mod proc_sockets;
mod reset_entry;
mod target;
mod undo;
mod watched;
mod worker;

pub use active_sheds::ActiveSheds;
pub use control::{QueueReading, ShedControl, ShedFigures, ShedStep};
pub use entry::{ShedEntry, ShedJournal};
pub use foreign_listener::obstacle;
pub use netns_sysctl::{reset_obstacle, resets_on_overflow};
pub use overflow_resets::undo_all_resets;
pub use reset_entry::{ResetEntry, ResetJournal};
pub use target::ShedTarget;
pub use undo::{ShedUndone, undo_all};
pub use worker::{ShedWorker, recover, undo_recorded};

/// Reads an entry, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_entry(bytes: &[u8]) -> Result<ShedEntry, String> {
    crate::act::journal::Entry::read(bytes)
}

/// Returns the name of an entry's file without its suffix, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn stem_of(entry: &ShedEntry) -> String {
    crate::act::journal::Entry::stem(entry)
}

/// Returns the name of the file, without its suffix, of an entry for a network namespace; `None` if
/// it is none. For the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn stem_of_reset(bytes: &[u8]) -> Option<String> {
    let entry = <ResetEntry as crate::act::journal::Entry>::read(bytes).ok()?;
    Some(crate::act::journal::Entry::stem(&entry))
}
