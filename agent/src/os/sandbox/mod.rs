//! Least privilege, taken on by the process itself once its probes are attached, under systemd or
//! not.
//!
//! [`files`] bounds what a thread may write, [`system_calls`] what the process may ask of the
//! kernel; both hold for good, and for every thread that is started later. They stop the agent from
//! being used: a path in a file that somebody else wrote leads nowhere but into the state directory
//! and the cgroups, and no input makes it run a program. Failure: a kernel that lacks either is
//! said so once, and the agent goes on.

mod landlock;
mod seccomp;

use std::path::Path;

/// Bounds what this thread, and those that it starts from now on, may write: `state_dir`, cgroups,
/// which may be mounted at `cgroups`, and the removal of systemd's drop-ins.
pub fn files(state_dir: &Path, cgroups: Option<&Path>) {
    match landlock::restrict(state_dir, cgroups) {
        Ok(landlock::Enforced::Fully) => tracing::debug!("file access is bounded by Landlock"),
        Ok(landlock::Enforced::Partly) => {
            tracing::debug!("file access is bounded by Landlock, as far as this kernel can")
        }
        Ok(landlock::Enforced::Not) => {
            tracing::info!("file access is not bounded: this kernel has no Landlock")
        }
        Err(error) => tracing::warn!("file access is not bounded: Landlock: {error}"),
    }
}

/// Bounds the system calls of every thread. Network namespaces may be entered only if
/// `enters_namespaces` is set, which the sensors need without BPF.
pub fn system_calls(enters_namespaces: bool) {
    match seccomp::restrict(enters_namespaces) {
        Ok(allowed) => {
            tracing::debug!(
                allowed,
                "system calls are bounded by seccomp; the kernel's log has those that are refused"
            )
        }
        Err(error) => tracing::info!("system calls are not bounded: seccomp: {error}"),
    }
}
