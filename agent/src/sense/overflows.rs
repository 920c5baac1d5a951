//! Overflows of accept queues, separated from the other packets that a listener drops.
//!
//! `sk_drops` of a listener counts every packet that it drops: the last packet of a handshake under
//! TCP_DEFER_ACCEPT, a FIN scan, a SYN flood that is answered with cookies. `ListenOverflows`
//! counts only connections that found a queue full, but for a network namespace as a whole. Each of
//! them is also a drop of its listener. So drops count as overflows only as far as
//! `ListenOverflows` rose, and only at sockets whose queue can have been full.
//!
//! Cost: one read of `/proc/PID/net/netstat` for each namespace when its first listener is seen,
//! and one for each scan in which drops rose there; some 50 µs each. Cold start: drops from before
//! the first scan count only at a full queue. Failure: if no process of a namespace can be read,
//! drops count only at full queues.

use std::{collections::hash_map::Entry, fs, io, os::unix::fs::MetadataExt as _};

use foldhash::{HashMap, HashSet};

use crate::os::proc_reader::unrestricted;

/// Rise of a listener's drops since the last scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DropRise {
    /// Number of drops.
    pub(super) drops: u64,
    /// Set if the queue is over its limit now, so that the kernel refuses connections.
    pub(super) is_full: bool,
    /// Set if enough connections arrived since the last scan to have filled it in between, as far
    /// as is known.
    pub(super) may_have_been_full: bool,
}

/// `ListenOverflows` of each network namespace.
#[derive(Debug, Default)]
pub(super) struct Overflows {
    namespaces: HashMap<u32, NamespaceOverflows>,
    /// Inode of `/proc/PID/net/netstat` in each namespace: it identifies the namespace of a process
    /// whose `/proc/PID/ns` may not be read.
    netstat_inodes: HashMap<u32, u64>,
    scans: u64,
}

#[derive(Debug, Default)]
struct NamespaceOverflows {
    /// Count at the last read; `None` before the first.
    total: Option<u64>,
    /// Overflows without a drop, and the scan that left them: the listener may have been read just
    /// before.
    spare: u64,
    spare_scan: u64,
}

impl Overflows {
    /// Begins a scan.
    pub(super) fn begin_scan(&mut self) {
        self.scans += 1;
    }

    /// Returns whether a namespace has been read.
    pub(super) fn knows(&self, netns: u32) -> bool {
        self.namespaces.contains_key(&netns)
    }

    /// Reads the first count, unless there is one. `pid` is a process of the namespace.
    pub(super) fn begin(&mut self, netns: u32, pid: u32) {
        if !self.knows(netns) {
            let total = self.read(pid, netns);
            self.namespaces
                .insert(netns, NamespaceOverflows { total, ..NamespaceOverflows::default() });
        }
    }

    /// Returns the overflows of each listener of a namespace whose drops rose since the last scan,
    /// in the same order. `pids` are processes that may be in the namespace.
    pub(super) fn settle(
        &mut self,
        netns: u32,
        pids: impl IntoIterator<Item = u32>,
        rises: &[DropRise],
    ) -> Vec<u64> {
        match pids.into_iter().find_map(|pid| self.read(pid, netns)) {
            Some(total) => {
                self.namespaces.entry(netns).or_default().settle(total, self.scans, rises)
            }
            None => rises.iter().map(|rise| if rise.is_full { rise.drops } else { 0 }).collect(),
        }
    }

    /// Drops every namespace that is not among these.
    pub(super) fn keep(&mut self, namespaces: &HashSet<u32>) {
        self.namespaces.retain(|netns, _| namespaces.contains(netns));
        self.netstat_inodes.retain(|netns, _| namespaces.contains(netns));
    }

    /// Learns how to recognise a namespace, from a process in it. The kernel numbers the files of
    /// `/proc/PID/net` by namespace and shows them to everybody, while `/proc/PID/ns/net` needs
    /// CAP_SYS_PTRACE.
    pub(super) fn learn(&mut self, netns: u32, pid: u32) {
        if let Entry::Vacant(place) = self.netstat_inodes.entry(netns)
            && let Some(inode) = inode_of(&netstat_of(pid))
        {
            place.insert(inode);
        }
    }

    /// Reads the count of the namespace `netns`; `None` if the process is not in it, or has ended.
    fn read(&self, pid: u32, netns: u32) -> Option<u64> {
        let known = self.netstat_inodes.get(&netns).copied();
        let netstat = unrestricted(move || {
            let path = netstat_of(pid);
            let is_in_it = match fs::metadata(format!("/proc/{pid}/ns/net")) {
                Ok(namespace) => namespace.ino() == u64::from(netns),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    known.is_some() && known == inode_of(&path)
                }
                Err(_) => false,
            };
            is_in_it.then(|| fs::read_to_string(path).ok()).flatten()
        });
        listen_overflows(&netstat?)
    }
}

impl NamespaceOverflows {
    fn settle(&mut self, total: u64, scan: u64, rises: &[DropRise]) -> Vec<u64> {
        let is_first = self.total.is_none();
        let fresh = total.saturating_sub(self.total.unwrap_or(0));
        let spare = if self.spare_scan + 1 == scan { self.spare } else { 0 };
        let counted = share(fresh.saturating_add(spare), rises);
        let left = fresh.saturating_add(spare).saturating_sub(counted.iter().sum());
        // Older overflows, and those before the first scan, belonged to listeners that have closed.
        self.spare = if is_first { 0 } else { left.min(fresh) };
        (self.total, self.spare_scan) = (Some(total), scan);
        counted
    }
}

/// Distributes overflows: first to full queues, then to those that may have been full, in
/// proportion to their drops.
fn share(overflows: u64, rises: &[DropRise]) -> Vec<u64> {
    let mut counted = vec![0; rises.len()];
    let mut left = overflows;
    let classes: [fn(&DropRise) -> bool; 2] =
        [|rise| rise.is_full, |rise| !rise.is_full && rise.may_have_been_full];
    for class in classes {
        let drops: u64 = rises.iter().filter(|rise| class(rise)).map(|rise| rise.drops).sum();
        let (mut room, mut of) = (left.min(drops), drops);
        for (counted, rise) in counted.iter_mut().zip(rises).filter(|(_, rise)| class(rise)) {
            // The rest by the remaining drops, so that nothing is lost to rounding.
            *counted =
                (u128::from(room) * u128::from(rise.drops)).div_ceil(u128::from(of.max(1))) as u64;
            room -= *counted;
            of -= rise.drops;
            left -= *counted;
        }
    }
    counted
}

fn netstat_of(pid: u32) -> String {
    format!("/proc/{pid}/net/netstat")
}

fn inode_of(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}

/// Parses `ListenOverflows` of `/proc/net/netstat`: a line of names and one of values, with the
/// same prefix.
fn listen_overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut columns = names.split(' ').zip(values.split(' '));
    columns.find(|(name, _)| *name == "ListenOverflows")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: DropRise = DropRise { drops: 10, is_full: true, may_have_been_full: true };
    const MAY: DropRise = DropRise { drops: 10, is_full: false, may_have_been_full: true };
    const NEVER: DropRise = DropRise { drops: 10, is_full: false, may_have_been_full: false };

    fn known(total: u64) -> NamespaceOverflows {
        NamespaceOverflows { total: Some(total), ..NamespaceOverflows::default() }
    }

    #[test]
    fn drops_without_an_overflow_in_the_namespace_do_not_count() {
        assert_eq!(known(7).settle(7, 1, &[FULL, MAY, NEVER]), [0, 0, 0]);
    }

    #[test]
    fn full_queues_come_first_and_overflows_are_the_maximum() {
        for (overflows, counted) in [
            (0, [0, 0, 0]),
            (4, [4, 0, 0]),
            (10, [10, 0, 0]),
            (13, [10, 3, 0]),
            (20, [10, 10, 0]),
            (99, [10, 10, 0]),
        ] {
            assert_eq!(share(overflows, &[FULL, MAY, NEVER]), counted, "{overflows}");
        }
    }

    #[test]
    fn queues_of_a_class_share_by_drops_without_remainder() {
        let rises = [1, 20, 0, 9].map(|drops| DropRise { drops, ..MAY });
        for overflows in 0..=30 {
            let counted = share(overflows, &rises);
            assert_eq!(counted.iter().sum::<u64>(), overflows, "{counted:?}");
            assert!(
                counted.iter().zip(&rises).all(|(counted, rise)| *counted <= rise.drops),
                "{counted:?}"
            );
        }
        assert_eq!(share(15, &rises)[1], 10);
    }

    #[test]
    fn overflow_before_its_drop_waits_for_one_scan() {
        let few = DropRise { drops: 2, ..FULL };
        let mut namespace = known(0);
        assert_eq!(namespace.settle(5, 1, &[few]), [2]);
        assert_eq!(namespace.settle(5, 2, &[few]), [2]);
        assert_eq!(namespace.settle(5, 3, &[few]), [0], "older overflows are dropped");
        let mut namespace = known(0);
        assert_eq!(namespace.settle(5, 1, &[few]), [2]);
        assert_eq!(namespace.settle(5, 3, &[few]), [0]);
    }

    #[test]
    fn before_the_first_scan_only_full_queues_overflowed() {
        let mut namespace = NamespaceOverflows::default();
        assert_eq!(namespace.settle(1_000, 1, &[FULL, NEVER]), [10, 0]);
        assert_eq!(
            namespace.settle(1_000, 2, &[FULL, MAY]),
            [0, 0],
            "earlier overflows are not distributed later"
        );
    }

    #[test]
    fn count_is_read_by_its_name_or_not_at_all() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\n\
            TcpExt: 1 42 43\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(listen_overflows(netstat), Some(42));
        for other in [
            "",
            "TcpExt: ListenOverflows\n",
            "TcpExt: ListenDrops\nTcpExt: 3\n",
            "TcpExt: ListenOverflows\nTcpExt: x\n",
        ] {
            assert_eq!(listen_overflows(other), None, "{other:?}");
        }
    }

    #[test]
    fn count_is_read_only_from_a_process_of_the_namespace() {
        let own = fs::metadata("/proc/self/ns/net").expect("it is there").ino() as u32;
        let overflows = Overflows::default();
        assert!(overflows.read(std::process::id(), own).is_some());
        assert_eq!(overflows.read(std::process::id(), own.wrapping_add(1)), None);
    }
}
