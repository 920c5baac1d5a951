//! Accept queues of every listening TCP socket, in every network namespace.
//!
//! With BPF each listener is read by its socket's address: depth, limit, drops, the age of the connection that has waited
//! longest, and where accept() can be followed how long each waited. Without it `sock_diag` tells depth, limit and drops.
//!
//! Who owns a socket is learnt from who called listen(), and every [`OWNER_REFRESH_SECS`] from who holds it, so that a
//! server whose parent went away is still named.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use spillway_ebpf::{HEAD_NONE, HEAD_SEEN, ListenerSample, SocketOwnerSample, TCP_LISTEN};

use super::{CgroupPaths, Hierarchy, ListenerFact, Lost, sock_diag::SockDiag, waits::Waits};
use crate::kernel::{ListenerProbes, Sojourns, pass};

/// How long an owner is believed. Ten seconds is a guess: long against the cost of asking every file of every process,
/// short against a page.
const OWNER_REFRESH_SECS: f64 = 10.0;

const AF_INET6: u16 = libc::AF_INET6 as u16;

/// Reads the accept queue of every listener.
pub struct ListenerSensor {
    source: Source,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
    buffer: Vec<u8>,
}

enum Source {
    Probes { probes: Box<ListenerProbes>, known: HashMap<u64, Known> },
    SockDiag(SockDiag),
}

/// What is said of a socket in every scan and seldom changes.
struct Known {
    socket: SocketAddr,
    /// Who called listen(); with the address it tells this socket from a later one in the same place.
    listened_pid: u32,
    addr: Arc<str>,
    cgroup: Arc<str>,
    pid: u32,
    seen: bool,
    waits: Waits,
}

impl ListenerSensor {
    /// A sensor over the probes, or over `sock_diag` without them.
    pub fn new(probes: Option<ListenerProbes>, hierarchy: Hierarchy) -> Self {
        let source = match probes {
            Some(probes) => Source::Probes { probes: Box::new(probes), known: HashMap::new() },
            None => Source::SockDiag(SockDiag::default()),
        };
        Self { source, cgroups: CgroupPaths::new(hierarchy), refreshed: None, buffer: Vec::new() }
    }

    /// Reads every listener, and hands each to `each`. `now` is in seconds on any monotonic clock.
    ///
    /// # Errors
    ///
    /// Where the pass failed; what was read until then was handed on.
    pub fn scan(&mut self, now: f64, lost: &mut Lost, mut each: impl FnMut(ListenerFact)) -> io::Result<()> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= OWNER_REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        match &mut self.source {
            Source::Probes { probes, known } => {
                if refresh {
                    find_owners(probes, known, &self.cgroups, &mut self.buffer, lost)?;
                }
                let mut closed = Vec::new();
                let rest = pass(&probes.scan, &mut self.buffer, |sample: ListenerSample| {
                    if sample.state != TCP_LISTEN {
                        return closed.push(sample.sock);
                    }
                    let socket = address(&sample);
                    let fresh = || Known::new(socket, sample.pid, &self.cgroups);
                    let known = known.entry(sample.sock).or_insert_with(fresh);
                    if (known.socket, known.listened_pid) != (socket, sample.pid) {
                        // The kernel gave the place of a closed socket to another, such as a restarted server's.
                        *known = fresh();
                    }
                    known.seen = true;
                    each(known.fact(&sample, probes.sojourns.as_ref()));
                })?;
                lost.short_read(rest);
                for sock in closed {
                    // It closed while the tracepoint could not say so.
                    let _ = probes.known.remove(&sock);
                }
                if refresh {
                    known.retain(|_, known| std::mem::take(&mut known.seen));
                }
                Ok(())
            }
            Source::SockDiag(sockets) => sockets.scan(refresh, &self.cgroups, lost, each),
        }
    }
}

/// Finds who holds each listener, and the listeners that were there before the agent.
fn find_owners(
    probes: &ListenerProbes,
    known: &mut HashMap<u64, Known>,
    cgroups: &CgroupPaths,
    buffer: &mut Vec<u8>,
    lost: &mut Lost,
) -> io::Result<()> {
    let mut holders = HashMap::new();
    let rest = pass(&probes.find, buffer, |owner: SocketOwnerSample| {
        // Processes come in order of pid: of a master and its workers the master holds it first.
        holders.entry(owner.sock).or_insert(owner.pid);
    })?;
    lost.short_read(rest);
    for (sock, known) in known {
        if !Path::new("/proc").join(known.pid.to_string()).exists()
            && let Some(&pid) = holders.get(sock)
        {
            known.pid = pid;
        }
        known.cgroup = cgroups.of_process(known.pid);
    }
    Ok(())
}

fn address(sample: &ListenerSample) -> SocketAddr {
    let [a, b, c, d, ..] = sample.addr;
    let ip = if sample.family == AF_INET6 {
        IpAddr::V6(Ipv6Addr::from(sample.addr))
    } else {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    SocketAddr::new(ip, sample.port)
}

/// How long the head of the queue has waited; `None` where it could not be seen.
fn oldest_wait_us(sample: &ListenerSample) -> Option<u64> {
    match sample.head {
        HEAD_NONE => Some(0),
        HEAD_SEEN => Some((sample.now_ns / 1_000).saturating_sub(sample.head_us)),
        _ => None,
    }
}

impl Known {
    fn new(socket: SocketAddr, pid: u32, cgroups: &CgroupPaths) -> Self {
        Self {
            socket,
            listened_pid: pid,
            addr: Arc::from(socket.to_string()),
            cgroup: cgroups.of_process(pid),
            pid,
            seen: false,
            waits: Waits::default(),
        }
    }

    fn fact(&mut self, sample: &ListenerSample, sojourns: Option<&Sojourns>) -> ListenerFact {
        // The histogram is asked for only where a connection was accepted since the last look.
        let interval = sojourns
            .filter(|_| sample.accepted_total != self.waits.accepted_total())
            .and_then(|sojourns| self.waits.advance(&sojourns.get(&sample.sock, 0).ok()?.0));
        ListenerFact {
            netns: sample.netns,
            addr: self.addr.clone(),
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid),
            backlog: sample.backlog,
            backlog_max: sample.backlog_max,
            accepted_total: sojourns.map(|_| self.waits.accepted_total()),
            overflows_total: Some(u64::from(sample.drops)),
            sojourn_min_us: interval.map(|waits| waits.min_us),
            sojourn_mean_us: interval.map(|waits| waits.mean_us),
            sojourn_p99_us: interval.map(|waits| waits.p99_us),
            oldest_wait_us: oldest_wait_us(sample),
            ..ListenerFact::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use spillway_ebpf::HEAD_MOVING;

    use super::*;

    fn with_head(head: u16, head_us: u64) -> ListenerSample {
        ListenerSample { now_ns: 5_000_999, head, head_us, ..ListenerSample::default() }
    }

    #[test]
    fn a_head_is_as_old_as_its_connection() {
        assert_eq!(oldest_wait_us(&with_head(HEAD_SEEN, 2_000)), Some(3_000));
        assert_eq!(oldest_wait_us(&with_head(HEAD_NONE, 0)), Some(0));
        assert_eq!(oldest_wait_us(&with_head(HEAD_MOVING, 0)), None);
    }

    #[test]
    fn a_head_from_the_future_has_not_waited() {
        assert_eq!(oldest_wait_us(&with_head(HEAD_SEEN, 6_000)), Some(0));
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        let v4 = ListenerSample {
            addr: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            family: libc::AF_INET as u16,
            port: 8080,
            ..ListenerSample::default()
        };
        assert_eq!(address(&v4).to_string(), "127.0.0.1:8080");
        let v6 = ListenerSample { addr: [0; 16], family: AF_INET6, ..v4 };
        assert_eq!(address(&v6).to_string(), "[::]:8080");
    }
}
