//! Listeners that found no room in the BPF map, read from a list of all that there are.
//!
//! The BPF side counts each listener that it turns away, when it begins to listen and again every
//! ten seconds. Once that count rises, they are read here until it has not risen for longer than
//! that. Cost: some 3 µs a listener, known ones included: the more there are, the less often they
//! are read, so that it takes at most a twentieth of a CPU. The number reported for one user is
//! bounded too. Failure: [`Loss::ListenersLeftOut`] counts the reads in which some were left out.

use std::{io, net::SocketAddr};

use foldhash::HashMap;

use super::{Loss, LossCounters, sock_diag::DiagListener};

/// Time for which they are read after one was turned away: longer than the time between two passes
/// over every open file.
const AFTER_SECS: f64 = 15.0;

/// Time between two reads: a minimum, and an addition for each listener that was read, which is
/// twenty times its cost as measured on a 6.18 host.
const LEAST_SECS: f64 = 1.0;
const SECS_EACH: f64 = 60e-6;

/// Maximum number of listeners of one user in a read, separately for those with waiting connections
/// and without. A guess: more than a service has.
const REPORTED_MAX: u32 = 1_024;
/// Maximum number of listeners of one system user. A guess.
const REPORTED_OF_SYSTEM_MAX: u32 = 8_192;
/// First uid of people and containers, as on the BPF side.
const ORDINARY_UIDS: u32 = 1_000;

/// Schedule and bounds of the reads of listeners that found no room.
pub(super) struct Outside {
    turned_away: u64,
    until: f64,
    next: f64,
}

impl Default for Outside {
    /// No listener has been turned away yet.
    fn default() -> Self {
        Self { turned_away: 0, until: f64::MIN, next: f64::MIN }
    }
}

impl Outside {
    /// Returns whether there are any, and a read is due. `turned_away` is the kernel's count.
    pub(super) fn is_due(&mut self, now: f64, turned_away: u64) -> bool {
        if turned_away > self.turned_away {
            (self.turned_away, self.until) = (turned_away, now + AFTER_SECS);
        }
        now < self.until && now >= self.next
    }

    /// Reads them. `read` asks of each listener that it finds whether it is wanted, and says
    /// whether it is known.
    ///
    /// # Errors
    ///
    /// Returns the error of `read`.
    pub(super) fn read(
        &mut self,
        now: f64,
        losses: &mut LossCounters,
        read: impl FnOnce(
            &mut LossCounters,
            &mut dyn FnMut(&DiagListener, bool) -> bool,
        ) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut reported = ReportedCounts::default();
        let mut wants = |found: &DiagListener, is_known: bool| {
            reported.read += 1;
            !is_known && reported.has_room(found)
        };
        let done = read(losses, &mut wants);
        self.next = now + LEAST_SECS.max(reported.read as f64 * SECS_EACH);
        if reported.left_out > 0 {
            losses.count(Loss::ListenersLeftOut);
        }
        done
    }
}

/// Numbers of listeners in this read.
#[derive(Default)]
struct ReportedCounts {
    by_user: HashMap<(u32, bool), u32>,
    read: u64,
    left_out: u64,
}

impl ReportedCounts {
    fn has_room(&mut self, found: &DiagListener) -> bool {
        let max = if found.uid < ORDINARY_UIDS { REPORTED_OF_SYSTEM_MAX } else { REPORTED_MAX };
        let count = self.by_user.entry((found.uid, found.waiting)).or_insert(0);
        let has_room = *count < max;
        if has_room {
            *count += 1
        } else {
            self.left_out += 1
        }
        has_room
    }
}

/// Returns whether a socket shares its address with one of these: sockets that share an address
/// belong to one user.
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
    fn reads_end_when_none_was_turned_away_for_a_while() {
        let mut outside = Outside::default();
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
    fn one_user_cannot_take_every_place() {
        let mut reported = ReportedCounts::default();
        let found = |uid, waiting| DiagListener { netns: 1, uid, waiting, socket: None };
        let admitted = (0..9_000).filter(|_| reported.has_room(&found(65_534, false))).count();
        assert_eq!(admitted, REPORTED_MAX as usize);
        assert_eq!(reported.left_out, 9_000 - u64::from(REPORTED_MAX));
        assert!(reported.has_room(&found(65_534, true)), "one with waiting connections has room");
        assert!(
            reported.has_room(&found(0, false)) && reported.has_room(&found(1_000, false)),
            "other users have room"
        );
    }
}
