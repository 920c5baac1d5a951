//! The operating system: trusted files, their locks and replacement, and the agent's own process.
//!
//! - [`trusted`] opens a file that only root and the agent's user can have created or changed.
//! - [`state_dir`] is such a directory, with every file in it opened relative to its descriptor.
//! - [`atomic_file`] replaces a file in it atomically, and [`file_lock`] locks one.
//! - [`capabilities`] reads those that the agent has.
//! - [`cgroup_dir`] is a directory that is certain to be on a cgroup file system.
//! - [`host`] reads the host's name and kernel release.
//! - [`netns`] makes calls inside another network namespace.
//! - [`sandbox`] restricts the files and system calls of this process, and [`proc_reader`] reads
//!   the parts of `/proc` that the restriction hides.
//! - [`self_protection`] keeps the agent running while memory is short.
//! - [`nonblocking_writer`] writes output without waiting for its reader; [`journal_stream`] finds
//!   out whether that reader is journald, and [`journald`] makes records for it.
//! - [`service_manager`] tells systemd how the agent is.

pub mod allocator;
pub(crate) mod atomic_file;
pub(crate) mod capabilities;
pub(crate) mod cgroup_dir;
pub(crate) mod file_lock;
pub(crate) mod host;
pub mod journal_stream;
pub mod journald;
pub(crate) mod netns;
pub mod nonblocking_writer;
pub(crate) mod proc_reader;
pub(crate) mod sandbox;
pub(crate) mod self_protection;
pub(crate) mod service_manager;
pub(crate) mod state_dir;
pub(crate) mod trusted;

pub(crate) use cgroup_dir::{CgroupDir, is_read_only};
pub(crate) use state_dir::StateDir;
