//! The action `limit`: caps the memory of a leaking process's cgroup a margin above its usage.
//!
//! The usage is read again just before the write, because a limit below usage would kill or stall.
//! The change and the original value go to disk first. From then on a [`LimitController`]
//! (`controller.rs`) reacts to changes by others, to thrashing and to the end of the incident. The
//! swap limit is set with it (`swap.rs`); a hard limit above (`memory_max.rs`) and CPU throttling
//! (`cpu_throttle.rs`) are options.
//!
//! Cold start: no limits; those of an earlier run have been undone before. Failure: a partial
//! change is undone and reported. If systemd does not answer, the cgroup's files are written
//! directly and systemd is informed later (`systemd_sync.rs`).
//!
//! Refused: a cgroup shared with other services, unless the leaking process may be moved to a child
//! cgroup (`isolate/`); a cgroup that is partly outside of the agent's namespace; one that already
//! has a lower limit; and a pod that may be protected, which is tried again.
//!
//! [`LimitController`]: controller::LimitController

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
