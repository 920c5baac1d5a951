//! What became of each probe, in words that an operator can act on.

use std::fmt;

use serde::Serialize;

/// A probe by its job. Each has one sensor, and a fallback or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Memory of every process.
    ProcessMemory,
    /// Growth between scans, by sampled page faults.
    FaultSamples,
    /// Births and deaths of processes.
    ProcessLife,
    /// Accept queues of every listener.
    AcceptQueue,
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ProbeState {
    /// Attached at the first choice.
    Attached,
    /// Not attached; the same is learnt in another way.
    Degraded {
        /// What the kernel refused, or lacks.
        reason: String,
    },
    /// Not attached, and nothing takes its place.
    Off {
        /// What the kernel refused, or lacks.
        reason: String,
    },
}

/// A probe, the hook or source in use, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Which.
    pub probe: Probe,
    /// Where it is attached, or what is read in its place.
    pub source: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub state: ProbeState,
}

impl Probe {
    /// Every probe.
    pub const ALL: [Self; 4] = [Self::ProcessMemory, Self::FaultSamples, Self::ProcessLife, Self::AcceptQueue];

    /// Its name in logs, metrics and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessMemory => "process_memory",
            Self::FaultSamples => "fault_samples",
            Self::ProcessLife => "process_life",
            Self::AcceptQueue => "accept_queue",
        }
    }

    /// Where its programs attach.
    pub fn hook(self) -> &'static str {
        match self {
            Self::ProcessMemory => "iter/task",
            Self::FaultSamples => "perf software event PAGE_FAULTS",
            Self::ProcessLife => "raw tracepoints sched_process_{fork,exec,exit}",
            Self::AcceptQueue => "iter/bpf_map_elem, iter/task_file, raw tracepoint inet_sock_set_state",
        }
    }

    /// What the sensor reads where the probe is not attached; `None` where nothing takes its place.
    pub fn fallback(self) -> Option<&'static str> {
        match self {
            Self::ProcessMemory => Some("/proc/PID/{stat,status}"),
            Self::FaultSamples => None,
            Self::ProcessLife => Some("comparing scans"),
            Self::AcceptQueue => Some("sock_diag"),
        }
    }
}

impl ProbeReport {
    /// The report on a probe that was attached, or not, for the reason given.
    pub fn new(probe: Probe, attached: Result<(), String>) -> Self {
        match (attached, probe.fallback()) {
            (Ok(()), _) => Self { probe, source: probe.hook(), state: ProbeState::Attached },
            (Err(reason), Some(source)) => Self { probe, source, state: ProbeState::Degraded { reason } },
            (Err(reason), None) => Self { probe, source: "nothing", state: ProbeState::Off { reason } },
        }
    }

    /// Why the probe is not attached; `None` where it is.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            ProbeState::Attached => None,
            ProbeState::Degraded { reason } | ProbeState::Off { reason } => Some(reason),
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            ProbeState::Attached => write!(f, "probe {} attached: {}", self.probe.name(), self.source),
            ProbeState::Degraded { reason } => {
                write!(f, "probe {} not attached: {reason}; {} is used instead", self.probe.name(), self.source)
            }
            ProbeState::Off { reason } => write!(f, "probe {} not attached: {reason}", self.probe.name()),
        }
    }
}
