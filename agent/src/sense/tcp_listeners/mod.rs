//! Accept queues of every listening TCP socket, in every network namespace.
//!
//! With BPF each listener is read by its socket's address: depth, limit, drops, the age of the
//! queue's head, and, if accept() can be traced, the wait of each connection. Without BPF
//! `sock_diag` has depth, limit and drops. Drops count as overflows only if the namespace counted
//! any, see `overflows`.
//!
//! Arrivals are counted by address: if sockets share one (SO_REUSEPORT), it is unknown which of
//! them took a connection. The owner of a socket is the process that called listen(); every
//! [`OWNER_REFRESH_SECS`] the processes that hold the socket are read, so that a server whose
//! parent has exited still has an owner.

mod socket;

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use foldhash::HashSet;
use spillway_ebpf::{
    KnownListener, ListenerSample, SocketOwnerSample, TCP_LISTEN, WATCHES_LISTENERS,
};

use super::{
    CgroupPaths, Fact, Hierarchy, ListenerFact, Loss, LossCounters, SocketList,
    accept_latency::{AcceptLatency, Sojourns},
    outside::{Outside, listens_at},
    overflows::{DropRise, Overflows},
    sensor::{Observations, Schedule, Sensor},
    service_pressure::{ServicePressureSensor, WaitingAt},
    shares::{self, Shares},
    sock_diag::{DiagListener, Kinds, SockDiag},
    waiting_requests::BusyAddresses,
};
use crate::{
    bpf::{
        Fallback, FallbackChain, Hook, IterHandle, Loader, Need, Probe, SharedStruct,
        btf_offsets::members, optional, pass,
    },
    spare_room,
};
use socket::ListenerSocket;

/// Time for which an owner is cached. A guess: long against the cost of reading every file of every
/// process, short against the time to a notification.
const OWNER_REFRESH_SECS: f64 = 10.0;

/// Maximum number of processes remembered as holders of a socket: more workers than most servers
/// have, and few enough to be read often.
const HOLDERS_MAX: usize = 16;

/// Maximum number of processes tried for the counts of a namespace: most are in the namespace of
/// their listener.
const PIDS_TRIED: usize = 8;

/// Wait of a queue's head from which its service is examined: healthy queues occasionally have one
/// that waits for less.
const WAITS_MIN_US: u64 = 1_000;

/// Reads the accept queue of every listener.
pub struct TcpListenerSensor {
    source: TcpSource,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
}

enum TcpSource {
    Bpf(Box<BpfSource>),
    SockDiag(Box<SockDiag>),
}

/// Passes over every TCP listener.
pub struct ListenerProbes {
    /// Reads one sample of each known listener.
    pub scan: IterHandle,
    /// Finds listeners that were there before the agent, and the owners of all.
    pub find: IterHandle,
    /// Known listeners by socket address.
    pub known: BpfHashMap<MapData, u64, SharedStruct<KnownListener>>,
    /// List of every socket; `None` if the kernel rejects it.
    pub list: Option<Arc<SocketList>>,
    /// Waits by the listener's socket address; `None` if accept() is not traced.
    pub sojourns: Option<Sojourns>,
    /// Number of known listeners by owner.
    shares: Shares,
    /// Number of listeners with waits by owner.
    sojourn_shares: Shares,
    /// Number of times that a listener found no room there.
    outside: Array<MapData, u64>,
}

/// Listeners that the BPF side knows.
struct BpfSource {
    probes: ListenerProbes,
    known: HashMap<u64, ListenerSocket>,
    /// Number of them by address.
    sharing: HashMap<(u32, SocketAddr), u32>,
    /// Number of sockets that have been given a number.
    numbered: u64,
    scans: u64,
    pressure: ServicePressureSensor,
    overflows: Overflows,
    /// Listeners whose drops rose in this scan.
    dropped: Vec<Dropped>,
    outside: Outside,
    /// Reads every listener, for those that found no room.
    every: SockDiag,
    buffer: Vec<u8>,
}

struct Dropped {
    sock: u64,
    fact: ListenerFact,
    rise: DropRise,
}

impl TcpListenerSensor {
    /// Iterators over known listeners.
    pub const ITER: Hook = Hook::new("listener_iter");

    /// Sources of the queues of TCP listeners.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::AcceptQueue,
        fallbacks: &[
            Fallback::bpf(
                Self::ITER,
                "iter/bpf_map_elem, iter/task_file, tp_btf inet_sock_set_state",
                &[
                    Need::Iterator("bpf_map_elem"),
                    Need::Iterator("task_file"),
                    Need::Tracepoint("inet_sock_set_state"),
                ],
            )
            .watching(WATCHES_LISTENERS)
            .reading(&[
                members::TASK_TGID,
                members::FILE_INODE,
                members::FILE_PRIVATE_DATA,
                members::INODE_MODE,
                members::SOCKET_SK,
                members::SOCK_FAMILY,
                members::SOCK_STATE,
                members::INET_SPORT,
                members::SOCK_NUM,
                members::SOCK_RCV_SADDR,
                members::SOCK_V6_RCV_SADDR,
                members::SOCK_NET,
                members::NET_INUM,
                members::SOCK_PROTOCOL,
                members::SOCK_ACK_BACKLOG,
                members::SOCK_MAX_ACK_BACKLOG,
                members::ACCEPT_HEAD,
                members::REQUEST_SK,
                members::SOCK_SOCKET,
                members::SOCKET_INODE,
                members::TCP_ESTABLISHED,
            ])
            // Without `sk_drops` the number of overflows is 0; without either interface index no
            // connection counts as one from another host; without `sk_uid` users share the room of
            // their namespace; without the last two the overflows of a namespace whose processes
            // may not be read count only at full queues.
            .reading_if_present(&[
                members::SOCK_DROPS,
                members::SOCK_RX_IFINDEX,
                members::INET_RX_IFINDEX,
                members::SOCK_UID,
                members::TASK_NSPROXY,
                members::NSPROXY_NET,
            ]),
            Fallback::without_bpf(Hook::new("sock_diag"), "sock_diag").lacking(
                "the age of a queue is not seen, nor, without CAP_SYS_ADMIN, other network \
                 namespaces",
            ),
        ],
    };

    /// Attaches the iterators and the hook on accept(), or uses `sock_diag`.
    pub fn start(bpf: &mut Loader, hierarchy: &Hierarchy) -> Self {
        let probes = bpf.attach(&Self::PROBE, |context, _| {
            Ok(ListenerProbes {
                find: context.iter("find_listeners", "task_file")?,
                scan: context.iter_map("scan_listeners", "LISTENERS")?,
                known: context.take("LISTENERS")?,
                sojourns: None,
                shares: context.take_batched("LISTENER_SHARES")?,
                sojourn_shares: context.take_batched("SOJOURN_SHARES")?,
                outside: context.take("OUTSIDE")?,
                list: optional(SocketList::attach(context)).map(Arc::new),
            })
        });
        let sojourns = AcceptLatency::attach(bpf);
        let source = match probes {
            Some(probes) => {
                TcpSource::Bpf(Box::new(BpfSource::new(ListenerProbes { sojourns, ..probes })))
            }
            None => TcpSource::SockDiag(Box::default()),
        };
        Self { source, cgroups: CgroupPaths::new(hierarchy.clone()), refreshed: None }
    }

    /// The iterators and maps; `None` if `sock_diag` is used.
    pub fn probes(&self) -> Option<&ListenerProbes> {
        match &self.source {
            TcpSource::Bpf(source) => Some(&source.probes),
            TcpSource::SockDiag(_) => None,
        }
    }

    /// The list of every socket; `None` if BPF lists none.
    pub fn socket_list(&self) -> Option<Arc<SocketList>> {
        self.probes()?.list.clone()
    }

    /// Reads every listener, and passes each to `each`.
    fn scan(
        &mut self,
        now: f64,
        waiting: &mut BusyAddresses,
        losses: &mut LossCounters,
        each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= OWNER_REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        match &mut self.source {
            TcpSource::Bpf(source) => {
                if refresh {
                    source.find_owners(&self.cgroups, losses)?;
                }
                source.scan(now, refresh, waiting, &self.cgroups, losses, each)
            }
            TcpSource::SockDiag(sockets) => {
                sockets.scan(refresh, &self.cgroups, losses, |_| true, each)
            }
        }
    }
}

impl Sensor for TcpListenerSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Listeners
    }

    fn failure(&self) -> Loss {
        Loss::ListenerScanFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let mut waiting = std::mem::take(out.waiting);
        waiting.begin_scan();
        let (losses, mut push) = out.split();
        let scanned =
            self.scan(now, &mut waiting, losses, |fact| push(Fact::Listener(Box::new(fact))));
        drop(push);
        *out.waiting = waiting;
        scanned
    }
}

impl BpfSource {
    fn new(probes: ListenerProbes) -> Self {
        let every = SockDiag::of(Kinds::Tcp, probes.list.clone());
        Self {
            probes,
            known: HashMap::new(),
            sharing: HashMap::new(),
            numbered: 0,
            scans: 0,
            pressure: ServicePressureSensor::new(Hierarchy::unified()),
            overflows: Overflows::default(),
            dropped: Vec::new(),
            outside: Outside::default(),
            every,
            buffer: Vec::new(),
        }
    }

    /// Reads the queue of each listener.
    fn scan(
        &mut self,
        now: f64,
        refresh: bool,
        waiting: &mut BusyAddresses,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        mut each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        self.scans += 1;
        let Self {
            probes,
            known,
            sharing,
            numbered,
            scans,
            pressure,
            overflows,
            dropped,
            outside,
            every,
            buffer,
        } = self;
        let (mut closed, mut seen, mut namespaces) = (Vec::new(), 0, Vec::new());
        overflows.begin_scan();
        dropped.clear();
        let rest = pass(&probes.scan, buffer, |sample: ListenerSample| {
            if sample.state != TCP_LISTEN {
                return closed.push(sample.sock);
            }
            let mut fresh = || {
                *numbered += 1;
                ListenerSocket::new(&sample, *numbered, cgroups)
            };
            let listener = match known.entry(sample.sock) {
                Entry::Vacant(entry) => {
                    let listener = entry.insert(fresh());
                    *sharing.entry(listener.address()).or_default() += 1;
                    listener
                }
                Entry::Occupied(entry) => {
                    let listener = entry.into_mut();
                    if !listener.is_of(&sample) {
                        // The kernel reused the memory of a closed socket for another, such as that
                        // of a restarted server.
                        remove_from(sharing, listener);
                        *listener = fresh();
                        *sharing.entry(listener.address()).or_default() += 1;
                    }
                    listener
                }
            };
            if listener.seen == 0 && !overflows.knows(sample.netns) {
                namespaces.push((sample.netns, sample.pid));
            }
            listener.seen = *scans;
            seen += 1;
            let shares = sharing.get(&listener.address()).is_some_and(|sockets| *sockets > 1);
            let rise = listener.rise(&sample);
            let mut fact = listener.fact(&sample, shares, probes.sojourns.as_ref());
            if shares || fact.holders.is_some() {
                waiting.share(fact.netns, &fact.addr);
            }
            let waits = waiting_at(&fact, waiting);
            if let Some(waits) = waits {
                fact.strain = pressure.read(now, waits, listener.pid(), listener.holders());
            }
            if let (Some(_), Some(pid)) = (waits, fact.pid) {
                waiting.note_owner(fact.netns, &fact.addr, pid);
            }
            match rise {
                Some(rise) => dropped.push(Dropped { sock: sample.sock, fact, rise }),
                None => each(fact),
            }
        })?;
        pressure.end_scan(now);
        dropped.sort_unstable_by_key(|one| one.fact.netns);
        for of_one in dropped.chunk_by_mut(|one, other| one.fact.netns == other.fact.netns) {
            let rises: Vec<_> = of_one.iter().map(|one| one.rise).collect();
            let netns = of_one.first().map_or(0, |one| one.fact.netns);
            let counted = overflows.settle(
                netns,
                of_one.iter().filter_map(|one| one.fact.pid).take(PIDS_TRIED),
                &rises,
            );
            for (one, count) in of_one.iter_mut().zip(counted) {
                let total = known.get_mut(&one.sock).map(|listener| listener.add_overflows(count));
                one.fact.overflows_total = total;
            }
        }
        dropped.drain(..).for_each(|one| each(one.fact));
        // Last: a count that is read for the first time now includes the overflows of this scan.
        namespaces.into_iter().for_each(|(netns, pid)| overflows.begin(netns, pid));
        losses.count_short_read(rest);
        for sock in closed {
            // It closed without a call of the tracepoint.
            let _ = probes.known.remove(&sock);
        }
        if seen < known.len() {
            known.retain(|_, listener| {
                let is_present = listener.seen == *scans;
                if !is_present {
                    remove_from(sharing, listener);
                }
                is_present
            });
            spare_room::of_map(known);
            spare_room::of_map(sharing);
        }
        if refresh {
            shares::settle(&mut probes.shares, known.values().map(ListenerSocket::share))?;
            shares::remove_empty(&mut probes.sojourn_shares)?;
        }
        let turned_away = probes.outside.get(&0, 0).unwrap_or(0);
        if outside.is_due(now, turned_away) {
            outside.read(now, losses, |losses, wants| {
                let wants = |found: &DiagListener| wants(found, listens_at(sharing, found));
                every.scan(true, cgroups, losses, wants, each)
            })?;
        }
        Ok(())
    }

    /// Finds the holders of each listener, and the listeners that were there before the agent.
    fn find_owners(&mut self, cgroups: &CgroupPaths, losses: &mut LossCounters) -> io::Result<()> {
        let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut in_netns = HashMap::new();
        let rest = pass(&self.probes.find, &mut self.buffer, |owner: SocketOwnerSample| {
            if owner.shared_netns != 0 {
                in_netns.entry(owner.shared_netns).or_insert(owner.pid);
            }
            if !self.known.contains_key(&owner.sock) {
                return;
            }
            let holders = holders.entry(owner.sock).or_default();
            if holders.len() < HOLDERS_MAX && holders.last() != Some(&owner.pid) {
                holders.push(owner.pid);
            }
        })?;
        losses.count_short_read(rest);
        in_netns.into_iter().for_each(|(netns, pid)| self.overflows.learn(netns, pid));
        for (sock, listener) in &mut self.known {
            let has_exited = !Path::new("/proc").join(listener.pid().to_string()).exists();
            let holders = holders.remove(sock).unwrap_or_default();
            // Processes come in order of pid, so that of a master and its workers the master is the
            // first holder.
            let holder = holders.first().filter(|_| has_exited);
            listener.set_owner(holder.copied().unwrap_or(listener.pid()), cgroups);
            listener.set_holders(holders);
        }
        let namespaces: HashSet<u32> =
            self.known.values().map(|listener| listener.address().0).collect();
        self.overflows.keep(&namespaces);
        Ok(())
    }
}

/// Returns what waits at a listener longer than it takes to wake a thread, so that it is worth
/// examining its service.
fn waiting_at(fact: &ListenerFact, requests: &BusyAddresses) -> Option<WaitingAt> {
    let has_connections = match fact.oldest_wait_us {
        Some(us) => us >= WAITS_MIN_US,
        None => fact.backlog > 1,
    };
    if has_connections {
        return Some(WaitingAt::Connections);
    }
    requests.wait_at(fact.netns, &fact.addr).then_some(WaitingAt::Requests)
}

/// Removes a closed socket from the number of those at its address.
fn remove_from(sharing: &mut HashMap<(u32, SocketAddr), u32>, listener: &ListenerSocket) {
    if let Entry::Occupied(mut sockets) = sharing.entry(listener.address()) {
        *sockets.get_mut() -= 1;
        if *sockets.get() == 0 {
            sockets.remove();
        }
    }
}
