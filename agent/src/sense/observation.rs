//! The typed, timestamped facts that sensors hand to detectors.
//!
//! Their serialised form is the trace format, so that a live run, a recorded trace and the
//! simulation feed the core the same values. Field names carry their units; a value that a sensor
//! could not learn is `None`, never zero.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::printable;

/// One fact and when it held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Seconds on a monotonic clock from any origin.
    pub t: f64,
    /// What was seen.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What a sensor saw. A scan of the host is one `Host` fact, a `Sensing` fact where there is
/// something to tell, and its `Process` facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, strum::EnumDiscriminants)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[strum_discriminants(
    name(FactKind),
    doc = "Kind of a [`Fact`]: the value of `kind` in a trace.",
    derive(strum::VariantNames),
    strum(serialize_all = "lowercase")
)]
pub enum Fact {
    /// The machine as a whole; opens a scan.
    Host(HostFact),
    /// What the sensors do not see, from here on until the next such fact.
    Sensing(SensorHealthFact),
    /// The memory of one process.
    Process(ProcessFact),
    /// What one process holds that can run out.
    Handles(ProcessResourcesFact),
    /// The accept queue of one listening socket.
    Listener(ListenerFact),
    /// How one workload's connects to one address end.
    Outbound(OutboundFact),
    /// A process replaced its program image: what it grows to from here is a new program's
    /// business.
    Exec(ProcessId),
    /// A process is gone.
    Exit(ProcessId),
}

/// A process as the kernel tells it apart from later ones with the same pid. Two that began in the
/// same tick look alike but for the exit between them; the first lived for less than a tick then,
/// so at most one scan saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot, as field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

/// The machine as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFact {
    /// `MemAvailable` of `/proc/meminfo`.
    pub mem_available_bytes: u64,
    /// `some avg10` of `/proc/pressure/memory`, in percent; `None` without PSI.
    #[serde(default)]
    pub psi_memory_some_avg10: Option<f64>,
}

/// What the sensors do not see. A probe that is not named is at its first choice; a trace without
/// such facts is taken as seeing all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SensorHealthFact {
    /// Probes that learn the same in another way than the first choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Arc<str>>,
    /// Probes whose signal is not had at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<Arc<str>>,
    /// What was lost since the last of these facts, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<Arc<str>, u64>,
}

/// The memory of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessFact {
    /// Which process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Parent's pid.
    pub ppid: u32,
    /// The kernel's name for the process, at most 15 bytes, as [`printable::printable`] shows it;
    /// so is every name here.
    #[serde(deserialize_with = "printable::deserialize")]
    pub comm: Arc<str>,
    /// Path of the cgroup that the memory controller charges, from the hierarchy's root.
    #[serde(deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// Resident anonymous memory.
    pub anon_bytes: u64,
    /// Resident file mappings.
    pub file_bytes: u64,
    /// Resident shared memory.
    pub shmem_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
    /// Nearest effective hard limit on the cgroup, or `None` where there is none.
    #[serde(default)]
    pub memory_max_bytes: Option<u64>,
    /// Anonymous and shared memory charged against that limit, by all processes under it; `None`
    /// where there is none or it cannot be read. Up to ten scans old, unlike the sizes above: a
    /// fast leak has taken more since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_charged_bytes: Option<u64>,
    /// Growth that sampled page faults stand for, since the process was first seen; `None` where
    /// faults are not sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faulted_bytes_total: Option<u64>,
    /// Private writable memory mapped, touched or not: `data` of `/proc/PID/statm`; `None` where it
    /// is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_bytes: Option<u64>,
}

impl ProcessFact {
    /// The memory that a leak takes: anonymous, swapped and shared. Page cache and file mappings
    /// never count.
    pub fn private_bytes(&self) -> u64 {
        self.anon_bytes.saturating_add(self.swap_bytes).saturating_add(self.shmem_bytes)
    }
}

/// What one process holds that can run out, but for memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessResourcesFact {
    /// Which process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Open files, sockets among them.
    pub fds: u64,
    /// Its own limit on them (`RLIMIT_NOFILE`); `None` where it has none or it could not be read.
    #[serde(default)]
    pub fds_max: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// TCP sockets that the peer has closed and the process has not; `None` where they are not
    /// seen.
    #[serde(default)]
    pub close_wait: Option<u64>,
}

/// The accept queue of one listening socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerFact {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port, as `0.0.0.0:8080` or `[::]:8080`; a UNIX listener's path, as
    /// `unix:/run/api.sock` or `unix:@api`.
    #[serde(deserialize_with = "printable::deserialize")]
    pub addr: Arc<str>,
    /// Tells this socket from others with its address (SO_REUSEPORT) for as long as it lives; 0
    /// where they are not told apart.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub socket: u64,
    /// Cgroup of the process that listens; empty where unknown.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// A process that holds the socket; `None` where unknown.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its name; empty where unknown.
    #[serde(
        default,
        skip_serializing_if = "is_empty",
        deserialize_with = "printable::deserialize"
    )]
    pub comm: Arc<str>,
    /// Connections that are established and wait for accept().
    pub backlog: u32,
    /// The listener's limit; the kernel refuses once `backlog` exceeds it.
    pub backlog_max: u32,
    /// Connections accepted since the listener was first seen.
    #[serde(default)]
    pub accepted_total: Option<u64>,
    /// Connections that entered the accept queues of this address since it was first seen, all its
    /// sockets taken together; `None` where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_total: Option<u64>,
    /// Those of `arrived_total` that came from another host: over another interface than the
    /// loopback one, so that nothing counts which a user of this host sends to itself. `None` where
    /// that is not known, as in older traces; live sensors give 0 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_arrived_total: Option<u64>,
    /// How long ago a connection last found nobody waiting when it came: since then the queue was
    /// never empty. `None` where that is not known, as where sockets share the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_empty_us: Option<u64>,
    /// Connections that the kernel dropped at this listener because the queue was full.
    #[serde(default)]
    pub overflows_total: Option<u64>,
    /// Shortest time from established to accept() in the interval; `None` where nothing was
    /// accepted.
    #[serde(default)]
    pub sojourn_min_us: Option<u64>,
    /// Mean of the same.
    #[serde(default)]
    pub sojourn_mean_us: Option<u64>,
    /// 99th percentile of the same.
    #[serde(default)]
    pub sojourn_p99_us: Option<u64>,
    /// How long the connection at the head of the queue has waited; `None` where it cannot be seen,
    /// 0 on an empty queue.
    #[serde(default)]
    pub oldest_wait_us: Option<u64>,
    /// What its service runs short of; looked at only while connections wait, so `None` where none
    /// does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strain: Option<ServicePressureFact>,
}

/// What the service behind a listener runs short of, since the last look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePressureFact {
    /// How long ago that was.
    pub secs: f64,
    /// Share of that time in which something of its cgroup waited for a CPU (PSI `cpu`, `some`), in
    /// percent; `None` where it has no cgroup of its own, because others' waits say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi_cpu_some_percent: Option<f64>,
    /// The same for memory; the host's where it has no cgroup of its own, because the host's memory
    /// is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi_memory_some_percent: Option<f64>,
    /// Share of that time in which the busiest of the main threads that hold the socket ran, in
    /// percent of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busiest_thread_percent: Option<f64>,
    /// Share of that time in which one of these threads was ready to run and waited for a CPU, in
    /// percent; that which waited most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_waits_percent: Option<f64>,
    /// TCP segments that its network namespace sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Connects from or to its network namespace that were refused or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

/// How one workload's connects to one address end: those of all processes of a cgroup, over TCP.
/// Told at a scan, while any was tried since the last or is under way. Totals never run backwards;
/// after ten minutes without a connect they begin anew, and are soonest forgotten where there are
/// thousands. What fails before anything could be sent, for want of a route, is not seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutboundFact {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The address and port connected to, as `192.0.2.7:5432` or `[2001:db8::7]:5432`; IPv4 through
    /// an IPv6 socket as IPv4.
    #[serde(deserialize_with = "printable::deserialize")]
    pub addr: Arc<str>,
    /// Cgroup of the processes that connect; empty where they had gone before it was read.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// The one of them that connected last, as far as is known; 0 where it is not, as of connects
    /// that began before the agent did.
    pub pid: u32,
    /// Its name; empty where it has gone.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub comm: Arc<str>,
    /// Connects that succeeded since it was first seen.
    pub established_total: u64,
    /// Connects that the other side refused, or that a router reported to lead nowhere.
    pub refused_total: u64,
    /// Connects that the kernel gave up waiting for.
    pub timed_out_total: u64,
    /// Connects that ended on this side before there was an answer: the process closed them, which
    /// is how most programs' own timeouts look, or ended.
    pub abandoned_total: u64,
    /// Connects that failed before anything was sent, because no local port was free: the
    /// destination had no part in it. `None` where they are not told apart, as in older traces,
    /// which count them as abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_local_port_total: Option<u64>,
    /// Connects under way, neither established nor failed.
    pub pending: u32,
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start_ticks)
    }
}
