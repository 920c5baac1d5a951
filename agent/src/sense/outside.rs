//! Listeners that found no room in the kernel's map of them, read through `sock_diag` all the same.
//!
//! The BPF side counts each that it turns away, when it begins to listen and again every ten
//! seconds. Once that count rises they are read from here, until it rose no more for longer than
//! that. Cost: some 3 µs a listener, of which the host's own do most of the harm: so the more there
//! are, the less often they are read, and at most a twentieth of a CPU goes into it. How many one
//! user has told is bounded too. Failure: `Lost` says how often some were left out.

use std::{io, net::SocketAddr};

use foldhash::HashMap;

use super::{
    CgroupPaths, ListenerFact, Loss, LossCounters,
    sock_diag::{DiagListener, Kinds, SockDiag},
};

/// Time for which they are read after the last was turned away: longer than the time between two
/// passes over every open file.
const AFTER_SECS: f64 = 15.0;

/// Time between two reads, in seconds: the least, and for each listener that was read. The latter
/// is twenty times its cost, measured on a 6.18 host.
const LEAST_SECS: f64 = 1.0;
const SECS_EACH: f64 = 60e-6;

/// Most of one user that are reported at a read: of those at which connections wait, and of the
/// others. Guesses: more than a service has.
const TOLD_MAX: u32 = 1_024;
/// The same of the system's own users.
const TOLD_OF_SYSTEM_MAX: u32 = 8_192;
/// Uids from here on are people's and containers', as on the BPF side.
const ORDINARY_UIDS: u32 = 1_000;

/// Reads them.
pub(super) struct Outside {
    sockets: SockDiag,
    turned_away: u64,
    until: f64,
    next: f64,
}

impl Outside {
    /// State in which none was turned away yet.
    pub(super) fn new(kinds: Kinds) -> Self {
        Self { sockets: SockDiag::of(kinds), turned_away: 0, until: f64::MIN, next: f64::MIN }
    }

    /// Tells if there are any, and it is time to read them. `turned_away` is the kernel's count.
    pub(super) fn is_due(&mut self, now: f64, turned_away: u64) -> bool {
        if turned_away > self.turned_away {
            (self.turned_away, self.until) = (turned_away, now + AFTER_SECS);
        }
        now < self.until && now >= self.next
    }

    /// Reads them; `is_known` says which are read otherwise.
    ///
    /// # Errors
    ///
    /// No namespace could be read.
    pub(super) fn read(
        &mut self,
        now: f64,
        cgroups: &CgroupPaths,
        lost: &mut LossCounters,
        is_known: impl Fn(&DiagListener) -> bool,
        each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        let mut told = ReportedCounts::default();
        let wants = |found: &DiagListener| {
            told.read += 1;
            !is_known(found) && told.has_room(found)
        };
        let done = self.sockets.scan(true, cgroups, lost, wants, each);
        self.next = now + LEAST_SECS.max(told.read as f64 * SECS_EACH);
        if told.left_out > 0 {
            lost.count(Loss::ListenersLeftOut);
        }
        done
    }
}

/// Number that were reported in this read.
#[derive(Default)]
struct ReportedCounts {
    by_user: HashMap<(u32, bool), u32>,
    read: u64,
    left_out: u64,
}

impl ReportedCounts {
    fn has_room(&mut self, found: &DiagListener) -> bool {
        let most = if found.uid < ORDINARY_UIDS { TOLD_OF_SYSTEM_MAX } else { TOLD_MAX };
        let told = self.by_user.entry((found.uid, found.waiting)).or_insert(0);
        let has_room = *told < most;
        if has_room {
            *told += 1
        } else {
            self.left_out += 1
        }
        has_room
    }
}

/// Tells if a socket listens where one of these does: those that share an address belong to one
/// user.
pub(super) fn listens_at<T>(
    known: &std::collections::HashMap<(u32, SocketAddr), T>,
    found: &DiagListener,
) -> bool {
    found.socket.is_some_and(|socket| known.contains_key(&(found.netns, socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_until_none_was_turned_away_for_a_while() {
        let mut outside = Outside::new(Kinds::Tcp);
        for (now, turned_away, is_due) in [
            (0.0, 0, false),
            (1.0, 5, true),
            (2.0, 5, true),
            (15.9, 5, true),
            (16.0, 5, false),
            (20.0, 6, true),
        ] {
            assert_eq!(outside.is_due(now, turned_away), is_due, "at {now}");
        }
        outside.next = 21.5;
        assert!(!outside.is_due(21.0, 9) && outside.is_due(21.5, 9), "not too often");
    }

    #[test]
    fn one_user_does_not_fill_what_is_told() {
        let mut told = ReportedCounts::default();
        let found = |uid, waiting| DiagListener { netns: 1, inode: 7, uid, waiting, socket: None };
        let admitted = (0..9_000).filter(|_| told.has_room(&found(65_534, false))).count();
        assert_eq!(admitted, TOLD_MAX as usize);
        assert_eq!(told.left_out, 9_000 - u64::from(TOLD_MAX));
        assert!(told.has_room(&found(65_534, true)), "one at which connections wait is told");
        assert!(
            told.has_room(&found(0, false)) && told.has_room(&found(1_000, false)),
            "others are told"
        );
    }
}
