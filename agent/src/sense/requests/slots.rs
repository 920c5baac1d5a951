//! Slots of the map of connections to visit, and their owners' shares of it.
//!
//! A connection keeps its slot from when it is noted or found until a pass finds it gone. While
//! slots are free, everybody gets one. Once none is, owners share them: who has fewer than the
//! largest owner gets one of that owner's, and the system gets a quarter of all in any case. So no
//! user's connections hide those of a service. Bound: [`CONNECTIONS_MAX`] slots, which take 4 MiB.

use std::collections::BTreeSet;

use foldhash::HashMap;
use spillway_ebpf::{CHUNK_LEN, CONNECTIONS_MAX, ConnectionChunk, NewConnection};

use super::left_out::ListenerPort;

/// Maximum number of connections that are noted between two passes, three quarters of it for others
/// than the system. A guess: a pass then takes some milliseconds however many connections came and
/// went since the last one. Those beyond are found later.
const NOTED_MAX: usize = 1 << 14;

/// Owner that [`spillway_ebpf::share_of`] gives to the system.
const SYSTEM: u64 = 0;

/// Connections to visit.
#[derive(Debug, Default)]
pub(super) struct ConnectionSlots {
    slots: Vec<ConnectionSlot>,
    free: Vec<u32>,
    /// Connections noted since the last pass began.
    noted: usize,
    /// Number of slots by owner.
    owners: HashMap<u64, usize>,
    /// Chunks that differ from the kernel's.
    changed: BTreeSet<u32>,
    pass: u32,
    /// Place at which the search for a slot to take away goes on.
    next: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct ConnectionSlot {
    /// Address of the socket; 0 if the slot is free.
    sock: u64,
    share: u64,
    /// Listener that it came to.
    listener: ListenerPort,
    /// Last pass that saw it, or began before it came.
    pass: u32,
}

impl ConnectionSlots {
    /// Adds a connection that was noted when it was established. Returns what [`Self::add`] does.
    pub(super) fn note(&mut self, connection: NewConnection) -> Option<ListenerPort> {
        let most = if connection.share == SYSTEM { NOTED_MAX } else { NOTED_MAX / 4 * 3 };
        let has_room = self.noted < most;
        self.noted += usize::from(has_room);
        if has_room { self.add(connection) } else { Some((connection.netns, connection.port)) }
    }

    /// Begins a pass: passes on each chunk that has changed.
    ///
    /// # Errors
    ///
    /// Returns the first error of `write`; the chunk is written again before the next pass.
    pub(super) fn begin<E>(
        &mut self,
        mut write: impl FnMut(u32, &ConnectionChunk) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pass = self.pass.wrapping_add(1);
        self.noted = 0;
        while let Some(&chunk) = self.changed.first() {
            write(chunk, &self.chunk(chunk))?;
            self.changed.remove(&chunk);
        }
        Ok(())
    }

    /// Notes that a pass has seen a connection, and returns its owner; `None` if the slot has been
    /// given to another.
    pub(super) fn saw(&mut self, slot: u32, sock: u64) -> Option<u64> {
        let slot = self.slots.get_mut(slot as usize).filter(|slot| slot.sock == sock)?;
        slot.pass = self.pass;
        Some(slot.share)
    }

    /// Frees a slot whose connection has another one too.
    pub(super) fn free(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let ConnectionSlot { sock, share, .. } = std::mem::take(place);
        if sock == 0 {
            return;
        }
        self.free.push(slot);
        self.changed.insert(slot / CHUNK_LEN as u32);
        if let Some(count) = self.owners.get_mut(&share) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&share);
            }
        }
    }

    /// Ends a pass: frees the slots of connections that it did not see.
    pub(super) fn end(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots.get(slot).is_some_and(|slot| slot.sock != 0 && slot.pass != self.pass) {
                self.free(slot as u32);
            }
        }
        if self.free.len() == self.slots.len() {
            // The memory of a crowd that has left.
            (self.slots, self.free) = Default::default();
        }
    }

    /// Gives a slot to a connection, at any time. Returns the listener one of whose connections has
    /// none then: this one's if its owner has his share, or that of one that made room for it.
    pub(super) fn add(&mut self, connection: NewConnection) -> Option<ListenerPort> {
        let NewConnection { sock, share, netns, port, .. } = connection;
        let listener = (netns, port);
        let mut left_out = None;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < CONNECTIONS_MAX as usize => {
                self.slots.push(ConnectionSlot::default());
                (self.slots.len() - 1) as u32
            }
            None => {
                let Some((slot, from)) = self.take_away_for(share) else { return Some(listener) };
                left_out = Some(from);
                slot
            }
        };
        let Some(place) = self.slots.get_mut(slot as usize) else { return Some(listener) };
        *place = ConnectionSlot { sock, share, listener, pass: self.pass };
        *self.owners.entry(share).or_default() += 1;
        self.changed.insert(slot / CHUNK_LEN as u32);
        left_out
    }

    /// Takes a slot away from the owner with the most, for one with fewer. Returns it, and the
    /// listener of the connection that had it.
    fn take_away_for(&mut self, share: u64) -> Option<(u32, ListenerPort)> {
        let own = self.owners.get(&share).copied().unwrap_or(0);
        let quarter = CONNECTIONS_MAX as usize / 4;
        let is_reserved = |owner: u64, count: usize| owner == SYSTEM && count <= quarter;
        let (&largest, &most) = self
            .owners
            .iter()
            .filter(|(owner, count)| **owner != share && !is_reserved(**owner, **count))
            .max_by_key(|(_, count)| **count)?;
        if most <= own + 1 && !is_reserved(share, own + 1) {
            return None;
        }
        let count = self.slots.len();
        let place = (self.next..count)
            .chain(0..self.next)
            .find(|&slot| self.slots.get(slot).is_some_and(|slot| slot.share == largest))?;
        let listener = self.slots.get(place)?.listener;
        self.next = (place + 1) % count;
        self.free(place as u32);
        Some((self.free.pop()?, listener))
    }

    fn chunk(&self, chunk: u32) -> ConnectionChunk {
        let from = chunk as usize * CHUNK_LEN;
        let mut socks = [0; CHUNK_LEN];
        for (sock, slot) in socks.iter_mut().zip(self.slots.iter().skip(from)) {
            *sock = slot.sock;
        }
        ConnectionChunk { socks }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const MAX: u64 = CONNECTIONS_MAX as u64;

    /// Returns a connection to the listener of its owner.
    fn connection(sock: u64, share: u64) -> NewConnection {
        NewConnection { sock, share, netns: 1, port: share as u16, reserved: 0 }
    }

    fn port_of(connection: &NewConnection) -> ListenerPort {
        (connection.netns, connection.port)
    }

    /// Slots, and the map that they are written to.
    #[derive(Default)]
    struct Written {
        slots: ConnectionSlots,
        map: HashMap<u32, [u64; CHUNK_LEN]>,
    }

    impl Written {
        /// Adds connections by address and owner, and makes a pass that sees those that are
        /// `alive`; returns how many were left out.
        fn pass(
            &mut self,
            added: impl IntoIterator<Item = (u64, u64)>,
            alive: impl Fn(u64) -> bool,
        ) -> usize {
            let added = added.into_iter().map(|(sock, share)| connection(sock, share));
            let left_out = added.filter(|one| self.slots.add(*one) == Some(port_of(one))).count();
            let map = &mut self.map;
            let Ok(()) = self.slots.begin(|chunk, socks| {
                map.insert(chunk, socks.socks);
                Ok::<_, Infallible>(())
            });
            for (chunk, socks) in &self.map {
                for (place, sock) in socks.iter().enumerate().filter(|(_, sock)| **sock != 0) {
                    if alive(*sock) {
                        self.slots.saw(chunk * CHUNK_LEN as u32 + place as u32, *sock);
                    }
                }
            }
            self.slots.end();
            left_out
        }

        fn count(&self, is: impl Fn(u64) -> bool) -> usize {
            let socks = self.map.values().flatten();
            socks.filter(|sock| **sock != 0 && is(**sock)).count()
        }
    }

    #[test]
    fn connection_is_visited_until_a_pass_finds_it_gone() {
        let mut written = Written::default();
        assert_eq!(written.pass((1..=100).map(|sock| (sock, SYSTEM)), |_| true), 0);
        assert_eq!(written.count(|_| true), 100);
        written.pass([], |sock| sock % 2 == 0);
        written.pass([(1_000, SYSTEM)], |sock| sock % 2 == 0);
        assert_eq!(written.count(|sock| sock % 2 != 0), 0);
        assert_eq!(written.count(|sock| sock % 2 == 0), 51);
        written.pass([], |_| false);
        written.pass([], |_| true);
        assert_eq!(written.count(|_| true), 0);
        assert!(written.slots.slots.is_empty() && written.slots.owners.is_empty());
    }

    #[test]
    fn connection_with_two_slots_keeps_one() {
        let mut written = Written::default();
        written.pass([(7, SYSTEM), (7, SYSTEM)], |_| true);
        written.slots.free(1);
        written.slots.free(1);
        written.pass([], |_| true);
        assert_eq!((written.count(|_| true), written.slots.free.len()), (1, 1));
    }

    #[test]
    fn user_with_every_slot_makes_room_for_others() {
        const USER: u64 = 1 << 32 | 1_000;
        const OTHER: u64 = 1 << 32 | 1_001;
        let mut written = Written::default();
        let is_users = |sock: u64| (1..=MAX).contains(&sock);
        assert_eq!(written.pass((1..=MAX + 10).map(|sock| (sock, USER)), |_| true), 10);
        assert_eq!(written.count(is_users), MAX as usize);
        // A service has a quarter in any case, and others as much as the largest.
        let services = (1..=1_000_u64).map(|n| (2 * MAX + n, SYSTEM));
        let others = (1..=MAX).map(|n| (3 * MAX + n, OTHER));
        assert!(written.pass(services.chain(others), |_| true) > 0);
        assert_eq!(written.count(|sock| sock > 2 * MAX && sock <= 3 * MAX), 1_000);
        let (user, other) = (written.count(is_users), written.count(|sock| sock > 3 * MAX));
        assert!(user.abs_diff(other) <= 2, "{user} and {other}");
        // The user cannot take them back.
        written.pass((1..=MAX).map(|n| (5 * MAX + n, USER)), |_| true);
        assert_eq!(written.count(|sock| sock > 2 * MAX && sock <= 3 * MAX), 1_000);
        assert!(written.count(|sock| sock > 3 * MAX && sock <= 4 * MAX) >= other - 2);
    }

    #[test]
    fn connection_added_during_a_pass_is_in_the_next() {
        let mut slots = ConnectionSlots::default();
        let mut written = Vec::new();
        let mut begin = |slots: &mut ConnectionSlots| {
            let Ok(()) = slots.begin(|_, chunk| {
                written.push(chunk.socks[0]);
                Ok::<_, Infallible>(())
            });
        };
        begin(&mut slots);
        assert_eq!(slots.add(connection(9, SYSTEM)), None);
        slots.end();
        begin(&mut slots);
        slots.end();
        begin(&mut slots);
        assert_eq!(written, [9, 0], "and gone after the one that did not see it");
    }

    #[test]
    fn listener_is_told_whose_connection_is_left_out() {
        const USER: u64 = 1 << 32 | 1_000;
        let mut slots = ConnectionSlots::default();
        assert!((1..=MAX).all(|sock| slots.add(connection(sock, USER)).is_none()));
        assert_eq!(slots.add(connection(MAX + 1, USER)), Some((1, 1_000)), "he has his share");
        assert_eq!(slots.add(connection(MAX + 2, SYSTEM)), Some((1, 1_000)), "his made room");
        assert_eq!(slots.saw(0, MAX + 2), Some(SYSTEM));
        assert_eq!(slots.saw(0, 1), None);
    }

    #[test]
    fn user_cannot_take_all_that_is_noted_between_passes() {
        let mut slots = ConnectionSlots::default();
        let mut note = |share| {
            (1..=MAX).take_while(|&sock| slots.note(connection(sock, share)).is_none()).count()
        };
        assert_eq!(note(1 << 32 | 1_000), NOTED_MAX / 4 * 3);
        assert_eq!(note(SYSTEM), NOTED_MAX / 4);
    }
}
