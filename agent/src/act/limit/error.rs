//! Reasons for which a limit is not set.

use std::{io, path::PathBuf};

use super::systemd;
use crate::{config::Pattern, sense::printable::printable};

/// Reason for which policy or safety forbids a limit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LimitRefusal {
    /// An operator has paused all actions.
    #[error("actions are paused by {0}\n  hint: run `spillway resume` to enable them")]
    Paused(PathBuf),
    /// The journal cannot be written.
    #[error(
        "there is no journal: {0}\n  hint: set record.state_dir to a directory that the agent may \
        write"
    )]
    NoJournal(String),
    /// The cgroup is missing, partly outside of the agent's namespace, or has no memory controller.
    #[error(
        "the cgroup does not exist in this namespace or has no memory controller\n  hint: run the \
        agent in the host's cgroup namespace, and enable the memory controller"
    )]
    NotHere,
    /// The agent sees the cgroup file system mounted read-only, as its systemd unit has it without
    /// enforce.conf.
    #[error(
        "{} is mounted read-only for the agent\n  hint: install configs/systemd/enforce.conf \
         beside the unit, or mount cgroups writable into the agent's container",
        .0.display()
    )]
    ReadOnly(PathBuf),
    /// The name of the cgroup cannot be written to the journal, which is text.
    #[error(
        "the cgroup's name is not UTF-8, so the journal cannot record it\n  \
         hint: rename the cgroup, or set memory.high of its parent by hand"
    )]
    OddName,
    /// Before Linux 5.9, `memory.high` may stall a cgroup.
    #[error("memory.high may stall a cgroup before Linux 5.9, and this kernel is {0}")]
    KernelTooOld(String),
    /// The process has moved to another cgroup, or has ended.
    #[error("the process has left the cgroup or has ended")]
    Left,
    /// The program is protected.
    #[error("the program is protected by decide.protected ({0})")]
    Protected(Pattern),
    /// The pod is protected.
    #[error("pod {pod} is protected by decide.protected ({pattern})")]
    PodProtected {
        /// Namespace and name of the pod.
        pod: String,
        /// Pattern that matches the pod.
        pattern: Pattern,
    },
    /// Namespace or labels of the pod are unknown, so that it may be protected.
    #[error("{0}")]
    PodUnknown(String),
    /// The cgroup belongs to Kubernetes, but its name has no pod in it.
    #[error(
        "the cgroup belongs to Kubernetes but names no pod, so that it may be protected\n  \
         hint: do not set the kubelet's cgroupsPerQOS to false"
    )]
    NoPod,
    /// Neither the program nor the cgroup is on the allow-list.
    #[error("{0} is not on the allow-list decide.allow")]
    NotAllowed(String),
    /// The agent itself runs in the cgroup.
    #[error("the agent itself runs in this cgroup")]
    Own,
    /// The cgroup has processes of other services.
    #[error(
        "the cgroup is shared with {0}\n  hint: give the service a unit or container of its own, \
        or add the cgroup to act.limit.delegated"
    )]
    Shared(String),
    /// The cgroup has processes of several services, and leaks memory that none of them holds.
    #[error(
        "the cgroup is shared with {0}, and it is unknown whose memory leaks\n  hint: give each \
        service a unit or container of its own"
    )]
    SharedLeak(String),
    /// The cgroup has processes of other services, and the leaking one cannot be isolated.
    #[error("the cgroup is shared with {shared} and is not divided: {why}\n  hint: {hint}")]
    NotDivided {
        /// Other processes.
        shared: String,
        /// Reason for which it cannot be divided.
        why: String,
        /// Alternative for the operator.
        hint: &'static str,
    },
    /// Another leaking program of the cgroup was isolated before.
    #[error("another leaking program of this cgroup is already isolated and limited")]
    Divided,
    /// New processes were forked faster than they could be moved.
    #[error("the cgroup is shared, and forks processes faster than they can be moved")]
    TooManyForks,
    /// A lower limit is in effect.
    #[error("{file} is already {found}, lower than the planned {wanted_bytes}")]
    Lower {
        /// The file.
        file: &'static str,
        /// Current value.
        found: String,
        /// Planned limit, in bytes.
        wanted_bytes: u64,
    },
    /// An earlier change could not be restored.
    #[error(
        "an earlier limit of this cgroup is not undone yet\n  hint: `spillway undo` prints the \
        reason"
    )]
    NotUndone,
    /// The usage exceeded every limit before it could be set.
    #[error("memory grows faster than a limit can be set")]
    TooFast,
}

/// Reason for which a limit was not set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Policy or safety forbids it.
    #[error(transparent)]
    Refused(#[from] LimitRefusal),
    /// The kernel or the disk refused.
    #[error("{what}: {error}")]
    Failed {
        /// Attempted change.
        what: String,
        /// Result.
        error: io::Error,
    },
}

impl LimitError {
    /// Returns whether systemd did not answer in time.
    pub(super) fn is_unresponsive(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if systemd::is_unresponsive(error))
    }
}

/// Makes an error for a change that the kernel, the disk or systemd rejected.
pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> LimitError {
    // Most texts contain the directory of a cgroup, and users choose those names.
    let what = printable(what.into()).to_string();
    move |error| LimitError::Failed { what, error }
}
