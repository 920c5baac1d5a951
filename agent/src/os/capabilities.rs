//! Effective capabilities of the agent.

use std::io;

/// Capability, by its bit in a set (`linux/capability.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// May lock memory beyond its limit.
    IpcLock = 14,
    /// May read files, namespaces and programs of other users' processes.
    SysPtrace = 19,
    /// May enter namespaces.
    SysAdmin = 21,
}

/// Returns whether the agent has a capability.
///
/// # Errors
///
/// Returns an error if `/proc/self/status` cannot be read.
pub fn has(capability: Capability) -> io::Result<bool> {
    let own = procfs::process::Process::myself().and_then(|process| process.status());
    Ok(own.map_err(io::Error::other)?.capeff >> capability as u32 & 1 == 1)
}
