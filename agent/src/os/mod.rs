//! The operating system: files that the agent trusts, the ways it opens, locks and replaces them,
//! and what it gives up for itself.
//!
//! - [`trusted`] opens a path that nobody but root and the agent's own user can have put there.
//! - [`state_dir`] is one such directory, with every file in it opened relative to its descriptor.
//! - [`atomic_file`] replaces a file in it as a whole, and [`file_lock`] locks one.
//! - [`cgroup_dir`] is a directory that lies on a cgroup file system, wherever the path to it came
//!   from.
//! - [`sandbox`] bounds the files and system calls of this process, and [`proc_reader`] reads what
//!   the bounds would hide.

pub(crate) mod atomic_file;
pub(crate) mod cgroup_dir;
pub(crate) mod file_lock;
pub(crate) mod host;
pub mod journal_stream;
pub mod nonblocking_writer;
pub(crate) mod proc_reader;
pub(crate) mod sandbox;
pub(crate) mod self_protection;
pub(crate) mod state_dir;
pub(crate) mod trusted;

pub(crate) use cgroup_dir::CgroupDir;
pub(crate) use state_dir::StateDir;
