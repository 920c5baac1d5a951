//! The probes, by name.

use serde::Serialize;

/// A probe by its job. Each has one sensor, and a ladder of hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Memory of every process.
    ProcessMemory,
    /// Growth between scans, by sampled page faults.
    FaultSamples,
    /// Births and deaths of processes.
    ProcessLife,
    /// Files, threads and forgotten sockets of every process.
    ProcessHandles,
    /// Accept queues of every TCP listener.
    AcceptQueue,
    /// The same of UNIX listeners.
    UnixQueue,
    /// How long connections wait for accept().
    AcceptSojourn,
    /// How connects to other hosts end.
    OutboundConnects,
}

impl Probe {
    /// Every probe.
    pub const ALL: [Self; 8] = [
        Self::ProcessMemory,
        Self::FaultSamples,
        Self::ProcessLife,
        Self::ProcessHandles,
        Self::AcceptQueue,
        Self::UnixQueue,
        Self::AcceptSojourn,
        Self::OutboundConnects,
    ];

    /// Its name in logs, metrics and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessMemory => "process_memory",
            Self::FaultSamples => "fault_samples",
            Self::ProcessLife => "process_life",
            Self::ProcessHandles => "process_handles",
            Self::AcceptQueue => "accept_queue",
            Self::UnixQueue => "unix_queue",
            Self::AcceptSojourn => "accept_sojourn",
            Self::OutboundConnects => "outbound_connects",
        }
    }
}
