//! Reasons for which a limit is not set.

use std::{io, path::PathBuf};

use super::systemd;
use crate::{config::Pattern, sense::printable::printable};

/// Why a cgroup is not limited.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LimitRefusal {
    /// Somebody stopped every action.
    #[error("paused by {0}\n  hint: `spillway resume` lets it act again")]
    Paused(PathBuf),
    /// Nothing can be put on disk.
    #[error(
        "there is no journal: {0}\n  hint: record.state_dir has to be a directory that the agent \
        may write"
    )]
    NoJournal(String),
    /// It is not there, or not seen whole from here, or the memory controller is not.
    #[error("no cgroup with a limit is there, seen from here")]
    NotHere,
    /// The journal of changes holds text, and its name is none.
    #[error(
        "the cgroup's name is not UTF-8, and the journal cannot controller it: it is not limited\n  \
         hint: rename it, or set memory.high of the cgroup above it by hand"
    )]
    OddName,
    /// `memory.high` does harm here.
    #[error("memory.high is not safe before Linux 5.9, and this is {0}")]
    KernelTooOld(String),
    /// The process has left it, or has ended.
    #[error("the process is not in it any more")]
    Left,
    /// The program is protected.
    #[error("its program is protected ({0})")]
    Protected(Pattern),
    /// The pod is protected.
    #[error("its pod {pod} is protected ({pattern})")]
    PodProtected {
        /// Namespace and name of the pod.
        pod: String,
        /// By what.
        pattern: Pattern,
    },
    /// It is a pod's, and nobody knows of which namespace, or with which labels: it may be a
    /// protected one.
    #[error("{0}")]
    PodUnknown(String),
    /// It is one of those that a kubelet makes, and none that it makes for a pod.
    #[error(
        "it is one of Kubernetes' cgroups and names no pod: whether it is protected cannot be \
         told\n  \
         hint: a kubelet names them unless its cgroupsPerQOS is false"
    )]
    NoPod,
    /// Neither its program nor its cgroup is one that may be limited.
    #[error("{0} is not among those of decide.allow")]
    NotAllowed(String),
    /// The agent would be limited with it.
    #[error("it is the agent's own")]
    Own,
    /// Others would be limited with it.
    #[error(
        "it is shared with {0}\n  hint: give the service a unit or container of its own, or name \
        it in act.limit.delegated"
    )]
    Shared(String),
    /// The same, and it is not to be divided.
    #[error("it is shared with {shared}, and is not divided: {why}\n  hint: {hint}")]
    NotDivided {
        /// With whom.
        shared: String,
        /// Why not.
        why: String,
        /// Alternative for the operator.
        hint: &'static str,
    },
    /// It is divided on account of another program.
    #[error("another program of it leaks as well, and was moved to a child that is limited")]
    Divided,
    /// While it was being divided it forked without end.
    #[error("it is shared, and its processes come faster than they can be moved")]
    TooManyForks,
    /// There is a limit already that is lower.
    #[error("it has {file}={found} already, below the {wanted_bytes} that it would get")]
    Lower {
        /// The file.
        file: &'static str,
        /// Current value.
        found: String,
        /// Planned limit, in bytes.
        wanted_bytes: u64,
    },
    /// An earlier change could not be restored.
    #[error("an earlier limit of it is not undone yet\n  hint: `spillway undo` says why")]
    NotUndone,
    /// It outgrew every limit before that was set.
    #[error("it grows faster than it can be limited")]
    TooFast,
}

/// Why a limit was not set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// It must not be.
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
    /// Whether it is that systemd gave no answer.
    pub(super) fn is_unresponsive(&self) -> bool {
        matches!(self, Self::Failed { error, .. } if systemd::is_unresponsive(error))
    }
}

/// An attempt that the kernel, the disk or systemd did not let succeed.
pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> LimitError {
    // Most name a cgroup's directory, and those are named by users.
    let what = printable(what.into()).to_string();
    move |error| LimitError::Failed { what, error }
}
