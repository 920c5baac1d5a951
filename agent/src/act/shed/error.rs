//! Reasons for which the length of an accept queue is not changed.

use std::{fs, io, net::SocketAddr};

use rustix::io::Errno;

/// Reason for which policy or safety forbids to shed load at a listener.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ShedRefusal {
    /// An operator has paused all actions.
    #[error("actions are paused by {0}\n  hint: run `spillway resume` to enable them")]
    Paused(String),
    /// The journal cannot be written.
    #[error(
        "there is no journal: {0}\n  hint: set record.state_dir to a directory that the agent may \
        write"
    )]
    NoJournal(String),
    /// The listener is a UNIX socket.
    #[error(
        "it is a UNIX socket: listen() by another process would replace the credentials that its \
        clients see"
    )]
    Unix,
    /// No process that holds the listener is known.
    #[error(
        "no process is known that holds a listener of this address in this network namespace\n  \
        hint: run the agent in the host's pid namespace"
    )]
    NoHolder,
    /// The process runs in another cgroup than the overloaded service.
    #[error("pid {pid} runs in {found}, not in the overloaded service's cgroup {expected}")]
    OtherCgroup {
        /// Process.
        pid: u32,
        /// Cgroup in which it runs.
        found: String,
        /// Cgroup of the claim.
        expected: String,
    },
    /// The maximum number of listeners are bounded already.
    #[error("the queues of {0} sockets are bounded already, as many as the agent bounds at once")]
    TooMany(usize),
    /// An earlier change could not be restored.
    #[error(
        "an earlier change of this socket is not undone yet\n  hint: `spillway undo` prints the \
        reason"
    )]
    NotUndone,
    /// The queue is as short as the bound already.
    #[error("its queue of length {original} is no longer than the bound")]
    Short {
        /// Length of the queue.
        original: u32,
    },
    /// The program has called listen() too often meanwhile.
    #[error("the program has called listen() again three times, so that the queue is left to it")]
    Relistened,
    /// An undo ran between the journal and the change.
    #[error("`spillway undo` has just restored it")]
    Undone,
}

/// Reason for which a socket of another process was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket is closed, or no process holds it.
    #[error("no process holds the socket any more")]
    Gone,
    /// The kernel does not permit to take a descriptor.
    #[error("cannot take a descriptor of pid {pid}: {error}\n  hint: {hint}")]
    NotPermitted {
        /// Process.
        pid: u32,
        /// Error of the kernel.
        error: io::Error,
        /// Advice.
        hint: String,
    },
    /// The socket behind a descriptor is not the one meant.
    #[error("descriptor {fd} of pid {pid} is not the listener of {addr}: {why}")]
    Another {
        /// Process.
        pid: u32,
        /// Number of the descriptor.
        fd: i32,
        /// Address of the socket meant.
        addr: SocketAddr,
        /// Difference.
        why: String,
    },
    /// The length in effect differs from the one that was set.
    #[error("the length is {found} after listen({wanted})")]
    NotTaken {
        /// Length that was set.
        wanted: u32,
        /// Length in effect.
        found: u32,
    },
    /// Another call failed.
    #[error("{what}: {error}")]
    Failed {
        /// Call.
        what: String,
        /// Error of the kernel.
        error: io::Error,
    },
}

/// Reason for which the setting of a network namespace is not changed.
#[derive(Debug, thiserror::Error)]
pub enum ResetRefusal {
    /// The namespace is the host's or the agent's.
    #[error("the service runs in the network namespace of the host or of the agent")]
    NotOwn,
    /// Another service runs in the namespace.
    #[error("pid {pid} in {cgroup} shares the service's network namespace")]
    Shared {
        /// Process.
        pid: u32,
        /// Cgroup in which it runs.
        cgroup: String,
    },
    /// No process runs in the namespace.
    #[error("no process runs in the service's network namespace any more")]
    Gone,
    /// An earlier change could not be restored.
    #[error(
        "an earlier change of this network namespace is not undone yet\n  hint: `spillway undo` \
        prints the reason"
    )]
    NotUndone,
    /// The journal cannot be written.
    #[error("there is no journal: {0}")]
    NoJournal(String),
    /// A call failed.
    #[error("{what}: {error}")]
    Failed {
        /// Call.
        what: String,
        /// Error of the kernel.
        error: io::Error,
    },
}

impl ResetRefusal {
    /// Makes an error of a call.
    pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Failed { what, error }
    }
}

/// Reason for which load is not shed at a listener.
#[derive(Debug, thiserror::Error)]
pub enum ShedError {
    /// Policy or safety forbids it.
    #[error(transparent)]
    Refused(#[from] ShedRefusal),
    /// The socket cannot be changed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The journal cannot be written.
    #[error("cannot write the journal: {0}")]
    Journal(io::Error),
}

impl SocketError {
    /// Makes an error of a call.
    pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Failed { what, error }
    }

    /// Makes an error of `pidfd_open` or `pidfd_getfd`.
    pub(super) fn of_descriptor(pid: u32, errno: Errno) -> Self {
        let hint = match errno {
            Errno::SRCH | Errno::BADF => return Self::Gone,
            Errno::NOSYS => {
                "pidfd_getfd needs Linux 5.6, and seccomp of a container may forbid it".to_owned()
            }
            Errno::PERM | Errno::ACCESS => match attach_scope() {
                Some(3) => {
                    "kernel.yama.ptrace_scope is 3, which forbids it until the next boot".to_owned()
                }
                _ => "the agent needs CAP_SYS_PTRACE, in the user namespace of the service: \
                      install configs/systemd/shed.conf"
                    .to_owned(),
            },
            _ => "see pidfd_getfd(2)".to_owned(),
        };
        Self::NotPermitted { pid, error: errno.into(), hint }
    }
}

/// Returns `kernel.yama.ptrace_scope`; `None` without Yama.
pub(super) fn attach_scope() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}
