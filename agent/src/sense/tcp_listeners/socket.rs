//! One listening socket as the BPF side samples it, and its state between two scans.
//!
//! If accept() is traced, accepted connections are counted there. Otherwise they follow from
//! arrivals and the depth of the queue, unless sockets share the address, whose arrivals are
//! counted together. Cold start: nothing was accepted before the first scan.

use std::{net::SocketAddr, sync::Arc};

use spillway_ebpf::{HEAD_NONE, HEAD_SEEN, ListenerSample};

use crate::sense::{
    CgroupPaths, ListenerFact,
    accept_latency::{AcceptLatency, Sojourns},
    addr::inet_addr,
    overflows::DropRise,
    proc_files,
};

/// A listening socket.
pub(super) struct ListenerSocket {
    number: u64,
    /// Owner of the share of the kernel's map that it takes.
    share: u64,
    netns: u32,
    socket: SocketAddr,
    /// Process that called listen(); with the address it distinguishes this socket from a later one
    /// in the same memory.
    listened_pid: u32,
    addr: Arc<str>,
    cgroup: Arc<str>,
    comm: Arc<str>,
    pid: u32,
    /// Known processes that hold it; empty if the owner alone does.
    holders: Vec<u32>,
    /// Scan that saw it last.
    pub(super) seen: u64,
    waits: AcceptLatency,
    flow: Flow,
    last: LastCounts,
    /// Connections that found the queue full, since the socket was first seen.
    overflows: u64,
}

/// Counts at the last scan.
#[derive(Debug, Default)]
struct LastCounts {
    drops: u32,
    arrived: u64,
    backlog: u32,
}

impl ListenerSocket {
    /// Creates the state of a socket that is seen for the first time, with the number given to it.
    pub(super) fn new(sample: &ListenerSample, number: u64, cgroups: &CgroupPaths) -> Self {
        let socket = inet_addr(sample.family, sample.addr, sample.port);
        let mut listener = Self {
            number,
            share: sample.share,
            netns: sample.netns,
            socket,
            listened_pid: sample.pid,
            addr: Arc::from(socket.to_string()),
            cgroup: Arc::from(""),
            comm: Arc::from(""),
            pid: 0,
            holders: Vec::new(),
            seen: 0,
            waits: AcceptLatency::default(),
            flow: Flow::default(),
            last: LastCounts::default(),
            overflows: 0,
        };
        listener.set_owner(sample.pid, cgroups);
        listener
    }

    /// Returns whether a sample is of this socket, not of a later one in the same memory.
    pub(super) fn is_of(&self, sample: &ListenerSample) -> bool {
        (self.netns, self.socket, self.listened_pid)
            == (sample.netns, inet_addr(sample.family, sample.addr, sample.port), sample.pid)
    }

    /// Owner of the share of the kernel's map that it takes.
    pub(super) fn share(&self) -> u64 {
        self.share
    }

    /// Network namespace and address.
    pub(super) fn address(&self) -> (u32, SocketAddr) {
        (self.netns, self.socket)
    }

    /// Owner.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Known processes that hold it.
    pub(super) fn holders(&self) -> &[u32] {
        if self.holders.is_empty() { std::slice::from_ref(&self.pid) } else { &self.holders }
    }

    /// Sets the processes that hold it.
    pub(super) fn set_holders(&mut self, pids: Vec<u32>) {
        // The owner alone needs no room of its own.
        self.holders = if pids == [self.pid] { Vec::new() } else { pids };
    }

    /// Sets the owner, and reads its cgroup and name.
    pub(super) fn set_owner(&mut self, pid: u32, cgroups: &CgroupPaths) {
        self.pid = pid;
        self.cgroup = cgroups.of_process(pid);
        // The same name stays where it is.
        if let Some(comm) = proc_files::comm_of(pid).filter(|comm| *comm != self.comm) {
            self.comm = comm;
        }
    }

    /// Returns the drops of any kind since the last scan; `None` if there were none.
    pub(super) fn rise(&mut self, sample: &ListenerSample) -> Option<DropRise> {
        let last = std::mem::replace(
            &mut self.last,
            LastCounts {
                drops: sample.drops,
                arrived: sample.arrived_total,
                backlog: sample.backlog,
            },
        );
        let drops = sample.drops.wrapping_sub(last.drops);
        // A count that fell was reset. A connection is counted a moment before it waits, hence
        // `>=`.
        let arrived =
            sample.arrived_total.checked_sub(last.arrived).unwrap_or(sample.arrived_total);
        let is_full = sample.backlog > sample.backlog_max;
        (drops > 0).then(|| DropRise {
            drops: u64::from(drops),
            is_full,
            may_have_been_full: is_full
                || (arrived > 0
                    && arrived.saturating_add(last.backlog.into())
                        >= u64::from(sample.backlog_max)),
        })
    }

    /// Adds connections that found the queue full, and returns their total.
    pub(super) fn add_overflows(&mut self, count: u64) -> u64 {
        self.overflows = self.overflows.saturating_add(count);
        self.overflows
    }

    /// Builds the fact of a sample; `shares` is set if other sockets have its address.
    pub(super) fn fact(
        &mut self,
        sample: &ListenerSample,
        shares: bool,
        sojourns: Option<&Sojourns>,
    ) -> ListenerFact {
        // The histogram is read only if a connection was accepted since the last scan.
        let interval = sojourns
            .filter(|_| sample.accepted_total != self.waits.accepted_total())
            .and_then(|sojourns| self.waits.advance(&sojourns.get(&sample.sock, 0).ok()?.0));
        let derived = self.flow.accepted(sample.arrived_total, sample.backlog, shares);
        let found_empty_ns = Some(sample.found_empty_ns).filter(|ns| !shares && *ns > 0);
        ListenerFact {
            netns: sample.netns,
            addr: self.addr.clone(),
            socket: self.number,
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid),
            comm: self.comm.clone(),
            holders: Some(self.holders.len() as u32).filter(|&holders| holders > 1),
            stuck_pid: None,
            stuck_us: None,
            backlog: sample.backlog,
            backlog_max: sample.backlog_max,
            accepted_total: sojourns.map(|_| self.waits.accepted_total()).or(derived),
            arrived_total: Some(sample.arrived_total),
            remote_arrived_total: Some(sample.remote_total),
            found_empty_us: found_empty_ns.map(|ns| sample.now_ns.saturating_sub(ns) / 1_000),
            overflows_total: Some(self.overflows),
            sojourn_min_us: interval.map(|waits| waits.min_us),
            sojourn_mean_us: interval.map(|waits| waits.mean_us),
            sojourn_p99_us: interval.map(|waits| waits.p99_us),
            oldest_wait_us: oldest_wait_us(sample),
            strain: None,
        }
    }
}

/// Accepted connections, derived from arrivals and the depth of the queue.
#[derive(Debug, Default)]
struct Flow {
    accepted: u64,
    /// Arrivals at the last scan, and how many of them had been accepted at most.
    last: Option<(u64, u64)>,
}

impl Flow {
    /// Returns the connections accepted since the first scan; `None` if sockets share the address.
    fn accepted(&mut self, arrived: u64, backlog: u32, shares: bool) -> Option<u64> {
        if shares {
            self.last = None;
            return None;
        }
        let mut through = arrived.saturating_sub(u64::from(backlog));
        // A count that fell was reset, together with its listener.
        if let Some((_, before)) = self.last.filter(|last| arrived >= last.0) {
            self.accepted += through.saturating_sub(before);
            // A connection is counted a moment before it waits, and seems accepted in between.
            through = through.max(before);
        }
        self.last = Some((arrived, through));
        Some(self.accepted)
    }
}

/// Returns the wait of the queue's head; `None` if it could not be read.
fn oldest_wait_us(sample: &ListenerSample) -> Option<u64> {
    match sample.head {
        HEAD_NONE => Some(0),
        HEAD_SEEN => Some((sample.now_ns / 1_000).saturating_sub(sample.head_us)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use spillway_ebpf::HEAD_MOVING;

    use super::*;

    fn listener(sample: &ListenerSample) -> ListenerSocket {
        ListenerSocket {
            number: 1,
            share: 0,
            netns: sample.netns,
            socket: inet_addr(sample.family, sample.addr, sample.port),
            listened_pid: sample.pid,
            addr: Arc::from(""),
            cgroup: Arc::from(""),
            comm: Arc::from(""),
            pid: sample.pid,
            holders: Vec::new(),
            seen: 0,
            waits: AcceptLatency::default(),
            flow: Flow::default(),
            last: LastCounts::default(),
            overflows: 0,
        }
    }

    #[test]
    fn queue_can_have_been_full_only_with_enough_arrivals() {
        let scan = |drops, arrived_total, backlog| ListenerSample {
            drops,
            arrived_total,
            backlog,
            backlog_max: 100,
            ..ListenerSample::default()
        };
        let mut listener = listener(&ListenerSample::default());
        let rise = |drops, is_full, may_have_been_full| {
            Some(DropRise { drops, is_full, may_have_been_full })
        };
        for (sample, expected) in [
            (scan(5, 0, 0), rise(5, false, false)),
            (scan(5, 10, 0), None),
            (scan(8, 20, 10), rise(3, false, false)),
            (scan(9, 110, 0), rise(1, false, true)),
            (scan(10, 110, 101), rise(1, true, true)),
            // Both counts wrapped or were reset.
            (scan(2, 30, 0), rise(u64::from(u32::MAX) - 7, false, true)),
            (scan(3, 30, 0), rise(1, false, false)),
        ] {
            assert_eq!(listener.rise(&sample), expected, "{sample:?}");
        }
    }

    fn with_head(head: u16, head_us: u64) -> ListenerSample {
        ListenerSample { now_ns: 5_000_999, head, head_us, ..ListenerSample::default() }
    }

    #[test]
    fn head_is_as_old_as_its_connection() {
        assert_eq!(oldest_wait_us(&with_head(HEAD_SEEN, 2_000)), Some(3_000));
        assert_eq!(oldest_wait_us(&with_head(HEAD_NONE, 0)), Some(0));
        assert_eq!(oldest_wait_us(&with_head(HEAD_MOVING, 0)), None);
    }

    #[test]
    fn head_from_the_future_has_not_waited() {
        assert_eq!(oldest_wait_us(&with_head(HEAD_SEEN, 6_000)), Some(0));
    }

    #[test]
    fn arrivals_that_do_not_wait_were_accepted() {
        let mut flow = Flow::default();
        let scans = [
            ((100, 4, false), Some(0)),
            ((150, 4, false), Some(50)),
            // Counted already but not waiting yet.
            ((151, 4, false), Some(51)),
            ((151, 5, false), Some(51)),
            ((152, 5, false), Some(51)),
            // Another socket shares the address for a while.
            ((300, 5, true), None),
            ((400, 5, false), Some(51)),
            ((410, 5, false), Some(61)),
            // The count was reset.
            ((3, 1, false), Some(61)),
            ((9, 1, false), Some(67)),
        ];
        for ((arrived, backlog, shares), accepted) in scans {
            assert_eq!(flow.accepted(arrived, backlog, shares), accepted, "{arrived}");
        }
    }
}
