//! Typed, timestamped facts, from sensors to detectors.
//!
//! Their serialised form is the trace format, so that a live run, a recorded trace and the
//! simulation give the engine the same values. Field names carry their units; a value that a sensor
//! could not read is `None`, never zero.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{counted_resource::CountedResource, printable};

/// A fact and its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Seconds on a monotonic clock with any origin.
    pub t: f64,
    /// Fact.
    #[serde(flatten)]
    pub fact: Fact,
}

/// An observation of a sensor. A scan of the host is one `Host` fact, a `Sensing` fact if there is
/// a gap, and its `Process` facts.
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
    /// Gaps in what the sensors see, until the next such fact.
    Sensing(SensorHealthFact),
    /// The memory of one process.
    Process(ProcessFact),
    /// The limited resources of one process.
    Handles(ProcessResourcesFact),
    /// The accept queue of one listening socket. It is twice as large as any other, of which most
    /// scans have far more.
    Listener(Box<ListenerFact>),
    /// Results of one workload's connects to one address.
    Outbound(OutboundFact),
    /// Requests on the connections of one listening address.
    Requests(RequestsFact),
    /// The memory charged to one cgroup.
    Cgroup(CgroupFact),
    /// A count that has a limit, such as the bytes on a disk.
    Count(CountFact),
    /// The group of nodes that this one belongs to.
    Fleet(FleetFact),
    /// The node that pages for a leak of the group.
    Pager(PagerFact),
    /// A process replaced its program image: its growth from here on is that of a new program.
    Exec(ProcessId),
    /// A process has ended.
    Exit(ProcessId),
}

/// Size of a fact: a scan of thousands of processes is a vector of them.
const _: () = assert!(size_of::<Fact>() <= 176);

/// Identity of a process, which distinguishes it from later ones with the same pid. Two that began
/// in the same tick differ only by the exit between them; the first lived for less than a tick
/// then, so at most one scan saw it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
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

/// Gaps in what the sensors see. A probe that is not named uses its best hook; a trace without such
/// facts counts as free of gaps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SensorHealthFact {
    /// Probes that use a fallback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Arc<str>>,
    /// Probes that see nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<Arc<str>>,
    /// Losses since the last of these facts, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<Arc<str>, u64>,
}

/// The memory of one process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessFact {
    /// Process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Parent's pid.
    pub ppid: u32,
    /// Name that the kernel keeps, at most 15 bytes, made printable by [`printable::printable`] as
    /// every name here.
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
    /// Nearest effective hard limit on the cgroup; `None` if there is none.
    #[serde(default)]
    pub memory_max_bytes: Option<u64>,
    /// Anonymous and shared memory charged against that limit by all processes under it; `None` if
    /// there is none or it cannot be read. Up to ten scans old, unlike the sizes above: a fast leak
    /// has taken more since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_charged_bytes: Option<u64>,
    /// Growth estimated from sampled page faults since the process was first seen; `None` if faults
    /// are not sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faulted_bytes_total: Option<u64>,
    /// Private writable memory mapped, touched or not: `data` of `/proc/PID/statm`; `None` if
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped_bytes: Option<u64>,
    /// Highest resident size of its life, all kinds of memory together: `VmHWM` of
    /// `/proc/PID/status`; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
}

/// The memory charged to one cgroup and those below it; a value that the kernel does not give is
/// `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFact {
    /// Path of the cgroup, as in [`ProcessFact::cgroup`].
    #[serde(deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// All that is charged, page cache included: `memory.current`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_bytes: Option<u64>,
    /// Anonymous memory: `anon` of `memory.stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// Shared memory and files in memory, mapped or not: `shmem` of `memory.stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
    /// Memory of the kernel: `kernel` of `memory.stat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
    /// Hard limit: `memory.max`; `None` if there is none.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Processes killed at that limit: `oom_kill` of `memory.events`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills_total: Option<u64>,
}

/// A count of one resource of one subject, with its limit and those who use most of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountFact {
    /// Resource.
    pub resource: CountedResource,
    /// Subject that has the limit, such as a mount point or a cgroup.
    #[serde(deserialize_with = "printable::deserialize")]
    pub subject: Arc<str>,
    /// Number in use; bytes if the resource's name ends in `_bytes`.
    pub used: u64,
    /// Number at which it has run out; `None` if there is no limit, or it is unknown.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Users of the resource, those that use most of it first; empty if they are unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub culprits: Vec<CountUser>,
}

/// A user of a counted resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountUser {
    /// Name, such as the path of a file or of a cgroup, or the name of a program.
    #[serde(deserialize_with = "printable::deserialize")]
    pub name: Arc<str>,
    /// Process; `None` if it is not one, or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Number that it uses.
    pub used: u64,
}

/// Outlook for the group of nodes that this one belongs to, from the reports of all. One node of
/// the group makes such facts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetFact {
    /// Name of the group.
    #[serde(deserialize_with = "printable::deserialize")]
    pub group: Arc<str>,
    /// Nodes of the group.
    pub nodes: u32,
    /// Nodes with a forecast end, which need a turn to leave before it.
    pub need_turn: u32,
    /// Nodes among them whose turn would come after their end.
    pub late: u32,
    /// Time until the first of these ends; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_end_secs: Option<f64>,
    /// Smallest number of nodes that would have to leave together so that none is late; `None` if
    /// no number helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_needed: Option<u32>,
    /// Reason for which no node may leave, such as how many are unwell; `None` if some may.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "printable::deserialize_some"
    )]
    pub storm: Option<Arc<str>>,
}

/// Node that pages for a leak which this node has, and others of its group may have too. Made when
/// the leak is found, and again every few minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagerFact {
    /// Name of the group.
    #[serde(deserialize_with = "printable::deserialize")]
    pub group: Arc<str>,
    /// Name of what leaks, the same on all nodes.
    #[serde(deserialize_with = "printable::deserialize")]
    pub cause: Arc<str>,
    /// Node that pages; `None` if it is this one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "printable::deserialize_some"
    )]
    pub pager: Option<Arc<str>>,
    /// Set if that holds for a critical page too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_critical: bool,
    /// Other nodes with the same leak, as far as is known.
    #[serde(default)]
    pub others: u32,
}

impl ProcessFact {
    /// Memory that a leak can take: anonymous, swapped and shared. Page cache and file mappings
    /// never count.
    pub fn private_bytes(&self) -> u64 {
        self.anon_bytes.saturating_add(self.swap_bytes).saturating_add(self.shmem_bytes)
    }
}

/// Memory of several processes that may share some of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemorySum {
    private_bytes: u64,
    shared_bytes: u64,
}

impl MemorySum {
    /// Adds a process.
    pub fn add(&mut self, process: &ProcessFact) {
        let private = process.anon_bytes.saturating_add(process.swap_bytes);
        self.private_bytes = self.private_bytes.saturating_add(private);
        self.shared_bytes = self.shared_bytes.max(process.shmem_bytes);
    }

    /// Anonymous and swapped memory of all, and the shared memory of that process which has most:
    /// the others map the same.
    pub fn bytes(self) -> u64 {
        self.private_bytes.saturating_add(self.shared_bytes)
    }
}

/// Limited resources of one process other than memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessResourcesFact {
    /// Process.
    #[serde(flatten)]
    pub id: ProcessId,
    /// Open files, including sockets.
    pub fds: u64,
    /// Soft limit on open files (`RLIMIT_NOFILE`); `None` if there is none or it cannot be read.
    #[serde(default)]
    pub fds_max: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// TCP sockets that the peer has closed and the process has not; `None` if unknown.
    #[serde(default)]
    pub close_wait: Option<u64>,
}

/// The accept queue of one listening socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerFact {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port, such as `0.0.0.0:8080` or `[::]:8080`; for a UNIX listener its name, such
    /// as `unix:/run/api.sock` or `unix:@api`.
    #[serde(deserialize_with = "printable::deserialize")]
    pub addr: Arc<str>,
    /// Number that distinguishes this socket from others with its address (SO_REUSEPORT) while it
    /// exists; 0 if unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub socket: u64,
    /// Cgroup of the process that listens; empty if unknown.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// Owner: a process that holds the socket; `None` if unknown.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Name of the owner; empty if unknown.
    #[serde(
        default,
        skip_serializing_if = "is_empty",
        deserialize_with = "printable::deserialize"
    )]
    pub comm: Arc<str>,
    /// Processes that hold the socket, as far as they are known, if it is more than one: a master
    /// and its workers. `None` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<u32>,
    /// Process among the holders of a UNIX listener that has kept an accepted connection for
    /// longest, hardly running, while others wait; `None` if there is none or it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_pid: Option<u32>,
    /// Time for which it has been seen to keep that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_us: Option<u64>,
    /// Established connections that wait for accept().
    pub backlog: u32,
    /// Limit of the queue; the kernel refuses connections once `backlog` exceeds it.
    pub backlog_max: u32,
    /// Connections accepted since the listener was first seen.
    #[serde(default)]
    pub accepted_total: Option<u64>,
    /// Connections that entered the accept queues of this address since it was first seen, over all
    /// its sockets; `None` if they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_total: Option<u64>,
    /// Connections in `arrived_total` from other hosts: those over another interface than loopback,
    /// so that users of this host cannot raise it. `None` if unknown, as in older traces; live
    /// sensors then give 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_arrived_total: Option<u64>,
    /// Time since a connection last found the queue empty on arrival: since then the queue was
    /// never empty. `None` if unknown, for example because sockets share the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_empty_us: Option<u64>,
    /// Connections that the kernel dropped at this listener because the queue was full.
    #[serde(default)]
    pub overflows_total: Option<u64>,
    /// Shortest time from established to accept() in the interval; `None` if nothing was
    /// accepted.
    #[serde(default)]
    pub sojourn_min_us: Option<u64>,
    /// Mean time from established to accept() in the interval.
    #[serde(default)]
    pub sojourn_mean_us: Option<u64>,
    /// 99th percentile of the time from established to accept() in the interval.
    #[serde(default)]
    pub sojourn_p99_us: Option<u64>,
    /// Wait of the connection at the head of the queue; `None` if unknown, 0 on an empty queue.
    #[serde(default)]
    pub oldest_wait_us: Option<u64>,
    /// Pressure on the service; read only while connections or requests wait, and `None` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strain: Option<ServicePressureFact>,
}

/// Pressure on the service behind a listener since it was last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePressureFact {
    /// Time since it was last read.
    pub secs: f64,
    /// Share of that time in which a task of its cgroup waited for a CPU (PSI `cpu`, `some`), in
    /// percent; `None` if it has no cgroup of its own, because waits of other tasks are no evidence
    /// about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi_cpu_some_percent: Option<f64>,
    /// Share of that time in which a task of its cgroup waited for memory, in percent; that of the
    /// host if it has no cgroup of its own, because memory of the host is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psi_memory_some_percent: Option<f64>,
    /// Share of that time in which the busiest main thread of the processes that hold the socket
    /// ran, in percent of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busiest_thread_percent: Option<f64>,
    /// Share of that time in which one of these threads was runnable and waited for a CPU, in
    /// percent; that of the thread that waited most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_waits_percent: Option<f64>,
    /// TCP segments that its network namespace retransmitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u64>,
    /// Connects from or to its network namespace that were refused or abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

/// Results of one workload's TCP connects to one address, over all processes of a cgroup. Reported
/// at a scan if any was tried since the last one or is pending. Totals never fall; after ten
/// minutes without a connect, or earlier if there are thousands of destinations, they are reset. A
/// connect that fails before anything is sent, for lack of a route, is not seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutboundFact {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port of the destination, such as `192.0.2.7:5432` or `[2001:db8::7]:5432`; IPv4
    /// through an IPv6 socket is written as IPv4.
    #[serde(deserialize_with = "printable::deserialize")]
    pub addr: Arc<str>,
    /// Cgroup of the processes that connect; empty if they had ended before it was read.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub cgroup: Arc<str>,
    /// Process among them that connected last; 0 if unknown, as for connects that began before the
    /// agent did.
    pub pid: u32,
    /// Name of that process; empty if it has ended.
    #[serde(default, deserialize_with = "printable::deserialize")]
    pub comm: Arc<str>,
    /// Connects that succeeded since the destination was first seen.
    pub established_total: u64,
    /// Connects that the peer refused, or a router reported as unreachable.
    pub refused_total: u64,
    /// Connects that timed out in the kernel.
    pub timed_out_total: u64,
    /// Connects that ended on this side before an answer: the process closed them, as most
    /// programs' own timeouts do, or ended.
    pub abandoned_total: u64,
    /// Connects that failed because no local port was free, which is not the destination's fault.
    /// `None` in older traces, which count them as abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_local_port_total: Option<u64>,
    /// Pending connects, neither established nor failed.
    pub pending: u32,
}

/// Requests on the established connections of one listening address, over all its sockets. A
/// request is unread while its bytes wait in a socket, and in flight from their arrival until the
/// response begins. Of a connection with several requests at once (HTTP/2, pipelining) only the
/// newest is seen: the counts are lower bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsFact {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Address and port of the listener, as in [`ListenerFact::addr`].
    #[serde(deserialize_with = "printable::deserialize")]
    pub addr: Arc<str>,
    /// Established connections; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Connections whose request has not been read in full.
    pub unread: u32,
    /// Connections with a request that has no response yet, unread ones included.
    pub in_flight: u32,
    /// Connections on which a response goes on: since the last sample more was sent, and nothing
    /// came. A response that has begun is not in flight, but not at its end either.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub responding: u32,
    /// Age of the oldest unread request; `None` if there is none or it is unknown.
    #[serde(default)]
    pub oldest_unread_us: Option<u64>,
    /// Age of the oldest request in flight; `None` if there is none or it is unknown.
    #[serde(default)]
    pub oldest_in_flight_us: Option<u64>,
    /// Age of the youngest request in flight; `None` if there is none or it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub youngest_in_flight_us: Option<u64>,
    /// Responses seen since the address was first seen: a lower bound, from samples.
    #[serde(default)]
    pub answered_total: Option<u64>,
    /// Requests whose client closed the connection before the response began.
    #[serde(default)]
    pub abandoned_total: Option<u64>,
    /// Process that has held a request unanswered for longest; `None` if none is held for half a
    /// second, or if it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_pid: Option<u32>,
    /// Time for which it has been seen to hold that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_us: Option<u64>,
}

fn is_empty(text: &Arc<str>) -> bool {
    text.is_empty()
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start_ticks)
    }
}
