//! Processes that hold the connections on which requests wait.
//!
//! A socket does not say which process has it, so a pass over open files finds out, for the few
//! connections that are asked for: of each address the one whose request is held for longest. A
//! connection that several processes hold, as after fork(), says nothing about which of them should
//! answer. Only urgent ones make a pass come early. Bound: [`ASKED_MAX`] connections, half of them
//! not urgent.

use foldhash::HashMap;

/// Maximum number of connections asked for: one of each address at which a request waits for long.
const ASKED_MAX: usize = 256;

/// A connection whose request is held. The greatest is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeldConnection {
    /// Set unless its client has gone.
    pub(super) has_client: bool,
    /// Time for which passes have seen it, in tenths of a second.
    pub(super) held_tenths: u32,
    /// Time since the request came.
    pub(super) waits_us: u64,
    /// Number of its socket.
    pub(super) socket: u64,
    /// First pass that saw it: distinguishes it from a later request on the same socket.
    pub(super) since_tenths: u32,
}

impl HeldConnection {
    /// Time for which it is held.
    pub(super) fn held_us(&self) -> u64 {
        u64::from(self.held_tenths) * 100_000
    }
}

/// Processes that hold connections.
#[derive(Debug, Default)]
pub(super) struct Holders {
    asked: HashMap<u64, Asked>,
    /// Number of the current pass over connections, and of the one over open files.
    pass: u32,
    search: u32,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    since_tenths: u32,
    /// Pass that asked for it last.
    pass: u32,
    /// Pass over open files that was to find it first.
    search: u32,
    is_urgent: bool,
    holder: KnownHolder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownHolder {
    Unknown,
    Process(u32),
    Several,
}

impl Holders {
    /// Begins to ask anew.
    pub(super) fn begin(&mut self) {
        self.pass = self.pass.wrapping_add(1);
    }

    /// Asks for the process that holds a connection; returns it if it is known. A pass over open
    /// files comes early if that `is_urgent`.
    pub(super) fn of(&mut self, held: &HeldConnection, is_urgent: bool) -> Option<u32> {
        let most = if is_urgent { ASKED_MAX } else { ASKED_MAX / 2 };
        if self.asked.len() >= most && !self.asked.contains_key(&held.socket) {
            return None;
        }
        let fresh = Asked {
            since_tenths: held.since_tenths,
            pass: self.pass,
            search: self.search.wrapping_add(1),
            is_urgent,
            holder: KnownHolder::Unknown,
        };
        let asked = self.asked.entry(held.socket).or_insert(fresh);
        if asked.since_tenths != held.since_tenths {
            *asked = fresh;
        }
        (asked.pass, asked.is_urgent) = (self.pass, is_urgent);
        match asked.holder {
            KnownHolder::Process(pid) => Some(pid),
            KnownHolder::Unknown | KnownHolder::Several => None,
        }
    }

    /// Forgets the connections that were not asked for again.
    pub(super) fn end(&mut self) {
        let pass = self.pass;
        self.asked.retain(|_, asked| asked.pass == pass);
    }

    /// Returns whether there is an urgent connection that no pass over open files was to find.
    pub(super) fn wants_search(&self) -> bool {
        self.asked.values().any(|asked| asked.is_urgent && asked.search > self.search)
    }

    /// Begins a pass over open files.
    pub(super) fn begin_search(&mut self) {
        self.search = self.search.wrapping_add(1);
    }

    /// Notes that a process holds a connection.
    pub(super) fn found(&mut self, socket: u64, pid: u32) {
        let search = self.search;
        let Some(asked) = self.asked.get_mut(&socket) else { return };
        // One that was asked for during the pass may have been held by a process before.
        if asked.search > search {
            return;
        }
        asked.holder = match asked.holder {
            KnownHolder::Unknown => KnownHolder::Process(pid),
            KnownHolder::Process(before) if before == pid => KnownHolder::Process(pid),
            KnownHolder::Process(_) | KnownHolder::Several => KnownHolder::Several,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(socket: u64, since_tenths: u32) -> HeldConnection {
        let (has_client, held_tenths, waits_us) = (true, 7, 700_000);
        HeldConnection { has_client, held_tenths, waits_us, socket, since_tenths }
    }

    fn asks(holders: &mut Holders, connections: &[HeldConnection]) -> Vec<Option<u32>> {
        holders.begin();
        let known = connections.iter().map(|held| holders.of(held, true)).collect();
        holders.end();
        known
    }

    #[test]
    fn holder_is_known_after_the_next_search() {
        let mut holders = Holders::default();
        assert!(!holders.wants_search());
        assert_eq!(asks(&mut holders, &[held(1, 50), held(2, 50)]), [None, None]);
        assert!(holders.wants_search());
        holders.begin_search();
        holders.found(1, 812);
        holders.found(3, 813);
        holders.found(1, 812);
        assert!(!holders.wants_search(), "the second is held by nobody, and is not searched again");
        assert_eq!(asks(&mut holders, &[held(1, 50), held(2, 50)]), [Some(812), None]);
        assert!(!holders.wants_search());
    }

    #[test]
    fn connection_that_several_hold_is_nobodys() {
        let mut holders = Holders::default();
        asks(&mut holders, &[held(1, 50)]);
        holders.begin_search();
        holders.found(1, 812);
        holders.found(1, 813);
        holders.found(1, 812);
        assert_eq!(asks(&mut holders, &[held(1, 50)]), [None]);
    }

    #[test]
    fn later_request_on_a_socket_is_asked_for_anew() {
        let mut holders = Holders::default();
        asks(&mut holders, &[held(1, 50)]);
        holders.begin_search();
        holders.found(1, 812);
        assert_eq!(asks(&mut holders, &[held(1, 60)]), [None]);
        assert!(holders.wants_search());
    }

    #[test]
    fn connection_asked_for_during_a_search_waits_for_the_next() {
        let mut holders = Holders::default();
        holders.begin_search();
        asks(&mut holders, &[held(1, 50)]);
        holders.found(1, 812);
        assert_eq!(asks(&mut holders, &[held(1, 50)]), [None]);
        assert!(holders.wants_search());
        holders.begin_search();
        holders.found(1, 811);
        assert_eq!(asks(&mut holders, &[held(1, 50)]), [Some(811)]);
    }

    #[test]
    fn only_urgent_connections_make_a_search_come_early() {
        let mut holders = Holders::default();
        holders.begin();
        for socket in 0..ASKED_MAX as u64 {
            assert_eq!(holders.of(&held(socket, 50), false), None);
        }
        assert_eq!(holders.asked.len(), ASKED_MAX / 2, "the others leave room for urgent ones");
        assert!(!holders.wants_search());
        holders.of(&held(ASKED_MAX as u64, 50), true);
        assert!(holders.wants_search());
        holders.begin_search();
        holders.found(3, 812);
        assert_eq!(holders.of(&held(3, 50), false), Some(812), "every search finds them");
    }

    #[test]
    fn connections_asked_for_are_bounded_and_forgotten() {
        let mut holders = Holders::default();
        let many: Vec<_> = (0..2 * ASKED_MAX as u64).map(|socket| held(socket, 1)).collect();
        asks(&mut holders, &many);
        assert_eq!(holders.asked.len(), ASKED_MAX);
        asks(&mut holders, &[]);
        assert!(holders.asked.is_empty() && !holders.wants_search());
    }
}
