//! Accept queues of every listening UNIX socket, in every network namespace.
//!
//! With BPF each is read by its socket's address; every [`REFRESH_SECS`] all are found anew, and
//! with them their names and who holds them. Without it `sock_diag` tells the same. Cold start:
//! what began to listen since the last time is found at the next. Since when the head of a queue
//! waits is not known in either way, nor how many were refused.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use spillway_ebpf::{UnixFoundSample, UnixSample};

use super::{
    CgroupPaths, Hierarchy, ListenerFact, LossCounters, addr,
    outside::Outside,
    shares,
    sock_diag::{DiagListener, Kinds, SockDiag},
};
use crate::bpf::{UnixProbes, pass};

/// Time between two looks at every open file, as of TCP listeners' owners: long against the cost,
/// short against a page. A guess.
const REFRESH_SECS: f64 = 10.0;

/// Reads the accept queue of every UNIX listener.
pub struct UnixListenerSensor {
    source: UnixSource,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
    buffer: Vec<u8>,
}

enum UnixSource {
    Probes {
        probes: Box<UnixProbes>,
        known: HashMap<u64, KnownUnixListener>,
        outside: Box<Outside>,
    },
    SockDiag(SockDiag),
    /// They are read with the others.
    WithTcp,
}

struct KnownUnixListener {
    inode: u64,
    netns: u32,
    pid: u32,
    addr: Arc<str>,
    cgroup: Arc<str>,
}

impl UnixListenerSensor {
    /// A sensor over the probes, or over `sock_diag` without them. Where TCP listeners are not read
    /// by BPF either, one `sock_diag` tells of both, and this of nothing.
    pub fn new(probes: Option<UnixProbes>, tcp_by_bpf: bool, hierarchy: Hierarchy) -> Self {
        let source = match probes {
            Some(probes) => UnixSource::Probes {
                probes: Box::new(probes),
                known: HashMap::new(),
                outside: Box::new(Outside::new(Kinds::Unix)),
            },
            None if tcp_by_bpf => UnixSource::SockDiag(SockDiag::of(Kinds::Unix)),
            None => UnixSource::WithTcp,
        };
        Self { source, cgroups: CgroupPaths::new(hierarchy), refreshed: None, buffer: Vec::new() }
    }

    /// Reads every listener, and hands each to `each`. `now` is in seconds on any monotonic clock.
    ///
    /// # Errors
    ///
    /// Where the pass failed; what was read until then was handed on.
    pub fn scan(
        &mut self,
        now: f64,
        lost: &mut LossCounters,
        mut each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        match &mut self.source {
            UnixSource::Probes { probes, known, outside } => {
                if refresh {
                    *known = find(probes, &self.cgroups, &mut self.buffer, lost)?;
                }
                let (mut gone, mut owners) = (Vec::new(), Vec::new());
                let rest = pass(&probes.scan, &mut self.buffer, |sample: UnixSample| match known
                    .get(&sample.sock)
                    .filter(|known| sample.listens != 0 && known.inode == sample.inode)
                {
                    Some(known) => {
                        owners.push(sample.share);
                        each(known.fact(&sample));
                    }
                    None => gone.push(sample.sock),
                })?;
                lost.count_short_read(rest);
                for sock in gone {
                    known.remove(&sock);
                    // It may not be there any more.
                    let _ = probes.known.remove(&sock);
                }
                if refresh {
                    shares::settle(&mut probes.shares, owners)?;
                }
                let turned_away = probes.outside.get(&0, 0).unwrap_or(0);
                if outside.is_due(now, turned_away) {
                    let inodes: HashSet<u64> = known.values().map(|known| known.inode).collect();
                    let is_known = |found: &DiagListener| inodes.contains(&u64::from(found.inode));
                    outside.read(now, &self.cgroups, lost, is_known, each)?;
                }
                Ok(())
            }
            UnixSource::SockDiag(sockets) => {
                sockets.scan(refresh, &self.cgroups, lost, |_| true, each)
            }
            UnixSource::WithTcp => Ok(()),
        }
    }
}

/// Every UNIX listener that a process holds. Processes come in order of pid: of a master and its
/// workers the master is named.
fn find(
    probes: &UnixProbes,
    cgroups: &CgroupPaths,
    buffer: &mut Vec<u8>,
    lost: &mut LossCounters,
) -> io::Result<HashMap<u64, KnownUnixListener>> {
    let mut known = HashMap::new();
    let rest = pass(&probes.find, buffer, |found: UnixFoundSample| {
        known.entry(found.sock).or_insert_with(|| KnownUnixListener::new(&found, cgroups));
    })?;
    lost.count_short_read(rest);
    Ok(known)
}

impl KnownUnixListener {
    fn new(found: &UnixFoundSample, cgroups: &CgroupPaths) -> Self {
        let length = (found.name_len as usize).min(found.name.len());
        Self {
            inode: found.inode,
            netns: found.netns,
            pid: found.pid,
            addr: addr::unix_addr(&found.name[..length]),
            cgroup: cgroups.of_process(found.pid),
        }
    }

    fn fact(&self, sample: &UnixSample) -> ListenerFact {
        ListenerFact {
            netns: self.netns,
            addr: self.addr.clone(),
            socket: self.inode,
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid),
            backlog: sample.backlog,
            backlog_max: sample.backlog_max,
            oldest_wait_us: (sample.backlog == 0).then_some(0),
            // Nobody connects to it from another host.
            remote_arrived_total: Some(0),
            ..ListenerFact::default()
        }
    }
}
