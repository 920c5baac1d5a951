//! The action `limit`: a leaker's cgroup gets a little more memory than it uses, and no more.
//!
//! What is set leaves the margin above what is used, looked at again just before: a limit below use
//! would kill, or stall. It is put on disk first, with what it replaces. Then it is held: [`Hold`]
//! says what to do as others change it, as the cgroup thrashes, or as the incident ends. What is in
//! [`swap`] is held as well; where an operator wants it there is a [`backstop`] above, and one that
//! spins at its limit gets less CPU ([`slow`]). Cold start: no limit stands; what an earlier run
//! has left was put back before. Failure: what was half done is undone, and told; where systemd
//! gives no answer the files are written, and it is told later ([`hand_over`]). It refuses a cgroup
//! that others live in unless it may move the leaker to a child of it ([`split`]), one that it does
//! not see whole, one that has a lower limit already, and a pod of which nobody can tell whether it
//! is protected; that is asked again.

mod active_limit;
mod active_limits;
mod apply;
mod cgroup;
mod cgroup_procs;
mod controller;
mod cpu_throttle;
mod eligibility;
mod error;
mod isolate;
mod memory_max;
mod pod_lookup;
mod reclaim_spin;
mod swap;
mod systemd;
mod systemd_sync;
mod undo;
mod verified_write;
mod worker;

pub use active_limits::ActiveLimits;
pub use error::{LimitError, LimitRefusal};
pub use pod_lookup::PodLookup;
pub use undo::{Undone, undo_all};
pub use worker::{LimitWorker, recover};

use error::failed;
