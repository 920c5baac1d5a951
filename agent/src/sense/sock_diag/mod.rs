//! TCP and UNIX listeners without a map of them: a `sock_diag` request for the LISTEN state in each
//! network namespace.
//!
//! A netlink socket sees the namespace in which it was opened, for as long as it is open. So one is
//! kept for each namespace, opened by a thread that enters it and ends. That needs CAP_SYS_ADMIN,
//! and reading the holders of sockets CAP_SYS_PTRACE. If BPF lists the TCP sockets ([`SocketList`])
//! neither is needed: then only the agent's own namespace is asked, for sockets that no process
//! holds, and the list has the rest.

mod listener;
mod netlink;
mod proc_walk;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

use netlink_packet_sock_diag::{
    constants::{AF_INET, AF_INET6},
    inet::{InetResponse, StateFlags, nlas::Nla},
};
use netlink_sys::Socket;
use spillway_ebpf::SocketSample;

use self::{
    listener::{ListenerAddr, fact, unix_name},
    netlink::{
        dump, open, tcp_connections, tcp_listeners, tcp_sockets, unix_connections, unix_listeners,
    },
    proc_walk::ProcWalk,
};
use super::{
    CgroupPaths, ListenerFact, Loss, LossCounters, SocketList,
    overflows::{DropRise, Overflows},
    proc_files,
    socket_list::{Listed, SocketOwner},
};
use crate::os::proc_reader::unrestricted;

pub(super) use listener::DiagListener;

/// Kinds of listeners to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kinds {
    #[default]
    Both,
    Tcp,
    Unix,
}

/// A socket in each network namespace, and the owner of each listener.
#[derive(Default)]
pub(super) struct SockDiag {
    kinds: Kinds,
    /// List of the sockets in other namespaces; `None` if those have to be entered.
    list: Option<Arc<SocketList>>,
    /// Set if UNIX listeners could not be read; they are not requested again until the next
    /// refresh: if support is a missing module, the kernel searches for it on each request.
    without_unix: bool,
    namespaces: HashMap<u64, NetNamespace>,
    owners: HashMap<u64, SocketOwner>,
    overflows: Overflows,
    /// Listeners that have dropped anything, by inode.
    drops: HashMap<u32, SocketDrops>,
    scans: u64,
}

struct NetNamespace {
    socket: Socket,
    /// A process in the namespace.
    pid: u32,
}

/// Packets that a listener dropped until the last scan, and the connections among them that found
/// its queue full.
#[derive(Default)]
struct SocketDrops {
    total: u32,
    overflows: u64,
    seen: u64,
}

impl SockDiag {
    /// Creates a reader of these kinds of listeners. A list has no UNIX sockets: for them each
    /// namespace is entered.
    pub(super) fn of(kinds: Kinds, list: Option<Arc<SocketList>>) -> Self {
        let list = list.filter(|_| kinds != Kinds::Unix);
        Self { kinds, list, ..Self::default() }
    }

    /// Reads the listeners for which `wants` returns true, in every namespace that can be entered.
    /// `refresh` finds new namespaces and owners first.
    ///
    /// # Errors
    ///
    /// Returns an error if no namespace could be read.
    pub(super) fn scan(
        &mut self,
        refresh: bool,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        mut wants: impl FnMut(&DiagListener) -> bool,
        mut each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        if refresh {
            self.refresh(cgroups, losses);
            self.without_unix = false;
        }
        let kinds = self.kinds;
        let mut without_unix = self.without_unix;
        let mut answered = kinds == Kinds::Unix && without_unix;
        let mut failed = io::Error::other("no network namespace could be opened");
        let listed = self.read_list(cgroups, losses)?;
        let Self { namespaces, owners, overflows, drops, scans, .. } = self;
        *scans += 1;
        overflows.begin_scan();
        let mut scan = Scan { owners, drops, number: *scans, dropped: Vec::new() };
        for (&netns, NetNamespace { socket, pid }) in &*namespaces {
            let was_known = overflows.knows(netns as u32);
            let tcp: &[u8] = if kinds == Kinds::Unix { &[] } else { &[AF_INET, AF_INET6] };
            for &family in tcp {
                match dump(socket, tcp_listeners(family), |response| {
                    scan.take(netns, response, was_known, &mut wants, &mut each);
                }) {
                    Ok(()) => answered = true,
                    Err(error) => {
                        losses.count(Loss::SockDiagFailed);
                        failed = error;
                    }
                }
            }
            scan.settle(overflows, netns as u32, [*pid], &mut each);
            if kinds != Kinds::Unix {
                overflows.begin(netns as u32, *pid);
            }
            if !without_unix && kinds != Kinds::Tcp {
                match dump(socket, unix_listeners(), |response| {
                    if wants(&response.found(netns)) {
                        each(fact(scan.owners, netns, response));
                    }
                }) {
                    Ok(()) => answered |= kinds == Kinds::Unix,
                    Err(error) => {
                        losses.count(Loss::UnixDiagFailed);
                        without_unix = true;
                        failed = error;
                    }
                }
            }
        }
        for of_one in listed.chunk_by(|one, other| one.netns == other.netns) {
            let Some(netns) = of_one.first().map(|sample| sample.netns) else { continue };
            // The agent's own was asked itself.
            if namespaces.contains_key(&u64::from(netns)) {
                continue;
            }
            let was_known = overflows.knows(netns);
            for sample in of_one {
                let listener = ListenerAddr::Listed(sample);
                scan.take(u64::from(netns), &listener, was_known, &mut wants, &mut each);
            }
            let pid = of_one.iter().find(|sample| sample.in_its_netns != 0).map(|one| one.pid);
            scan.settle(overflows, netns, pid, &mut each);
            pid.into_iter().for_each(|pid| overflows.begin(netns, pid));
        }
        if self.list.is_some() {
            let own = namespaces.keys().map(|&netns| netns as u32);
            overflows.keep(&own.chain(listed.iter().map(|sample| sample.netns)).collect());
        }
        let seen = *scans;
        drops.retain(|_, drops| drops.seen == seen);
        self.without_unix = without_unix;
        if answered { Ok(()) } else { Err(failed) }
    }

    /// Lists the listeners of every namespace, in order of namespace, and learns their owners. The
    /// result is empty if there is no list.
    fn read_list(
        &mut self,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
    ) -> io::Result<Vec<SocketSample>> {
        let Some(list) = &self.list else { return Ok(Vec::new()) };
        let listed = Listed::read(list, cgroups, |_| false)?;
        losses.count_short_read(listed.rest);
        self.owners = listed.owners;
        for of_one in listed.listeners.chunk_by(|one, other| one.netns == other.netns) {
            if let Some(sample) = of_one.iter().find(|sample| sample.in_its_netns != 0) {
                self.overflows.learn(sample.netns, sample.pid);
            }
        }
        Ok(listed.listeners)
    }

    /// Counts the established connections of listeners for whose owner, a pid and a cgroup,
    /// `counts` returns true; `None` is an unknown owner. `refresh` is as in [`SockDiag::scan`].
    ///
    /// # Errors
    ///
    /// Returns an error if any namespace cannot be read.
    pub(super) fn connections(
        &mut self,
        refresh: bool,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        counts: impl Fn(Option<(u32, &str)>) -> bool,
    ) -> io::Result<u64> {
        if refresh {
            self.refresh(cgroups, losses);
        }
        let mut connections = self.listed_connections(cgroups, losses, &counts)?;
        for NetNamespace { socket, .. } in self.namespaces.values() {
            let mut ports = HashSet::new();
            for family in [AF_INET, AF_INET6] {
                dump(socket, tcp_listeners(family), |response| {
                    let ListenerAddr::Tcp(InetResponse { header, .. }) = response else { return };
                    let owner = self.owners.get(&u64::from(header.inode));
                    if counts(owner.map(|owner| (owner.pid, &*owner.cgroup))) {
                        ports.insert(header.socket_id.source_port);
                    }
                })?;
            }
            if ports.is_empty() {
                continue;
            }
            for family in [AF_INET, AF_INET6] {
                dump(socket, tcp_sockets(family, StateFlags::ESTABLISHED), |response| {
                    let ListenerAddr::Tcp(InetResponse { header, .. }) = response else { return };
                    connections += u64::from(ports.contains(&header.socket_id.source_port));
                })?;
            }
        }
        Ok(connections)
    }

    /// Counts the established connections at these listeners, which may have closed meanwhile.
    /// `refresh` is as in [`SockDiag::scan`].
    ///
    /// # Errors
    ///
    /// Returns an error if the namespace of one of them cannot be read.
    pub(super) fn connections_at(
        &mut self,
        refresh: bool,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        listeners: &[(u32, Arc<str>)],
    ) -> io::Result<u64> {
        if refresh {
            self.refresh(cgroups, losses);
        }
        let (mut ports, mut names) = (HashSet::new(), HashSet::new());
        for (netns, addr) in listeners {
            match addr.parse::<SocketAddr>() {
                Ok(address) => drop(ports.insert((*netns, address.port()))),
                Err(_) => drop(names.insert((*netns, &**addr))),
            }
        }
        let is_asked = |netns: u32| self.namespaces.contains_key(&u64::from(netns));
        let is_hidden = |&(netns, _): &(u32, u16)| !is_asked(netns) && self.list.is_none();
        if ports.iter().any(is_hidden) || names.iter().any(|&(netns, _)| !is_asked(netns)) {
            return Err(io::Error::other("connections of another network namespace are not seen"));
        }
        let mut connections = 0;
        if let Some(list) = &self.list
            && ports.iter().any(|&(netns, _)| !is_asked(netns))
        {
            let listed = Listed::read(list, cgroups, |netns| !is_asked(netns))?;
            losses.count_short_read(listed.rest);
            if listed.rest != 0 {
                return Err(io::Error::other("the list of connections ended early"));
            }
            let places = listed.established.values();
            connections += places.filter(|&place| ports.contains(place)).count() as u64;
        }
        for (&netns, NetNamespace { socket, .. }) in &self.namespaces {
            let netns = netns as u32;
            if ports.iter().any(|&(of, _)| of == netns) {
                for family in [AF_INET, AF_INET6] {
                    dump(socket, tcp_sockets(family, StateFlags::ESTABLISHED), |response| {
                        let ListenerAddr::Tcp(InetResponse { header, .. }) = response else {
                            return;
                        };
                        let port = (netns, header.socket_id.source_port);
                        connections += u64::from(ports.contains(&port));
                    })?;
                }
            }
            if names.iter().any(|&(of, _)| of == netns) {
                dump(socket, unix_connections(), |response| {
                    let ListenerAddr::Unix(response) = response else { return };
                    connections += u64::from(names.contains(&(netns, &*unix_name(response))));
                })?;
            }
        }
        Ok(connections)
    }

    /// Network namespaces that can be read.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.namespaces.keys().map(|&netns| netns as u32)
    }

    /// Passes on every connection that came to a listener, with its listener; those that wait for
    /// accept() too. `listeners` is empty before, and `refresh` as in [`SockDiag::scan`].
    ///
    /// # Errors
    ///
    /// Returns an error if any namespace cannot be read.
    pub(super) fn each_connection(
        &mut self,
        refresh: bool,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        listeners: &mut HashSet<(u32, SocketAddr)>,
        mut each: impl FnMut((u32, SocketAddr), &InetResponse),
    ) -> io::Result<()> {
        if refresh {
            self.refresh(cgroups, losses);
        }
        for (&netns, NetNamespace { socket, .. }) in &self.namespaces {
            let netns = netns as u32;
            for family in [AF_INET, AF_INET6] {
                dump(socket, tcp_listeners(family), |response| {
                    let ListenerAddr::Tcp(InetResponse { header, .. }) = response else { return };
                    let id = &header.socket_id;
                    listeners.insert((netns, SocketAddr::new(id.source_address, id.source_port)));
                })?;
            }
            for family in [AF_INET, AF_INET6] {
                dump(socket, tcp_connections(family), |response| {
                    let ListenerAddr::Tcp(response) = response else { return };
                    let id = &response.header.socket_id;
                    let own = (netns, SocketAddr::new(id.source_address, id.source_port));
                    let any = match id.source_address {
                        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    };
                    let any = (netns, SocketAddr::new(any, id.source_port));
                    let of = [own, any].into_iter().find(|address| listeners.contains(address));
                    of.into_iter().for_each(|listener| each(listener, response));
                })?;
            }
        }
        Ok(())
    }

    /// Counts the established connections of other namespaces from the list, and learns the owners
    /// of all listeners. No process holds a connection that waits for accept(): its listener counts
    /// it. Returns 0 if there is no list.
    fn listed_connections(
        &mut self,
        cgroups: &CgroupPaths,
        losses: &mut LossCounters,
        counts: impl Fn(Option<(u32, &str)>) -> bool,
    ) -> io::Result<u64> {
        let Some(list) = &self.list else { return Ok(0) };
        // The agent's own is asked itself: it may have a hundred thousand connections.
        let is_asked = |netns: u32| self.namespaces.contains_key(&u64::from(netns));
        let listed = Listed::read(list, cgroups, |netns| !is_asked(netns))?;
        losses.count_short_read(listed.rest);
        let (mut waiting, mut ports) = (0, HashSet::new());
        for sample in listed.listeners.iter().filter(|sample| !is_asked(sample.netns)) {
            let owner = listed.owners.get(&sample.inode);
            if counts(owner.map(|owner| (owner.pid, &*owner.cgroup))) {
                waiting += u64::from(sample.backlog);
                ports.insert((sample.netns, sample.port));
            }
        }
        self.owners = listed.owners;
        let accepted = listed.established.values().filter(|&place| ports.contains(place)).count();
        Ok(waiting + accepted as u64)
    }

    /// Opens the agent's own namespace if the sockets of the others are listed. Otherwise walks
    /// every process once: its network namespace, and the sockets that it holds. A process that may
    /// not be read is left out.
    fn refresh(&mut self, cgroups: &CgroupPaths, losses: &mut LossCounters) {
        if self.list.is_some() {
            if self.namespaces.is_empty() {
                match own_namespace() {
                    Ok((inode, namespace)) => drop(self.namespaces.insert(inode, namespace)),
                    Err(_) => losses.count(Loss::NetnsNotEntered),
                }
            }
            return;
        }
        let known: HashSet<u64> = self.namespaces.keys().copied().collect();
        let walk = unrestricted(move || ProcWalk::make(&known));
        self.owners.clear();
        for (pid, sockets) in walk.sockets {
            let cgroup = cgroups.of_process(pid);
            for inode in sockets {
                self.owners
                    .entry(inode)
                    .or_insert_with(|| SocketOwner { pid, cgroup: cgroup.clone() });
            }
        }
        self.namespaces.retain(|inode, _| walk.seen.contains_key(inode));
        self.namespaces.extend(
            walk.opened.into_iter().map(|(inode, socket)| (inode, NetNamespace { socket, pid: 0 })),
        );
        for (inode, pid) in walk.seen {
            if let Some(namespace) = self.namespaces.get_mut(&inode) {
                namespace.pid = pid;
            }
        }
        self.overflows.keep(&self.namespaces.keys().map(|&inode| inode as u32).collect());
        (0..walk.not_entered).for_each(|_| losses.count(Loss::NetnsNotEntered));
        if walk.is_hidden && proc_files::is_root_without_ptrace() {
            losses.count(Loss::NetnsHidden);
        }
    }
}

/// One scan of every listener.
struct Scan<'a> {
    owners: &'a HashMap<u64, SocketOwner>,
    drops: &'a mut HashMap<u32, SocketDrops>,
    number: u64,
    /// Listeners of the namespace at hand whose drops rose.
    dropped: Vec<(ListenerFact, DropRise)>,
}

impl Scan<'_> {
    /// Passes a TCP listener on, or keeps it until the overflows among its drops are known.
    fn take(
        &mut self,
        netns: u64,
        listener: &ListenerAddr<'_>,
        was_known: bool,
        wants: &mut impl FnMut(&DiagListener) -> bool,
        each: &mut impl FnMut(ListenerFact),
    ) {
        if !wants(&listener.found(netns)) {
            return;
        }
        let mut fact = fact(self.owners, netns, listener);
        match rise(self.drops, self.number, listener, &mut fact, was_known) {
            Some(rise) => self.dropped.push((fact, rise)),
            None => each(fact),
        }
    }

    /// Passes on the listeners of a namespace that were kept. `pids` are processes that may be in
    /// the namespace.
    fn settle(
        &mut self,
        overflows: &mut Overflows,
        netns: u32,
        pids: impl IntoIterator<Item = u32>,
        each: &mut impl FnMut(ListenerFact),
    ) {
        if self.dropped.is_empty() {
            return;
        }
        let rises: Vec<_> = self.dropped.iter().map(|(_, rise)| *rise).collect();
        let counted = overflows.settle(netns, pids, &rises);
        for ((mut fact, _), count) in self.dropped.drain(..).zip(counted) {
            if let Some(drops) = self.drops.get_mut(&(fact.socket as u32)) {
                drops.overflows = drops.overflows.saturating_add(count);
                fact.overflows_total = Some(drops.overflows);
            }
            each(fact);
        }
    }
}

/// Returns the drops of any kind of a listener since the last scan; `None` if there were none. The
/// number of arrivals is unknown here, so every queue may have been full in a namespace that was
/// known at the last scan.
fn rise(
    drops: &mut HashMap<u32, SocketDrops>,
    scan: u64,
    response: &ListenerAddr<'_>,
    fact: &mut ListenerFact,
    was_known: bool,
) -> Option<DropRise> {
    let (inode, dropped) = match response {
        ListenerAddr::Tcp(response) => {
            let dropped = response.nlas.iter().find_map(|nla| match nla {
                Nla::MemInfo(memory) => Some(memory.drops),
                _ => None,
            })?;
            (response.header.inode, dropped)
        }
        ListenerAddr::Listed(sample) => (sample.inode as u32, sample.drops),
        ListenerAddr::Unix(_) => return None,
    };
    fact.overflows_total = Some(0);
    if dropped == 0 {
        return None;
    }
    let known = drops.entry(inode).or_default();
    known.seen = scan;
    fact.overflows_total = Some(known.overflows);
    let rise = dropped.wrapping_sub(std::mem::replace(&mut known.total, dropped));
    let is_full = fact.backlog > fact.backlog_max;
    (rise > 0).then_some(DropRise {
        drops: u64::from(rise),
        is_full,
        may_have_been_full: was_known,
    })
}

/// Opens the agent's own network namespace; returns its inode with it.
fn own_namespace() -> io::Result<(u64, NetNamespace)> {
    let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok((inode, NetNamespace { socket: open()?, pid: std::process::id() }))
}

/// Returns the addresses in a response, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(super) fn addresses(answer: &[u8]) -> Vec<Arc<str>> {
    let mut addresses = Vec::new();
    let mut each = |response: &ListenerAddr<'_>| {
        addresses.push(match response {
            ListenerAddr::Tcp(response) => listener::tcp_fact(response).addr,
            ListenerAddr::Unix(response) => listener::unix_fact(response).addr,
            ListenerAddr::Listed(sample) => listener::listed_fact(sample).addr,
        });
    };
    let _ = netlink::read_answer(answer, &mut Ok(()), &mut each);
    addresses
}
