//! Accept queues of every listening TCP socket, in every network namespace.
//!
//! With BPF each listener is read by its socket's address: depth, limit, drops and the age of the connection that has
//! waited longest. Without it `sock_diag` tells depth, limit and drops, and no age.
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

use super::{CgroupPaths, Hierarchy, ListenerFact, Lost, samples, sock_diag::SockDiag};
use crate::kernel::ListenerProbes;

/// How long an owner is believed. Ten seconds is a guess: long against the cost of asking every file of every process,
/// short against a page.
const OWNER_REFRESH_SECS: f64 = 10.0;

/// Jiffies that must pass before their length is known well enough: within 10 %, for an age that is good to a jiffy.
const JIFFIES_TO_MEASURE: u64 = 10;

const AF_INET6: u16 = libc::AF_INET6 as u16;

/// Reads the accept queue of every listener.
pub struct ListenerSensor {
    source: Source,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
    buffer: Vec<u8>,
}

enum Source {
    Probes { probes: ListenerProbes, known: HashMap<u64, Known>, jiffies: Jiffies },
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
}

/// How long a jiffy is, measured between the first sample and the latest.
#[derive(Debug, Default)]
struct Jiffies {
    first: Option<(u64, u64)>,
}

impl ListenerSensor {
    /// A sensor over the probes, or over `sock_diag` without them.
    pub fn new(probes: Option<ListenerProbes>, hierarchy: Hierarchy) -> Self {
        let source = match probes {
            Some(probes) => Source::Probes { probes, known: HashMap::new(), jiffies: Jiffies::default() },
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
            Source::Probes { probes, known, jiffies } => {
                if refresh {
                    find_owners(probes, known, &self.cgroups, &mut self.buffer, lost)?;
                }
                let mut closed = Vec::new();
                samples::pass(&probes.scan, &mut self.buffer, lost, |sample: ListenerSample| {
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
                    each(fact(&sample, known, jiffies));
                })?;
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
    samples::pass(&probes.find, buffer, lost, |owner: SocketOwnerSample| {
        // Processes come in order of pid: of a master and its workers the master holds it first.
        holders.entry(owner.sock).or_insert(owner.pid);
    })?;
    for (sock, known) in known {
        if !Path::new("/proc").join(known.pid.to_string()).exists()
            && let Some(&pid) = holders.get(sock)
        {
            known.pid = pid;
        }
        known.cgroup = cgroups.of_process(known.pid).0;
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

fn fact(sample: &ListenerSample, known: &Known, jiffies: &mut Jiffies) -> ListenerFact {
    let oldest_wait_us = match sample.head {
        HEAD_NONE => Some(0),
        HEAD_SEEN => jiffies.age_us(sample),
        _ => None,
    };
    // The head still has its time where the reader was not given the length of a jiffy yet.
    jiffies.first.get_or_insert((sample.now_ns, sample.now_jiffies));
    ListenerFact {
        netns: sample.netns,
        addr: known.addr.clone(),
        cgroup: known.cgroup.clone(),
        pid: Some(known.pid),
        backlog: sample.backlog,
        backlog_max: sample.backlog_max,
        accepted_total: None,
        overflows_total: Some(u64::from(sample.drops)),
        sojourn_min_us: None,
        sojourn_mean_us: None,
        sojourn_p99_us: None,
        oldest_wait_us,
    }
}

impl Known {
    fn new(socket: SocketAddr, pid: u32, cgroups: &CgroupPaths) -> Self {
        let (cgroup, _) = cgroups.of_process(pid);
        Self { socket, listened_pid: pid, addr: Arc::from(socket.to_string()), cgroup, pid, seen: false }
    }
}

impl Jiffies {
    /// How long the head has waited; `None` until a jiffy's length is known.
    fn age_us(&self, sample: &ListenerSample) -> Option<u64> {
        let (first_ns, first_jiffies) = self.first?;
        let passed = sample.now_jiffies.checked_sub(first_jiffies).filter(|&passed| passed >= JIFFIES_TO_MEASURE)?;
        let jiffy_us = sample.now_ns.saturating_sub(first_ns) as f64 / passed as f64 / 1e3;
        // Both are the low half of the same counter, which wraps. A head from the future was established since.
        let waited = (sample.now_jiffies as u32).wrapping_sub(sample.head_jiffies) as i32;
        Some((f64::from(waited.max(0)) * jiffy_us) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(now_ns: u64, now_jiffies: u64, head_jiffies: u32) -> ListenerSample {
        ListenerSample { now_ns, now_jiffies, head_jiffies, head: HEAD_SEEN, ..ListenerSample::default() }
    }

    #[test]
    fn a_jiffy_is_measured_before_it_is_used() {
        let mut jiffies = Jiffies { first: Some((0, 1_000)) };
        assert_eq!(jiffies.age_us(&sample(8_000_000, 1_002, 1_001)), None);
        assert_eq!(jiffies.age_us(&sample(400_000_000, 1_100, 1_075)), Some(100_000));
        jiffies.first = None;
        assert_eq!(jiffies.age_us(&sample(400_000_000, 1_100, 1_075)), None);
    }

    #[test]
    fn the_low_half_of_jiffies_wraps() {
        let start = u64::from(u32::MAX) - 100;
        let jiffies = Jiffies { first: Some((0, start)) };
        assert_eq!(jiffies.age_us(&sample(200_000_000, start + 200, u32::MAX - 50)), Some(150_000));
    }

    #[test]
    fn a_head_from_the_future_has_not_waited() {
        let jiffies = Jiffies { first: Some((0, 0)) };
        assert_eq!(jiffies.age_us(&sample(100_000_000, 100, 102)), Some(0));
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
