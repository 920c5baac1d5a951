//! Facts that the simulated agent sees, and their form as observations.

use std::sync::Arc;

use spillway_agent::sense::{
    CgroupFact, Fact, HostFact, Observation, ProcessFact, ProcessId, ProcessResourcesFact,
};

/// One thing seen, and when.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// A program began.
    Exec(f64, ProcessId),
    /// A process ended.
    Exit(f64, ProcessId),
    /// The host; opens a scan.
    Host(f64, SeenHost),
    /// One process.
    Process(f64, SeenProcess),
    /// Open files and threads of one process.
    Handles(f64, ProcessId, u64, u64),
    /// One cgroup.
    Cgroup(f64, SeenCgroup),
}

/// The host.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenHost {
    /// `MemAvailable`.
    pub available_bytes: u64,
    /// Pressure in percent; `None` without PSI.
    pub psi_some_avg10: Option<f64>,
}

/// One process.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenProcess {
    /// Process.
    pub id: ProcessId,
    /// Parent's pid.
    pub ppid: u32,
    /// Name.
    pub comm: Arc<str>,
    /// Cgroup.
    pub cgroup: Arc<str>,
    /// Anonymous memory.
    pub anon_bytes: u64,
    /// Mapped files.
    pub file_bytes: u64,
    /// Shared memory.
    pub shmem_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
    /// Limit of the cgroup.
    pub max_bytes: Option<u64>,
    /// Anonymous and shared memory under that limit.
    pub charged_bytes: Option<u64>,
    /// Growth by sampled page faults.
    pub faulted_bytes: Option<u64>,
    /// Private writable mappings.
    pub mapped_bytes: Option<u64>,
    /// Highest resident size of its life (`VmHWM`).
    pub peak_rss_bytes: Option<u64>,
}

/// One cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenCgroup {
    /// Path.
    pub cgroup: Arc<str>,
    /// `memory.current`.
    pub current_bytes: u64,
    /// Anonymous memory.
    pub anon_bytes: u64,
    /// Shared memory and files in memory.
    pub shmem_bytes: u64,
    /// Kernel memory.
    pub kernel_bytes: u64,
    /// `memory.max`.
    pub max_bytes: Option<u64>,
    /// Kills at the limit.
    pub oom_kills_total: u64,
}

impl Sight {
    /// Time at which it is seen.
    pub fn t(&self) -> f64 {
        let (Self::Exec(t, _)
        | Self::Exit(t, _)
        | Self::Host(t, _)
        | Self::Process(t, _)
        | Self::Handles(t, ..)
        | Self::Cgroup(t, _)) = self;
        *t
    }

    /// Observation with this content.
    pub fn observation(&self) -> Observation {
        let fact = match self {
            Self::Exec(_, id) => Fact::Exec(*id),
            Self::Exit(_, id) => Fact::Exit(*id),
            Self::Host(_, host) => Fact::Host(HostFact {
                mem_available_bytes: host.available_bytes,
                psi_memory_some_avg10: host.psi_some_avg10,
            }),
            Self::Process(_, seen) => Fact::Process(ProcessFact {
                id: seen.id,
                ppid: seen.ppid,
                comm: seen.comm.clone(),
                cgroup: seen.cgroup.clone(),
                anon_bytes: seen.anon_bytes,
                file_bytes: seen.file_bytes,
                shmem_bytes: seen.shmem_bytes,
                swap_bytes: seen.swap_bytes,
                memory_max_bytes: seen.max_bytes,
                memory_charged_bytes: seen.charged_bytes,
                faulted_bytes_total: seen.faulted_bytes,
                mapped_bytes: seen.mapped_bytes,
                peak_rss_bytes: seen.peak_rss_bytes,
            }),
            Self::Handles(_, id, fds, threads) => Fact::Handles(ProcessResourcesFact {
                id: *id,
                fds: *fds,
                fds_max: Some(65_536),
                threads: *threads,
                close_wait: None,
            }),
            Self::Cgroup(_, seen) => Fact::Cgroup(CgroupFact {
                cgroup: seen.cgroup.clone(),
                current_bytes: Some(seen.current_bytes),
                anon_bytes: Some(seen.anon_bytes),
                shmem_bytes: Some(seen.shmem_bytes),
                kernel_bytes: Some(seen.kernel_bytes),
                max_bytes: seen.max_bytes,
                oom_kills_total: Some(seen.oom_kills_total),
            }),
        };
        Observation { t: self.t(), fact }
    }
}
