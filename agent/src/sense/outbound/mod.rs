//! How outbound TCP connects end, of every workload to every destination.
//!
//! A dependency that is down is seen here first: connects to it are refused, time out, or are given
//! up, while everything else is as ever. The BPF side counts ends by process and destination; a
//! read takes what was added since the last and sums it up by cgroup.
//!
//! Cold start: what ended before the agent came is not counted, and a connect that began before
//! belongs to nobody. Without BPF there is nothing to read: neither `/proc` nor `sock_diag` says
//! how a connect ended. A process that came and went between two reads has no cgroup and no name.
//! It reads no map entry twice that does not change: after a time it takes that away, which bounds
//! the kernel's map, and a read, by what connects now.

mod table;

use std::{io, sync::Arc};

use foldhash::{HashMap, HashMapExt as _, HashSet};
use spillway_ebpf::{OUTBOUND_MAX, OutboundCount, OutboundKey};

use super::{CgroupPaths, Hierarchy, Loss, LossCounters, OutboundFact, proc_files, shares};
use crate::bpf::OutboundMaps;
use table::{Caller, OutboundTable, since};

/// How long the kernel keeps a count that does not change. A guess: most that retry do so within
/// it, and a minute of a crawler's destinations fits the map.
const IDLE_SECS: f64 = 60.0;

/// From here on it keeps none that does not change: half of the room is for what comes until the
/// next read.
const CROWDED: usize = OUTBOUND_MAX as usize / 2;

/// How long a connect may be under way before it is taken for one whose end was missed. The kernel
/// gives up after two minutes unless told otherwise (`tcp_syn_retries`).
const STALE_SECS: f64 = 600.0;

/// Reads how connects ended.
pub struct OutboundSensor {
    maps: Option<OutboundMaps>,
    cgroups: CgroupPaths,
    counted: HashMap<OutboundKey, Counted>,
    callers: HashMap<u32, KnownWorkload>,
    connects: OutboundTable,
    /// When those under way were last gone through, and which there were: socket and beginning.
    checked: Option<(f64, HashSet<(u64, u64)>)>,
}

/// An entry of the kernel's map as it was last read.
struct Counted {
    count: OutboundCount,
    changed_t: f64,
}

struct KnownWorkload {
    caller: Caller,
    seen: bool,
}

impl OutboundSensor {
    /// A sensor over the maps; without them it reads nothing.
    pub fn new(maps: Option<OutboundMaps>, hierarchy: Hierarchy) -> Self {
        Self {
            maps,
            cgroups: CgroupPaths::new(hierarchy),
            counted: HashMap::new(),
            callers: HashMap::new(),
            connects: OutboundTable::default(),
            checked: None,
        }
    }

    /// Reads what ended since the last read and what is under way, and hands a fact for each
    /// workload and destination to `each`. `now` is in seconds on any monotonic clock.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read; what was read until then is told.
    pub fn read(
        &mut self,
        now: f64,
        lost: &mut LossCounters,
        each: impl FnMut(OutboundFact),
    ) -> io::Result<()> {
        let Some(mut maps) = self.maps.take() else { return Ok(()) };
        let read =
            self.read_ended(&mut maps, now).and_then(|()| self.read_under_way(&mut maps, now));
        self.maps = Some(maps);
        for _ in 0..self.connects.tell(now, each) {
            lost.count(Loss::OutboundLeftOut);
        }
        self.callers.retain(|_, known| std::mem::take(&mut known.seen));
        read
    }

    fn read_ended(&mut self, maps: &mut OutboundMaps, now: f64) -> io::Result<()> {
        let Self { cgroups, counted, callers, connects, .. } = self;
        maps.ended.read(|key, latest| {
            let counted = counted
                .entry(*key)
                .or_insert_with(|| Counted { count: OutboundCount::default(), changed_t: now });
            // Looked up for those that have not changed as well: who is known stays known while an
            // entry is there.
            let caller = caller(callers, cgroups, key.pid);
            if counted.count != *latest {
                connects.ended(key, caller, &since(latest, &counted.count), now);
                *counted = Counted { count: *latest, changed_t: now };
            }
        })?;
        let idle_secs = if counted.len() > CROWDED { f64::MIN_POSITIVE } else { IDLE_SECS };
        for (key, counted) in counted.extract_if(|_, counted| now - counted.changed_t >= idle_secs)
        {
            // It may have changed since it was read.
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

    fn read_under_way(&mut self, maps: &mut OutboundMaps, now: f64) -> io::Result<()> {
        let Self { cgroups, callers, connects, checked, .. } = self;
        let due = checked.as_ref().is_none_or(|(then, _)| now - then >= STALE_SECS);
        let (mut there, mut stale, mut owners) = (HashSet::default(), Vec::new(), Vec::new());
        maps.under_way.read(|&sock, connect| {
            if due {
                let one = (sock, connect.since_ns);
                if checked.as_ref().is_some_and(|(_, before)| before.contains(&one)) {
                    return stale.push(sock);
                }
                there.insert(one);
            }
            owners.push(connect.share);
            connects.under_way(connect, caller(callers, cgroups, connect.key.pid), now);
        })?;
        if due {
            *checked = Some((now, there));
        }
        stale.iter().try_for_each(|sock| maps.under_way.take(sock).map(drop))?;
        shares::settle(&mut maps.under_way_shares, owners)
    }
}

/// Who a process is, read when it is first seen.
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

/// The name is read last: what still has one then had its cgroup before.
fn look_up(cgroups: &CgroupPaths, pid: u32) -> Caller {
    let cgroup = cgroups.of_process(pid);
    match proc_files::comm_of(pid) {
        Some(comm) => Caller { cgroup, comm },
        None => Caller { cgroup: Arc::from(""), comm: Arc::from("") },
    }
}
