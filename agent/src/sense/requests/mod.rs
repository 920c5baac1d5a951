//! Requests on the connections of every TCP listener: how many wait and for how long, on
//! connections that stay open.
//!
//! The accept queue says nothing of these. The kernel keeps for each socket when data last came and
//! was last sent, and how much is unread; `connection` makes a request in flight out of that, and
//! `table` the counts of each address. With BPF a pass samples the connections of known listeners,
//! in every network namespace: those in a map, see `slots`, or those among all open files. Without
//! it `sock_diag` has the same times, rounded, and those that wait for accept() too. Passes are
//! paced by what they cost, see `pace`, and made in pieces, see `passes`.
//!
//! The length of a tick is the resolution of the kernel's coarse clock, which it defines as one
//! tick: neither a configuration file nor a calibration is needed.

mod connection;
mod holders;
mod left_out;
mod pace;
mod passes;
mod slots;
mod table;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
};

use nix::time::{ClockId, clock_getres};
use spillway_ebpf::WATCHES_REQUESTS;

use super::{
    CgroupPaths, Fact, Hierarchy, Loss, LossCounters, RequestsFact,
    sensor::{Observations, Schedule, Sensor},
    sock_diag::{Kinds, SockDiag},
    thread_time::thread_secs,
    waiting_requests::BusyAddresses,
};
use crate::bpf::{
    Fallback, FallbackChain, Hook, Loader, Need, Probe, btf_offsets::members,
    kernel_offset::KernelOffset,
};
use connection::PeerConnection;
use pace::RequestPace;
use passes::{EndedPass, Passes};
use table::{RequestTable, SYSTEM};

/// Time for which network namespaces are cached by `sock_diag`. A guess: finding new ones takes a
/// walk over every process.
const NETNS_REFRESH_SECS: f64 = 60.0;

/// A tick of 4 ms, the default of most distributions, in case the clock does not say.
const TICK_NS_DEFAULT: u64 = 4_000_000;

const READS: &[KernelOffset] = &[
    members::TASK_TGID,
    members::SOCKET_SK,
    members::SOCK_FAMILY,
    members::SOCK_STATE,
    members::SOCK_NUM,
    members::INET_SPORT,
    members::SOCK_RCV_SADDR,
    members::SOCK_V6_RCV_SADDR,
    members::SOCK_DPORT,
    members::SOCK_NET,
    members::NET_INUM,
    members::ICSK_RECEIVED,
    members::TCP_SENT,
    members::TCP_RCV_NXT,
    members::TCP_COPIED_SEQ,
    members::TCP_SND_UNA,
    members::TCP_WRITE_SEQ,
    members::TCP_SND_WL1,
    members::TCP_BYTES_RECEIVED,
    // Of the visits of known connections.
    members::SOCK_SOCKET,
    // Of the program that reads by helper alone.
    members::FILE_INODE,
    members::FILE_PRIVATE_DATA,
    members::INODE_MODE,
    members::SOCK_PROTOCOL,
];

/// Loss of a pass over every open file.
const FILES_LACK: &str = "requests are read less often on hosts with very many open files";

/// Without it users share the room of their namespace.
const MAY_READ: &[KernelOffset] = &[members::SOCK_UID];

/// Reads the requests on the connections of every listener.
pub struct RequestSensor {
    source: RequestSource,
    table: RequestTable,
    pace: RequestPace,
    tick_ns: u64,
    cost: PassCost,
    /// Latest complete pass, without its namespaces.
    complete: Option<CompletePass>,
}

/// Pass that read everything there was to read, except at some listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompletePass {
    /// Time at which it began.
    pub began: f64,
    /// Time at which it ended, which its facts have.
    pub t: f64,
    /// Network namespaces that it read; `None` if it read the connections of every listener whose
    /// arrivals are counted, wherever it is.
    pub namespaces: Option<Vec<u32>>,
    /// Network namespaces and ports of listeners some of whose connections it did not read.
    pub partial: Arc<BTreeSet<(u32, u16)>>,
}

/// Passes so far, and the processor time that they took.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassCost {
    /// Number of passes.
    pub passes: u64,
    /// Processor time of all.
    pub secs: f64,
    /// Longest processor time in one turn of the loop.
    pub longest_turn_secs: f64,
}

enum RequestSource {
    Bpf(Passes),
    SockDiag(Box<DiagSource>),
}

struct DiagSource {
    sockets: SockDiag,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
    listeners: HashSet<(u32, SocketAddr)>,
}

impl RequestSensor {
    /// `iter/bpf_map_elem` over known connections.
    pub const SLOTS: Hook = Hook::new("request_slots");
    /// `iter/task_file`, reading sockets by plain loads.
    pub const ITER: Hook = Hook::new("request_iter");
    /// `iter/task_file`, reading sockets by helper.
    pub const ITER_HELPER: Hook = Hook::new("request_iter_helper");

    /// Sources of requests. Only connections of listeners that BPF knows are sampled.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::Requests,
        fallbacks: &[
            Fallback::bpf(
                Self::SLOTS,
                "iter/bpf_map_elem, iter/task_file, tp_btf inet_sock_set_state",
                &[
                    Need::Iterator("bpf_map_elem"),
                    Need::Iterator("task_file"),
                    Need::Tracepoint("inet_sock_set_state"),
                    Need::Probe(Probe::AcceptQueue),
                ],
            )
            .watching(WATCHES_REQUESTS)
            .reading(READS)
            .reading_if_present(MAY_READ),
            Fallback::bpf(
                Self::ITER,
                "iter/task_file, bpf_sock_from_file",
                &[Need::Iterator("task_file"), Need::Probe(Probe::AcceptQueue)],
            )
            .reading(READS)
            .reading_if_present(MAY_READ)
            .lacking(FILES_LACK),
            Fallback::bpf(
                Self::ITER_HELPER,
                "iter/task_file, bpf_probe_read_kernel",
                &[Need::Iterator("task_file"), Need::Probe(Probe::AcceptQueue)],
            )
            .reading(READS)
            .reading_if_present(MAY_READ)
            .lacking(FILES_LACK),
            Fallback::without_bpf(Hook::new("request_diag"), "sock_diag").lacking(
                "a request that comes within a tick of the response before it is seen only while \
                 it is unread, and, without CAP_SYS_ADMIN, none in other network namespaces",
            ),
        ],
    };

    /// Attaches the iterators, or uses `sock_diag`.
    pub fn start(bpf: &mut Loader, hierarchy: &Hierarchy) -> Self {
        let passes = bpf.attach(&Self::PROBE, |context, hook| match hook {
            Self::SLOTS => Passes::over_slots(context),
            Self::ITER => Passes::over_files(context, "list_requests"),
            _ => Passes::over_files(context, "list_requests_by_helper"),
        });
        let table = match &passes {
            Some(passes) if passes.has_slots() => RequestTable::of_slots(),
            _ => RequestTable::default(),
        };
        let source = match passes {
            Some(passes) => RequestSource::Bpf(passes),
            None => RequestSource::SockDiag(Box::new(DiagSource {
                sockets: SockDiag::of(Kinds::Tcp, None),
                cgroups: CgroupPaths::new(hierarchy.clone()),
                refreshed: None,
                listeners: HashSet::new(),
            })),
        };
        let (pace, cost) = (RequestPace::default(), PassCost::default());
        Self { source, table, pace, tick_ns: tick_ns(), cost, complete: None }
    }

    /// Latest pass that was complete. An address without a fact of its time had no connection.
    pub fn complete_pass(&self) -> Option<CompletePass> {
        let namespaces = match &self.source {
            RequestSource::Bpf(..) => None,
            RequestSource::SockDiag(source) => Some(source.sockets.namespaces().collect()),
        };
        Some(CompletePass { namespaces, ..self.complete.clone()? })
    }

    /// Passes so far, and what they cost.
    pub fn cost(&self) -> PassCost {
        self.cost
    }

    /// Makes a pass or a part of one if that is due. At its end passes on a fact for each address.
    fn scan(
        &mut self,
        now: f64,
        busy: &BusyAddresses,
        losses: &mut LossCounters,
        mut each: impl FnMut(RequestsFact),
    ) -> io::Result<()> {
        let is_due = self.pace.is_due(now);
        let before = thread_secs();
        let Self { source, table, tick_ns, .. } = self;
        let (ended, read) = match source {
            RequestSource::Bpf(passes) => match passes.turn(now, is_due, *tick_ns, table, losses) {
                Ok(ended) => (ended, Ok(())),
                Err(error) => (None, Err(error)),
            },
            RequestSource::SockDiag(_) if !is_due => (None, Ok(())),
            RequestSource::SockDiag(source) => {
                table.begin(now);
                let read = source.read(now, losses, table);
                let secs = thread_secs() - before;
                let partial = read.is_ok().then(BTreeSet::new);
                (Some(EndedPass { began: now, secs, partial }), read)
            }
        };
        if let Some(EndedPass { began, secs, partial }) = ended {
            let mut is_calm = true;
            let before_end = thread_secs();
            let (connections, left_out) = table.end(busy, |fact| {
                is_calm &= fact.in_flight == 0;
                each(fact);
            });
            if left_out > 0 {
                losses.count(Loss::RequestsLeftOut);
            }
            self.cost.passes += 1;
            self.pace.rest(began, secs + thread_secs() - before_end, connections, is_calm);
            if let Some((mut partial, not_followed)) = partial.zip(self.table.partial()) {
                partial.extend(not_followed);
                let partial = Arc::new(partial);
                self.complete = Some(CompletePass { began, t: now, namespaces: None, partial });
            }
        }
        let turn_secs = thread_secs() - before;
        if read.is_err() && is_due {
            self.pace.rest(now, turn_secs, 0, false);
        }
        self.cost.secs += turn_secs;
        self.cost.longest_turn_secs = self.cost.longest_turn_secs.max(turn_secs);
        read
    }
}

impl Sensor for RequestSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Listeners
    }

    fn failure(&self) -> Loss {
        Loss::RequestReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let busy = std::mem::take(out.waiting);
        let mut facts = Vec::new();
        let scanned = self.scan(now, &busy, out.losses, |fact| facts.push(fact));
        *out.waiting = busy;
        facts.into_iter().for_each(|fact| out.push(Fact::Requests(fact)));
        scanned
    }
}

impl DiagSource {
    fn read(
        &mut self,
        now: f64,
        losses: &mut LossCounters,
        table: &mut RequestTable,
    ) -> io::Result<()> {
        let Self { sockets, cgroups, refreshed, listeners } = self;
        let refresh = refreshed.is_none_or(|then| now - then >= NETNS_REFRESH_SECS);
        if refresh {
            *refreshed = Some(now);
        }
        listeners.clear();
        sockets.each_connection(refresh, cgroups, losses, listeners, |listener, response| {
            if let Some(connection) = PeerConnection::from_response(response) {
                table.add(listener, SYSTEM, &connection);
            }
        })
    }
}

/// Returns the length of a tick.
fn tick_ns() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .ok()
        .and_then(|tick| u64::try_from(tick.tv_nsec()).ok())
        .filter(|&ns| ns > 0)
        .unwrap_or(TICK_NS_DEFAULT)
}

/// Returns the addresses in samples, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(super) fn addresses(
    samples: impl Iterator<Item = spillway_ebpf::RequestSample>,
) -> Vec<Arc<str>> {
    let mut table = RequestTable::default();
    table.begin(0.0);
    for sample in samples {
        let address = super::addr::inet_addr(sample.family, sample.addr, sample.port);
        let connection = PeerConnection::from_sample(&sample, TICK_NS_DEFAULT);
        table.add((sample.netns, address), sample.share, &connection);
    }
    let mut addresses = Vec::new();
    table.end(&BusyAddresses::default(), |fact| addresses.push(fact.addr));
    addresses
}
