//! Results of outbound TCP connects, by workload and destination.
//!
//! A dependency that is down shows here first: connects to it are refused, time out or are
//! abandoned while everything else looks normal. The BPF side counts results by process and
//! destination; a read takes the increase since the last one and sums it by cgroup.
//!
//! Cold start: connects that ended before the agent started are not counted, and one that began
//! before has no process. Without BPF there is nothing to read: neither `/proc` nor `sock_diag`
//! shows how a connect ended. A process that lived only between two reads has no cgroup and no
//! name. Entries that do not change are removed after a while, so that the kernel's map, and the
//! cost of a read, are bounded by current connects.

mod table;

use std::{io, sync::Arc};

use foldhash::{HashMap, HashMapExt as _, HashSet};
use spillway_ebpf::{OUTBOUND_MAX, OutboundConnect, OutboundCount, OutboundKey, WATCHES_CONNECTS};

use super::{
    CgroupPaths, Fact, Hierarchy, Loss, LossCounters, OutboundFact, proc_files,
    sensor::{Observations, Schedule, Sensor},
    shares::{self, Shares},
};
use crate::bpf::{
    BatchMap, Fallback, FallbackChain, Hook, Loader, Need, Probe, btf_offsets::members,
};
use table::{Caller, OutboundTable, since};

/// Time after which an unchanged count is removed from the kernel's map. A guess: most clients
/// retry within it, and a minute of a crawler's destinations fits the map.
const IDLE_SECS: f64 = 60.0;

/// Number of counts from which every unchanged one is removed, so that half of the map is free for
/// connects until the next read.
const CROWDED: usize = OUTBOUND_MAX as usize / 2;

/// Age from which a pending connect counts as one whose end was missed. The kernel gives up after
/// two minutes by default (`tcp_syn_retries`).
const STALE_SECS: f64 = 600.0;

/// Reads the results of outbound connects.
pub struct OutboundSensor {
    maps: OutboundMaps,
    cgroups: CgroupPaths,
    counted: HashMap<OutboundKey, Counted>,
    callers: HashMap<u32, KnownWorkload>,
    connects: OutboundTable,
    /// Time of the last check for stale connects, and the connects pending then, by socket and
    /// start.
    checked: Option<(f64, HashSet<(u64, u64)>)>,
}

struct OutboundMaps {
    /// Results by process and destination.
    ended: BatchMap<OutboundKey, OutboundCount>,
    /// Pending connects by socket address.
    pending: BatchMap<u64, OutboundConnect>,
    /// Number of results by owner.
    ended_shares: Shares,
    /// Number of pending connects by owner.
    pending_shares: Shares,
}

/// An entry of the kernel's map at the last read.
struct Counted {
    count: OutboundCount,
    changed_t: f64,
}

struct KnownWorkload {
    caller: Caller,
    seen: bool,
}

impl OutboundSensor {
    /// Tracepoint on the states of connecting sockets.
    pub const STATES: Hook = Hook::new("connect_states");

    /// Source of the results of connects.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::OutboundConnects,
        fallbacks: &[Fallback::bpf(
            Self::STATES,
            "tp_btf inet_sock_set_state",
            &[Need::Tracepoint("inet_sock_set_state")],
        )
        .watching(WATCHES_CONNECTS)
        .reading(&[
            members::SOCK_FAMILY,
            members::INET_SPORT,
            members::SOCK_DADDR,
            members::SOCK_V6_DADDR,
            members::SOCK_DPORT,
            members::SOCK_ERR,
            members::SOCK_NET,
            members::NET_INUM,
            members::SOCK_PROTOCOL,
        ])
        // Without `sk_shutdown` a timeout whose error was fetched at once counts as abandoned;
        // without `sk_uid` users share the room of their namespace.
        .reading_if_present(&[members::SOCK_SHUTDOWN, members::SOCK_UID])],
    };

    /// Attaches the tracepoint; `None` if the kernel refuses it.
    pub fn start(bpf: &mut Loader, hierarchy: &Hierarchy) -> Option<Self> {
        let maps = bpf.attach(&Self::PROBE, |context, _| {
            Ok(OutboundMaps {
                ended: context.take_batched("CONNECTED")?,
                pending: context.take_batched("CONNECTING")?,
                ended_shares: context.take_batched("CONNECTED_SHARES")?,
                pending_shares: context.take_batched("CONNECTING_SHARES")?,
            })
        })?;
        Some(Self {
            maps,
            cgroups: CgroupPaths::new(hierarchy.clone()),
            counted: HashMap::new(),
            callers: HashMap::new(),
            connects: OutboundTable::default(),
            checked: None,
        })
    }

    /// Reads connects that ended since the last read and those pending, and passes a fact for each
    /// workload and destination to `each`. `now` is in seconds on any monotonic clock.
    ///
    /// # Errors
    ///
    /// Returns an error if a map cannot be read; connects read until then have been passed on.
    pub fn scan(
        &mut self,
        now: f64,
        losses: &mut LossCounters,
        each: impl FnMut(OutboundFact),
    ) -> io::Result<()> {
        let read = self.read_ended(now).and_then(|()| self.read_pending(now));
        for _ in 0..self.connects.report(now, each) {
            losses.count(Loss::OutboundLeftOut);
        }
        self.callers.retain(|_, known| std::mem::take(&mut known.seen));
        read
    }

    fn read_ended(&mut self, now: f64) -> io::Result<()> {
        let Self { maps, cgroups, counted, callers, connects, .. } = self;
        maps.ended.read(|key, latest| {
            let counted = counted
                .entry(*key)
                .or_insert_with(|| Counted { count: OutboundCount::default(), changed_t: now });
            // Looked up for unchanged counts too, so that a caller stays known while it has an
            // entry.
            let caller = caller(callers, cgroups, key.pid);
            if counted.count != *latest {
                connects.ended(key, caller, &since(latest, &counted.count), now);
                *counted = Counted { count: *latest, changed_t: now };
            }
        })?;
        let idle_secs = if counted.len() > CROWDED { f64::MIN_POSITIVE } else { IDLE_SECS };
        for (key, counted) in counted.extract_if(|_, counted| now - counted.changed_t >= idle_secs)
        {
            // It may have changed since the read.
            let latest = maps.ended.take(&key)?.unwrap_or(counted.count);
            if latest != counted.count {
                connects.ended(
                    &key,
                    caller(callers, cgroups, key.pid),
                    &since(&latest, &counted.count),
                    now,
                );
            }
        }
        shares::settle(&mut maps.ended_shares, counted.values().map(|counted| counted.count.share))
    }

    fn read_pending(&mut self, now: f64) -> io::Result<()> {
        let Self { maps, cgroups, callers, connects, checked, .. } = self;
        let due = checked.as_ref().is_none_or(|(then, _)| now - then >= STALE_SECS);
        let (mut present, mut stale, mut owners) = (HashSet::default(), Vec::new(), Vec::new());
        maps.pending.read(|&sock, connect| {
            if due {
                let one = (sock, connect.since_ns);
                if checked.as_ref().is_some_and(|(_, before)| before.contains(&one)) {
                    return stale.push(sock);
                }
                present.insert(one);
            }
            owners.push(connect.share);
            connects.pending(connect, caller(callers, cgroups, connect.key.pid), now);
        })?;
        if due {
            *checked = Some((now, present));
        }
        stale.iter().try_for_each(|sock| maps.pending.take(sock).map(drop))?;
        shares::settle(&mut maps.pending_shares, owners)
    }
}

impl Sensor for OutboundSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::OutboundReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let (losses, mut push) = out.split();
        self.scan(now, losses, |fact| push(Fact::Outbound(fact)))
    }
}

/// Returns the identity of a process, which is read when it is first seen.
fn caller<'a>(
    callers: &'a mut HashMap<u32, KnownWorkload>,
    cgroups: &CgroupPaths,
    pid: u32,
) -> &'a Caller {
    let known = callers
        .entry(pid)
        .or_insert_with(|| KnownWorkload { caller: look_up(cgroups, pid), seen: true });
    known.seen = true;
    &known.caller
}

/// Reads the identity of a process. The name comes last: a process that still has one had its
/// cgroup before.
fn look_up(cgroups: &CgroupPaths, pid: u32) -> Caller {
    let cgroup = cgroups.of_process(pid);
    match proc_files::comm_of(pid) {
        Some(comm) => Caller { cgroup, comm },
        None => Caller { cgroup: Arc::from(""), comm: Arc::from("") },
    }
}
