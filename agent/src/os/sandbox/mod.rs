//! Least privilege: restrictions that the process imposes on itself once its probes are attached,
//! with or without systemd.
//!
//! [`files`] restricts the files that a thread can write, [`system_calls`] the system calls of the
//! process; both are permanent, and hold for every thread that is started later. They keep an
//! attacker from using the agent: a path in a foreign file leads only into the state directory and
//! the cgroups, and no input makes the agent run a program. Failure: if the kernel lacks one, that
//! is logged once, and the agent runs without it.

mod landlock;
mod seccomp;

use std::path::Path;

/// Restricts the files that this thread, and threads that it starts from now on, can write:
/// `state_dir` and cgroups, which may be mounted at `cgroups`; systemd's drop-ins can be removed,
/// and sockets made in `runtime_dir`.
pub fn files(state_dir: &Path, runtime_dir: &Path, cgroups: Option<&Path>) {
    match landlock::restrict(state_dir, runtime_dir, cgroups) {
        Ok(landlock::Enforced::Fully) => tracing::debug!("Landlock restricts file access"),
        Ok(landlock::Enforced::Partly) => {
            tracing::debug!(
                "Landlock restricts file access, except for rights unknown to this kernel"
            )
        }
        Ok(landlock::Enforced::Not) => {
            tracing::info!("file access is not restricted: this kernel has no Landlock")
        }
        Err(error) => tracing::warn!("file access is not restricted: Landlock: {error}"),
    }
}

/// Restricts the system calls of every thread. Network namespaces may be entered only if
/// `enters_namespaces` is set, which the sensors need without BPF and `act.shed.reset` needs, and
/// descriptors of other processes taken only if `takes_descriptors` is set, which shedding load
/// needs.
pub fn system_calls(enters_namespaces: bool, takes_descriptors: bool) {
    match seccomp::restrict(enters_namespaces, takes_descriptors) {
        Ok(allowed) => {
            tracing::debug!(
                allowed,
                "seccomp restricts system calls; the kernel's log has those that are refused"
            )
        }
        Err(error) => tracing::info!("system calls are not restricted: seccomp: {error}"),
    }
}
