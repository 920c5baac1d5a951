//! Accept queues of every listening TCP socket, in every network namespace.
//!
//! With BPF each listener is read by its socket's address: depth, limit, drops, the age of the
//! connection that has waited longest, and where accept() can be followed how long each waited.
//! Without it `sock_diag` tells depth, limit and drops. Drops count as overflows only where the
//! namespace counted any, see `overflows`.
//!
//! Connections that come are counted by address; where sockets share one (SO_REUSEPORT), which of
//! them took a connection is not known. Who owns a socket is learnt from who called listen(), and
//! every [`OWNER_REFRESH_SECS`] from who holds it, so that a server whose parent went away is still
//! named.

mod socket;

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::SocketAddr,
    path::Path,
};

use foldhash::HashSet;
use spillway_ebpf::{ListenerSample, SocketOwnerSample, TCP_LISTEN};

use super::{
    CgroupPaths, Hierarchy, ListenerFact, LossCounters,
    outside::{Outside, listens_at},
    overflows::{DropRise, Overflows},
    service_pressure::ServicePressureSensor,
    shares,
    sock_diag::{Kinds, SockDiag},
};
use crate::bpf::{ListenerProbes, pass};
use socket::ListenerSocket;

/// How long an owner is believed. Ten seconds is a guess: long against the cost of asking every
/// file of every process, short against a page.
const OWNER_REFRESH_SECS: f64 = 10.0;

/// Processes that are known to hold a socket: more workers than most servers have, and few enough
/// to be asked often.
const HOLDERS_MAX: usize = 16;

/// Processes that are tried for the counts of their namespace: most are in the namespace of their
/// listener.
const PIDS_TRIED: usize = 8;

/// A head that has waited for less says nothing of its service; healthy queues are seen with one
/// now and then.
const WAITS_MIN_US: u64 = 1_000;

/// Reads the accept queue of every listener.
pub struct TcpListenerSensor {
    source: TcpSource,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
}

enum TcpSource {
    Probes(Box<Probed>),
    SockDiag(SockDiag),
}

/// The listeners that BPF knows.
struct Probed {
    probes: ListenerProbes,
    known: HashMap<u64, ListenerSocket>,
    /// How many of them share an address.
    sharing: HashMap<(u32, SocketAddr), u32>,
    /// Sockets numbered so far.
    numbered: u64,
    looks: u64,
    strain: ServicePressureSensor,
    overflows: Overflows,
    /// Listeners whose drops rose in this look.
    dropped: Vec<Dropped>,
    outside: Outside,
    buffer: Vec<u8>,
}

struct Dropped {
    sock: u64,
    fact: ListenerFact,
    rise: DropRise,
}

impl TcpListenerSensor {
    /// A sensor over the probes, or over `sock_diag` without them.
    pub fn new(probes: Option<ListenerProbes>, hierarchy: Hierarchy) -> Self {
        let source = match probes {
            Some(probes) => TcpSource::Probes(Box::new(Probed::new(probes))),
            None => TcpSource::SockDiag(SockDiag::default()),
        };
        Self { source, cgroups: CgroupPaths::new(hierarchy), refreshed: None }
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
        each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= OWNER_REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        match &mut self.source {
            TcpSource::Probes(probed) => {
                if refresh {
                    probed.find_owners(&self.cgroups, lost)?;
                }
                probed.look(now, refresh, &self.cgroups, lost, each)
            }
            TcpSource::SockDiag(sockets) => {
                sockets.scan(refresh, &self.cgroups, lost, |_| true, each)
            }
        }
    }
}

impl Probed {
    fn new(probes: ListenerProbes) -> Self {
        let (known, sharing) = (HashMap::new(), HashMap::new());
        let strain = ServicePressureSensor::new(Hierarchy::unified());
        Self {
            probes,
            known,
            sharing,
            numbered: 0,
            looks: 0,
            strain,
            overflows: Overflows::default(),
            dropped: Vec::new(),
            outside: Outside::new(Kinds::Tcp),
            buffer: Vec::new(),
        }
    }

    /// Reads each one's queue.
    fn look(
        &mut self,
        now: f64,
        refresh: bool,
        cgroups: &CgroupPaths,
        lost: &mut LossCounters,
        mut each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        self.looks += 1;
        let Self {
            probes,
            known,
            sharing,
            numbered,
            looks,
            strain,
            overflows,
            dropped,
            outside,
            buffer,
        } = self;
        let (mut closed, mut seen, mut namespaces) = (Vec::new(), 0, Vec::new());
        overflows.begin_look();
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
                Entry::Vacant(place) => {
                    let listener = place.insert(fresh());
                    *sharing.entry(listener.place()).or_default() += 1;
                    listener
                }
                Entry::Occupied(place) => {
                    let listener = place.into_mut();
                    if !listener.is_of(&sample) {
                        // The kernel gave the place of a closed socket to another, such as a
                        // restarted server's.
                        leave(sharing, listener);
                        *listener = fresh();
                        *sharing.entry(listener.place()).or_default() += 1;
                    }
                    listener
                }
            };
            if listener.seen == 0 && !overflows.knows(sample.netns) {
                namespaces.push((sample.netns, sample.pid));
            }
            listener.seen = *looks;
            seen += 1;
            let shares = sharing.get(&listener.place()).is_some_and(|sockets| *sockets > 1);
            let rise = listener.rise(&sample);
            let mut fact = listener.fact(&sample, shares, probes.sojourns.as_ref());
            if waits(&fact) {
                fact.strain = strain.read(now, listener.pid(), listener.holders());
            }
            match rise {
                Some(rise) => dropped.push(Dropped { sock: sample.sock, fact, rise }),
                None => each(fact),
            }
        })?;
        strain.end_look(now);
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
                let total = known.get_mut(&one.sock).map(|listener| listener.overflowed(count));
                one.fact.overflows_total = total;
            }
        }
        dropped.drain(..).for_each(|one| each(one.fact));
        // After that: a count that is read for the first time now has the overflows of this look in
        // it.
        namespaces.into_iter().for_each(|(netns, pid)| overflows.begin(netns, pid));
        lost.count_short_read(rest);
        for sock in closed {
            // It closed while the tracepoint could not say so.
            let _ = probes.known.remove(&sock);
        }
        if seen < known.len() {
            known.retain(|_, listener| {
                let there = listener.seen == *looks;
                if !there {
                    leave(sharing, listener);
                }
                there
            });
        }
        if refresh {
            shares::settle(&mut probes.shares, known.values().map(ListenerSocket::share))?;
            shares::tidy(&mut probes.sojourn_shares)?;
        }
        let turned_away = probes.outside.get(&0, 0).unwrap_or(0);
        if outside.is_due(now, turned_away) {
            outside.read(now, cgroups, lost, |found| listens_at(sharing, found), each)?;
        }
        Ok(())
    }

    /// Finds who holds each listener, and the listeners that were there before the agent.
    fn find_owners(&mut self, cgroups: &CgroupPaths, lost: &mut LossCounters) -> io::Result<()> {
        let mut holders: HashMap<u64, Vec<u32>> = HashMap::new();
        let rest = pass(&self.probes.find, &mut self.buffer, |owner: SocketOwnerSample| {
            if !self.known.contains_key(&owner.sock) {
                return;
            }
            let holders = holders.entry(owner.sock).or_default();
            if holders.len() < HOLDERS_MAX && holders.last() != Some(&owner.pid) {
                holders.push(owner.pid);
            }
        })?;
        lost.count_short_read(rest);
        for (sock, listener) in &mut self.known {
            let gone = !Path::new("/proc").join(listener.pid().to_string()).exists();
            let holders = holders.remove(sock).unwrap_or_default();
            // Processes come in order of pid: of a master and its workers the master holds it
            // first.
            let holder = holders.first().filter(|_| gone);
            listener.belongs_to(holder.copied().unwrap_or(listener.pid()), cgroups);
            listener.is_held_by(holders);
        }
        let namespaces: HashSet<u32> =
            self.known.values().map(|listener| listener.place().0).collect();
        self.overflows.keep(&namespaces);
        Ok(())
    }
}

/// Whether connections wait longer than it takes to wake a thread, so that it is worth asking what
/// their service lacks.
fn waits(fact: &ListenerFact) -> bool {
    match fact.oldest_wait_us {
        Some(us) => us >= WAITS_MIN_US,
        None => fact.backlog > 1,
    }
}

/// A socket is gone from where it listened.
fn leave(sharing: &mut HashMap<(u32, SocketAddr), u32>, listener: &ListenerSocket) {
    if let Entry::Occupied(mut sockets) = sharing.entry(listener.place()) {
        *sockets.get_mut() -= 1;
        if *sockets.get() == 0 {
            sockets.remove();
        }
    }
}
