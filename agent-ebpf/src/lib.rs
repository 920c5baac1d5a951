//! Types shared by Spillway's BPF programs and the agent: samples, struct offsets, and the names of
//! probes and losses.
//!
//! Every sample is plain data without padding, so that bytes from the kernel can be read as they
//! are. No offset into a kernel struct is fixed here: offsets come from the running kernel's BTF at
//! load time, through [`Offsets`].
#![no_std]

/// Bytes of a process name, including its terminating NUL (`TASK_COMM_LEN`, the same on every
/// kernel).
pub const COMM_LEN: usize = 16;

/// Pages that one page-fault sample stands for: the sample period. 64 pages of 4 KiB are 256 KiB of
/// growth, so a process that grows by 1 MiB a second costs four samples a second.
pub const FAULT_SAMPLE_PERIOD_PAGES: u64 = 64;

/// Memory of one process, from `iter/task`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskSample {
    /// Start of the thread group's leader on the boot clock, in nanoseconds.
    pub start_boottime_ns: u64,
    /// Kernel id (kernfs node) of the cgroup that the memory controller charges.
    pub cgroup_id: u64,
    /// Resident file pages. This and the next three may be plain counts of per-CPU sums, which are
    /// off by some pages a CPU and may be negative.
    pub file_pages: i64,
    /// Resident anonymous pages.
    pub anon_pages: i64,
    /// Swapped-out pages.
    pub swap_pages: i64,
    /// Resident shared-memory pages.
    pub shmem_pages: i64,
    /// Pages of private writable memory mapped, touched or not; [`PAGES_UNKNOWN`] if this kernel
    /// has no such count.
    pub mapped_pages: u64,
    /// Highest count of resident pages that the kernel has noted, which it does before pages are
    /// given back: the peak is this or the present count, whichever is more. [`PAGES_UNKNOWN`] if
    /// this kernel keeps none.
    pub peak_rss_pages: u64,
    /// Page-fault samples taken in this process so far.
    pub fault_samples: u64,
    /// Thread-group id.
    pub pid: u32,
    /// Thread-group id of the parent.
    pub ppid: u32,
    /// Name, NUL-padded.
    pub comm: [u8; COMM_LEN],
}

/// Value of an unknown count in [`TaskSample`]: more pages than fit any address space.
pub const PAGES_UNKNOWN: u64 = u64::MAX;

/// Limited resources of one process, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandleSample {
    /// Start of the thread group's leader on the boot clock, in nanoseconds.
    pub start_boottime_ns: u64,
    /// Soft limit on open files (`RLIMIT_NOFILE`).
    pub fds_max: u64,
    /// Thread-group id.
    pub pid: u32,
    /// Open files.
    pub fds: u32,
    /// Threads.
    pub threads: u32,
    /// TCP sockets among the files that the peer has closed and the process has not (`CLOSE_WAIT`).
    pub close_wait: u32,
}

/// Bytes of an open file's name that are kept. A guess: most names of logs are shorter.
pub const FILE_NAME_LEN: usize = 64;

/// A regular file that is open for writing, or that was deleted and is still open, from
/// `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFileSample {
    /// Number of its inode.
    pub inode: u64,
    /// Blocks of 512 bytes that it takes; 0 if its inode does not say, as in xfs or an overlay.
    pub blocks: u64,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Thread-group id of a process that has it open.
    pub pid: u32,
    /// Descriptor in that process.
    pub fd: u32,
    /// Device of its file system: the major number times 2^20, and the minor number.
    pub device: u32,
    /// Names that it has; 0 if it was deleted.
    pub links: u32,
    /// Length of `name`.
    pub name_len: u32,
    /// Zero.
    pub reserved: u32,
    /// Beginning of the last component of its path.
    pub name: [u8; FILE_NAME_LEN],
}

/// A process event, from the `sched_process_*` tracepoints.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeSample {
    /// Start of the process on the boot clock, in nanoseconds.
    pub start_boottime_ns: u64,
    /// Thread-group id.
    pub pid: u32,
    /// One of the `LIFE_*` constants.
    pub kind: u32,
}

/// A process was forked.
pub const LIFE_FORK: u32 = 1;
/// A process replaced its image.
pub const LIFE_EXEC: u32 = 2;
/// The last thread of a process ended.
pub const LIFE_EXIT: u32 = 3;

/// One listening socket, from `iter/bpf_map_elem` over the map of known listeners.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerSample {
    /// Address of the socket in the kernel: its identity while it lives.
    pub sock: u64,
    /// Time of this sample on the monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// Time on that clock at which the head of the queue was established, in microseconds; valid
    /// with [`HEAD_SEEN`].
    pub head_us: u64,
    /// Owner of the share of the map that it takes, see [`share_of`].
    pub share: u64,
    /// Connections that accept() returned; zero if accept() is not traced.
    pub accepted_total: u64,
    /// Sum of their waits, in microseconds.
    pub wait_us_total: u64,
    /// Connections that entered the accept queues of its address since the first of them.
    pub arrived_total: u64,
    /// Connections among them that came over another interface than loopback.
    pub remote_total: u64,
    /// Time at which one of them last found the queue empty, on the clock of `now_ns`; 0 before
    /// that.
    pub found_empty_ns: u64,
    /// Local address, each word in network byte order; IPv4 in the first.
    pub addr: [u32; 4],
    /// Inode of the network namespace.
    pub netns: u32,
    /// Thread-group id of the process that called listen().
    pub pid: u32,
    /// Connections in the accept queue.
    pub backlog: u32,
    /// Limit of the queue.
    pub backlog_max: u32,
    /// Connections dropped at this listener (`sk_drops`).
    pub drops: u32,
    /// Always zero.
    pub reserved: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Local port, host byte order.
    pub port: u16,
    /// One of the `HEAD_*` constants.
    pub head: u16,
    /// State of the socket; if it is not [`TCP_LISTEN`], the socket no longer listens.
    pub state: u16,
}

/// The queue is empty.
pub const HEAD_NONE: u16 = 0;
/// `head_us` is the time at which the head of the queue was established.
pub const HEAD_SEEN: u16 = 1;
/// The queue has a head, but it moved while it was read, or is not established yet.
pub const HEAD_MOVING: u16 = 2;

/// Value of the map of known listeners.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownListener {
    /// Owner of the share of the map that it takes, see [`share_of`].
    pub share: u64,
    /// Thread-group id of the process that called listen().
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Value of the map of known UNIX listeners.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownUnix {
    /// Number of its inode, which distinguishes it from a later socket in the same memory.
    pub inode: u64,
    /// Owner of the share of the map that it takes, see [`share_of`].
    pub share: u64,
}

/// Capacity of the map of listeners. A guess at the busiest node's listeners, doubled. A scan walks
/// every bucket, which takes 0.1 ms at this size, ten times a second. A listener that finds no room
/// is counted and listed by a pass over open files.
pub const LISTENERS_MAX: u32 = 8_192;

/// Capacity of the map of UNIX listeners. A guess at the busiest node's, doubled.
pub const UNIX_LISTENERS_MAX: u32 = 2_048;

/// Owner that stands for all users and namespaces except the system's own.
pub const SHARE_OF_ALL: u64 = u64::MAX;

/// First uid of people and containers in Debian and most distributions (`UID_MIN` of login.defs).
const ORDINARY_UIDS: u32 = 1_000;

/// Returns the owner of a map entry's share: a user, a network namespace, or 0, the system.
#[inline(always)]
pub const fn share_of(uid: u32, netns: u32, init_netns: u32) -> u64 {
    const USER: u64 = 1 << 32;
    const NETNS: u64 = 2 << 32;
    if uid >= ORDINARY_UIDS {
        USER | uid as u64
    } else if netns != init_netns {
        NETNS | netns as u64
    } else {
        0
    }
}

mod sojourn;

pub use sojourn::{SOJOURN_BUCKETS, Sojourn};

/// Maximum number of CPUs whose slots are summed. A guess at the largest host's; slots of further
/// CPUs are ignored.
pub const CPUS_MAX: usize = 1024;

/// Distances of each CPU's copy of per-CPU memory from its base address, by CPU number; zero ends
/// the list.
pub type CpuOffsets = [u64; CPUS_MAX];

/// Address of one CPU's copy of a per-CPU map's value, from `iter/bpf_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSlotSample {
    /// Base address of all copies.
    pub base: u64,
    /// Address of this CPU's copy.
    pub slot: u64,
}

/// A listening socket that a process holds, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwnerSample {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Thread-group id of a process that holds it.
    pub pid: u32,
    /// Inode of the network namespace that the socket and the process share; 0 if they share none,
    /// or it is unknown.
    pub shared_netns: u32,
}

/// A TCP socket that listens or is established and that a process holds, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketSample {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Number of its inode.
    pub inode: u64,
    /// Local address, each word in network byte order; IPv4 in the first.
    pub addr: [u32; 4],
    /// Inode of the network namespace.
    pub netns: u32,
    /// Thread-group id of a process that holds it.
    pub pid: u32,
    /// 1 if that process is in this namespace; 0 if it is not, or that is unknown.
    pub in_its_netns: u32,
    /// Uid of its owner; 0 if the kernel does not keep it.
    pub uid: u32,
    /// Connections in the accept queue.
    pub backlog: u32,
    /// Limit of the queue.
    pub backlog_max: u32,
    /// Packets dropped (`sk_drops`).
    pub drops: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Local port, host byte order.
    pub port: u16,
    /// [`TCP_LISTEN`] or [`TCP_ESTABLISHED`].
    pub state: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// Maximum number of connections that are visited without a pass over open files: a third more than
/// the most that passes are paced for. The map takes 1 MiB.
pub const CONNECTIONS_MAX: u32 = 1 << 17;

/// Number of connections in one element of the map of them: an element costs as much as a
/// connection to visit, even if it is empty.
pub const CHUNK_LEN: usize = 64;

/// Neighbouring slots of the map of connections: addresses of sockets in the kernel, 0 for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionChunk {
    /// Addresses of sockets.
    pub socks: [u64; CHUNK_LEN],
}

/// Number of connections that a CPU remembers until the agent's next look. A guess at 0.1 s of the
/// busiest server's, 5,000 a second a CPU; those beyond it are found by a pass over open files.
pub const NEW_CONNECTIONS_KEPT: usize = 512;

/// A connection that was established at a listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewConnection {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Owner of the connection, see [`share_of`].
    pub share: u64,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Port of the listener, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Latest connections of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewConnections {
    /// Number of connections so far; each is at this number modulo [`NEW_CONNECTIONS_KEPT`].
    pub total: u64,
    /// Connections.
    pub latest: [NewConnection; NEW_CONNECTIONS_KEPT],
}

/// State of a connection that waits for accept() in [`RequestSample`]: no state of the kernel's.
pub const TCP_NOT_ACCEPTED: u16 = 0;

/// A connection of a known listener. Times are the low half of the kernel's tick count (jiffies),
/// as it keeps them in a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSample {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Owner of the connection, see [`share_of`]; 0 in a visit, since its slot has it.
    pub share: u64,
    /// Address of the listener, each word in network byte order; IPv4 in the first.
    pub addr: [u32; 4],
    /// Inode of the network namespace.
    pub netns: u32,
    /// Time at which data last came.
    pub received: u32,
    /// Time at which data was last sent.
    pub sent: u32,
    /// Time of this sample, taken after the others.
    pub now: u32,
    /// Bytes that the process has not read, and the peer's FIN (`rcv_nxt - copied_seq`).
    pub unread: u32,
    /// Bytes that the process has written and the peer has not acknowledged (`write_seq -
    /// snd_una`); 0 unless both times are the same.
    pub unacked: u32,
    /// Bytes that came with or after the segment that the peer's window was last taken from
    /// (`rcv_nxt - snd_wl1`); 0 unless both times are the same.
    pub newest: u32,
    /// Bytes that came since the connection was made, modulo 2³² (`bytes_received`).
    pub received_bytes: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Port of the listener, host byte order.
    pub port: u16,
    /// Port of the peer, network byte order.
    pub peer_port: u16,
    /// [`TCP_ESTABLISHED`], [`TCP_CLOSE_WAIT`], [`TCP_CLOSE`] or [`TCP_NOT_ACCEPTED`].
    pub state: u16,
    /// Slot in the map of connections; 0 in a pass over open files.
    pub slot: u32,
    /// Process that holds the connection; 0 in a visit, which does not know it.
    pub pid: u32,
}

/// Maximum number of processes whose programs one pass lists. A guess: more than most cgroups have;
/// the rest takes another pass.
pub const PROGRAMS_MAX: u32 = 1_024;

/// Maximum number of components of a program's path, mount points on its way included. A guess at
/// the deepest, four times.
pub const PROGRAM_COMPONENTS_MAX: u32 = 64;

/// Room for one component and its NUL: `NAME_MAX` of include/uapi/linux/limits.h and one.
pub const PROGRAM_NAME_LEN: usize = 256;

/// One component of the path of a process's program, from `iter/task`; the last comes first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramNameSample {
    /// Thread-group id.
    pub pid: u32,
    /// 1 after the first component; a path without an end is incomplete.
    pub is_end: u32,
    /// Length of `name`.
    pub name_len: u32,
    /// The component.
    pub name: [u8; PROGRAM_NAME_LEN],
}

/// Maximum length of a UNIX socket's name, in bytes: `sun_path` of include/uapi/linux/un.h.
pub const UNIX_NAME_LEN: usize = 108;

/// A listening UNIX socket that a process holds, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixFoundSample {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Number of its inode, which distinguishes it from a later socket in the same memory.
    pub inode: u64,
    /// Address of its name in the kernel, which the connections that it accepts share.
    pub address: u64,
    /// Inode of the network namespace.
    pub netns: u32,
    /// Thread-group id of a process that holds it.
    pub pid: u32,
    /// Uid of its owner; 0 if the kernel does not keep it.
    pub uid: u32,
    /// Connections in the accept queue.
    pub backlog: u32,
    /// Limit of the queue.
    pub backlog_max: u32,
    /// 1 if it is in the map of known listeners; 0 if it found no room.
    pub is_known: u32,
    /// Length of `name`.
    pub name_len: u32,
    /// A path and its terminating NUL, or a NUL and an abstract name.
    pub name: [u8; UNIX_NAME_LEN],
}

/// A connection that a UNIX listener has accepted and that a process holds, from `iter/task_file`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixAcceptedSample {
    /// Address of the name of its listener, see [`UnixFoundSample::address`].
    pub address: u64,
    /// Number of its inode.
    pub inode: u64,
    /// Thread-group id of a process that holds it.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
}

/// One known UNIX listener, from `iter/bpf_map_elem` over the map of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixSample {
    /// Address of the socket in the kernel.
    pub sock: u64,
    /// Number of its inode.
    pub inode: u64,
    /// Owner of the share of the map that it takes, see [`share_of`].
    pub share: u64,
    /// Connections in the accept queue.
    pub backlog: u32,
    /// Limit of the queue.
    pub backlog_max: u32,
    /// 1; or 0 if the socket no longer listens, and the rest is meaningless.
    pub listens: u32,
    /// Always zero.
    pub reserved: u32,
}

impl UnixSample {
    /// Sample of a socket that no longer listens.
    pub const GONE: Self =
        Self { sock: 0, inode: 0, backlog: 0, backlog_max: 0, share: 0, listens: 0, reserved: 0 };
}

/// Process and destination: key of the map of connect results.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutboundKey {
    /// Destination address, each word in network byte order; IPv4 in the first, also through an
    /// IPv6 socket.
    pub addr: [u32; 4],
    /// Inode of the network namespace.
    pub netns: u32,
    /// Thread-group id of the process that connects; 0 if the start of its connect was not seen.
    pub pid: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Destination port, host byte order.
    pub port: u16,
}

/// Results of connects.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundCount {
    /// Connects that succeeded.
    pub established: u64,
    /// Connects that the peer or the network refused.
    pub refused: u64,
    /// Connects that timed out in the kernel.
    pub timed_out: u64,
    /// Connects that ended on this side without an answer.
    pub abandoned: u64,
    /// Connects for which no local port was free.
    pub no_local_port: u64,
    /// Owner of the share of the map that the entry takes, see [`share_of`].
    pub share: u64,
}

/// A pending connect: value of the map by socket address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboundConnect {
    /// Start on the monotonic clock, in nanoseconds: distinguishes it from a later one of a socket
    /// in the same memory.
    pub since_ns: u64,
    /// Owner of the share of the map that it takes, see [`share_of`].
    pub share: u64,
    /// Process and destination.
    pub key: OutboundKey,
    /// Always zero.
    pub reserved: u32,
}

/// Capacity of the maps of pending connects and of results. A guess at the busiest proxy's,
/// doubled; a connect that finds no room is counted as a loss.
pub const OUTBOUND_MAX: u32 = 8_192;

/// Flag of the hook on socket states: it serves the probe of listeners.
pub const WATCHES_LISTENERS: u32 = 1;
/// Flag of the hook on socket states: it serves the probe of connects.
pub const WATCHES_CONNECTS: u32 = 2;
/// Flag of the hook on socket states: it serves the probe of requests.
pub const WATCHES_REQUESTS: u32 = 4;

/// `TCP_LISTEN` of `include/net/tcp_states.h`, fixed by the user-space ABI.
pub const TCP_LISTEN: u16 = 10;
/// `TCP_ESTABLISHED` of the same.
pub const TCP_ESTABLISHED: u16 = 1;
/// `TCP_CLOSE` of the same: the connection was reset or timed out, and a process still holds it.
pub const TCP_CLOSE: u16 = 7;
/// `TCP_CLOSE_WAIT` of the same: the peer has closed its side.
pub const TCP_CLOSE_WAIT: u16 = 8;

/// A probe: the BPF programs and maps, or the files read in their place, that answer one question.
/// Each belongs to one sensor. The order here is the order in `spillway doctor`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::EnumCount,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Probe {
    /// Memory of every process.
    ProcessMemory,
    /// Growth between scans, from sampled page faults.
    FaultSamples,
    /// Forks, execs and exits.
    ProcessLife,
    /// Open files, threads and unclosed sockets of every process.
    ProcessHandles,
    /// Accept queues of every TCP listener.
    AcceptQueue,
    /// Accept queues of every UNIX listener.
    UnixQueue,
    /// Time that connections wait for accept().
    AcceptSojourn,
    /// Results of outbound connects.
    OutboundConnects,
    /// Requests on the connections of TCP listeners.
    Requests,
    /// Files that are open for writing, or deleted and still open.
    OpenFiles,
}

/// A kind of loss between the kernel and an observation. BPF programs count the first
/// [`Loss::COUNTED_BY_BPF`] kinds in a per-CPU array by this index, the agent counts the others.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::EnumCount,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
#[repr(u32)]
pub enum Loss {
    /// A fork, exec or exit found the ring buffer full.
    LifeRingFull,
    /// A process's first fault sample found the map of counts full.
    FaultMapFull,
    /// A new listener found the map of listeners full.
    ListenerMapFull,
    /// A listener's first accepted connection found the map of sojourns full.
    SojournMapFull,
    /// A connect found the map of pending connects full, or its result the map of results.
    OutboundMapFull,
    /// A new listener found the map of arrivals full.
    ArrivalMapFull,
    /// A new listener exceeded the share of its user or namespace in the map of listeners.
    ListenerShareFull,
    /// A listener's first accepted connection exceeded that share in the map of sojourns.
    SojournShareFull,
    /// A connect exceeded that share in the map of pending connects or of results.
    OutboundShareFull,
    /// `/proc/meminfo` could not be read.
    HostReadFailed,
    /// A scan of processes failed.
    ProcessScanFailed,
    /// A scan of open files and threads failed.
    HandleScanFailed,
    /// A scan of TCP listeners failed.
    ListenerScanFailed,
    /// A scan of UNIX listeners failed.
    UnixScanFailed,
    /// The results of outbound connects could not be read.
    OutboundReadFailed,
    /// A pass over the connections of listeners failed.
    RequestReadFailed,
    /// A pass or a ring buffer ended within a sample.
    ShortRead,
    /// A process event had an unknown kind.
    UnknownSample,
    /// Listeners beyond one user's limit on those read through `sock_diag` were left out.
    ListenersLeftOut,
    /// A destination was left out because too many had news at once; it is reported later.
    OutboundLeftOut,
    /// Connections came faster than they are noted, or a pass met more of them or of addresses than
    /// are followed: the counts of responses and of abandoned requests are too low.
    RequestsLeftOut,
    /// A `sock_diag` request for TCP sockets failed.
    SockDiagFailed,
    /// A `sock_diag` request for UNIX sockets failed.
    UnixDiagFailed,
    /// A network namespace could not be entered.
    NetnsNotEntered,
    /// Processes hid their network namespace and sockets, for want of CAP_SYS_PTRACE.
    NetnsHidden,
    /// The memory of some cgroups could not be read.
    CgroupReadFailed,
    /// Cgroups beyond one owner's share, or beyond all that are read, were left out.
    CgroupsLeftOut,
    /// A count of a limited resource could not be read.
    CountReadFailed,
}

/// Gives an enum its variants as an array, and each variant its name.
macro_rules! named_variants {
    ($($type:ident),+) => {$(
        impl $type {
            /// Every variant, in order.
            pub const VARIANTS: [Self; <Self as strum::EnumCount>::COUNT] =
                match <Self as strum::VariantArray>::VARIANTS.first_chunk() {
                    Some(variants) => *variants,
                    None => unreachable!(),
                };

            /// Name in JSON, logs and metrics: the variant in snake case.
            pub fn name(self) -> &'static str {
                self.into()
            }
        }
    )+};
}

named_variants!(Probe, Loss);

impl Loss {
    /// Number of kinds that BPF programs count; they come first.
    pub const COUNTED_BY_BPF: usize = Self::OutboundShareFull as usize + 1;
}

/// Byte offsets of the kernel's struct members, and other differences between kernels. Filled from
/// the running kernel's BTF at load time; a program is loaded only if all members that it needs
/// were found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named <struct>_<member>")]
pub struct Offsets {
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_group_leader: u32,
    pub task_real_parent: u32,
    pub task_start_boottime: u32,
    pub task_mm: u32,
    pub task_comm: u32,
    pub task_cgroups: u32,
    pub task_signal: u32,
    pub signal_live: u32,
    pub signal_threads: u32,
    /// From `signal_struct` to the soft limit on open files.
    pub signal_fds_max: u32,
    /// From `mm_struct` to the plain count of counter 0.
    pub mm_rss_count: u32,
    /// From one counter of `rss_stat` to the next, if they have per-CPU slots; otherwise they are
    /// adjacent.
    pub mm_rss_stride: u32,
    /// From `mm_struct` to the pointer to the per-CPU slots of counter 0; [`ABSENT`] if counters
    /// have none.
    pub mm_rss_slots: u32,
    pub mm_data_vm: u32,
    pub mm_stack_vm: u32,
    pub mm_hiwater_rss: u32,
    pub map_id: u32,
    /// From `bpf_array` to its first per-CPU pointer.
    pub array_slots: u32,
    /// From `css_set` to the pointer that leads to the cgroup: `dfl_cgrp`, or `subsys[memory]`.
    pub css_set_cgroup: u32,
    /// From `cgroup_subsys_state` to `cgroup`; [`ABSENT`] if `css_set_cgroup` leads to the
    /// cgroup itself.
    pub css_cgroup: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_id: u32,
    pub file_inode: u32,
    pub inode_mode: u32,
    pub file_private_data: u32,
    pub socket_sk: u32,
    pub sock_family: u32,
    pub sock_state: u32,
    pub inet_sport: u32,
    /// From `sock` to its own port, host byte order.
    pub sock_num: u32,
    pub sock_rcv_saddr: u32,
    pub sock_v6_rcv_saddr: u32,
    pub sock_daddr: u32,
    pub sock_v6_daddr: u32,
    pub sock_dport: u32,
    /// From `sock` to the sides that are shut down; [`ABSENT`] if it is not a byte.
    pub sock_shutdown: u32,
    pub sock_err: u32,
    pub sock_net: u32,
    pub net_inum: u32,
    pub sock_protocol: u32,
    pub sock_ack_backlog: u32,
    pub sock_max_ack_backlog: u32,
    pub sock_drops: u32,
    /// From `sock` to the interface that its last packet came over; [`ABSENT`] until 5.15.
    pub sock_rx_ifindex: u32,
    /// From `inet_sock` to that interface; [`ABSENT`] since 5.16.
    pub inet_rx_ifindex: u32,
    /// From `sock` to the uid of its owner; [`ABSENT`] if it is not kept.
    pub sock_uid: u32,
    /// Inode of the initial network namespace: not an offset, but as constant.
    pub init_netns: u32,
    /// Number of CPUs that this kernel can have, at most [`CPUS_MAX`]: the verifier walks a loop
    /// over them once for each.
    pub cpus: u32,
    pub sock_type: u32,
    pub sock_socket: u32,
    pub sock_receive_queue_len: u32,
    /// From `socket` to the number of the inode next to it.
    pub socket_inode: u32,
    pub unix_addr: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    pub accept_head: u32,
    pub request_sk: u32,
    /// From `tcp_sock` to the time at which the connection was established: `rcvq_space.time`.
    pub tcp_established: u32,
    /// From `inet_connection_sock` to the time at which data last came.
    pub icsk_received: u32,
    /// From `tcp_sock` to the time at which data was last sent: `lsndtime`.
    pub tcp_sent: u32,
    pub tcp_rcv_nxt: u32,
    pub tcp_copied_seq: u32,
    pub tcp_snd_una: u32,
    pub tcp_write_seq: u32,
    pub tcp_snd_wl1: u32,
    pub tcp_bytes_received: u32,
    /// From `task_struct` to the depth of sections that must not wait for a page; [`ABSENT`] if it
    /// is not kept.
    pub task_pagefault_disabled: u32,
    pub task_nsproxy: u32,
    pub nsproxy_net: u32,
    pub mm_exe_file: u32,
    pub file_dentry: u32,
    pub file_mount: u32,
    /// From `mount` to the `vfsmount` within it.
    pub mount_vfsmount: u32,
    pub vfsmount_root: u32,
    pub mount_parent: u32,
    pub mount_mountpoint: u32,
    pub dentry_parent: u32,
    /// From `dentry` to the pointer to its name.
    pub dentry_name: u32,
    pub file_mode: u32,
    pub inode_number: u32,
    pub inode_links: u32,
    pub inode_size: u32,
    pub inode_blocks: u32,
    pub inode_super: u32,
    /// From `super_block` to its device.
    pub super_device: u32,
}

/// Value in [`Offsets`] of a member that this kernel lacks.
pub const ABSENT: u32 = u32::MAX;

impl Offsets {
    /// Offsets before the loader fills them in.
    // SAFETY: every field is a u32, for which all bytes are valid.
    pub const UNSET: Self = unsafe { core::mem::zeroed() };
}

/// A type that is valid for any bytes of its size, so that the kernel can fill it.
///
/// # Safety
///
/// The type must be `repr(C)` without padding, and valid for every bit pattern.
pub unsafe trait Plain: Copy {}

/// Marks types of integers and byte arrays as [`Plain`]. The size given is the sum of their
/// members' sizes, which the type has only if it has no padding.
macro_rules! plain {
    ($($type:ty = $bytes:expr),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $bytes, "a sample type has padding");
        // SAFETY: integers and byte arrays only, `repr(C)`, and without padding as just checked.
        unsafe impl Plain for $type {}
    )+};
}

plain! {
    u32 = 4,
    u64 = 8,
    TaskSample = 9 * 8 + 2 * 4 + COMM_LEN,
    HandleSample = 2 * 8 + 4 * 4,
    OpenFileSample = 3 * 8 + 6 * 4 + FILE_NAME_LEN,
    LifeSample = 8 + 2 * 4,
    ListenerSample = 9 * 8 + 4 * 4 + 6 * 4 + 4 * 2,
    KnownListener = 8 + 2 * 4,
    KnownUnix = 2 * 8,
    Sojourn = 2 * 8 + SOJOURN_BUCKETS * 4,
    CpuSlotSample = 2 * 8,
    SocketOwnerSample = 8 + 2 * 4,
    SocketSample = 2 * 8 + 4 * 4 + 7 * 4 + 6 * 2,
    RequestSample = 2 * 8 + 4 * 4 + 8 * 4 + 4 * 2 + 2 * 4,
    ConnectionChunk = CHUNK_LEN * 8,
    NewConnections = 8 + NEW_CONNECTIONS_KEPT * 24,
    ProgramNameSample = 3 * 4 + PROGRAM_NAME_LEN,
    UnixFoundSample = 3 * 8 + 7 * 4 + UNIX_NAME_LEN,
    UnixAcceptedSample = 2 * 8 + 2 * 4,
    UnixSample = 3 * 8 + 4 * 4,
    OutboundKey = 4 * 4 + 2 * 4 + 2 * 2,
    OutboundCount = 6 * 8,
    OutboundConnect = 2 * 8 + size_of::<OutboundKey>() + 4,
    Offsets = 87 * 4,
}
