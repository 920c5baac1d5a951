//! Connection slots: bounds on the number of connections, in total and per peer.
//!
//! A new connection always gets a slot. If none is free, the connection that has been idle longest
//! is dropped for it: one of the same peer, if that peer has as many as it may. A connection is
//! idle from its last complete request on, or from its beginning, so that sending a byte now and
//! then does not keep it alive.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::counts::DropCounter;

/// Maximum numbers of connections at a time.
#[derive(Debug, Clone, Copy)]
pub struct SlotLimits {
    /// In total.
    pub total: usize,
    /// From one other address.
    pub per_peer: usize,
    /// From one address of this host, which many programs may share.
    pub per_local_peer: usize,
}

/// Slots for connections of one kind.
pub struct Slots {
    limits: SlotLimits,
    drops: DropCounter,
    held: Mutex<HeldSlots>,
}

#[derive(Default)]
struct HeldSlots {
    next_id: u64,
    /// Connections in the order of their last request: the first has been idle longest.
    connections: Vec<SlotEntry>,
}

struct SlotEntry {
    id: u64,
    peer: IpAddr,
    dropped: Arc<Notify>,
}

/// Slot of one connection, which is free again once this is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    id: u64,
}

impl Slots {
    /// Creates free slots.
    pub fn new(limits: SlotLimits, drops: DropCounter) -> Arc<Self> {
        Arc::new(Self { limits, drops, held: Mutex::default() })
    }

    /// Takes a slot for a connection of `peer`. `dropped` is notified if another connection takes
    /// its place later.
    pub fn take(self: &Arc<Self>, peer: IpAddr, is_local: bool, dropped: &Arc<Notify>) -> Slot {
        let per_peer = if is_local { self.limits.per_local_peer } else { self.limits.per_peer };
        let mut held = self.held();
        let is_of_peer = |entry: &SlotEntry| entry.peer == peer;
        if held.connections.iter().filter(|entry| is_of_peer(entry)).count() >= per_peer {
            held.drop_first(is_of_peer);
            self.drops.count("peer_limit");
        } else if held.connections.len() >= self.limits.total {
            held.drop_first(|_| true);
            self.drops.count("slots_full");
        }
        let id = held.next_id;
        held.next_id += 1;
        held.connections.push(SlotEntry { id, peer, dropped: dropped.clone() });
        Slot { slots: self.clone(), id }
    }

    /// Drops the connection that has been idle longest, if there is one.
    pub fn drop_idlest(&self) {
        self.held().drop_first(|_| true);
    }

    fn held(&self) -> MutexGuard<'_, HeldSlots> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldSlots {
    fn drop_first(&mut self, is_match: impl Fn(&SlotEntry) -> bool) {
        if let Some(index) = self.connections.iter().position(is_match) {
            self.connections.remove(index).dropped.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.held().connections.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future as _, net::Ipv4Addr, pin::pin, task::Context};

    use super::*;
    use crate::serve::counts::ServeCounts;

    const LIMITS: SlotLimits = SlotLimits { total: 4, per_peer: 2, per_local_peer: 3 };

    fn slots() -> Arc<Slots> {
        Slots::new(LIMITS, ServeCounts::default().drops("test"))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn was_dropped(dropped: &Notify) -> bool {
        pin!(dropped.notified()).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    /// Takes a slot for each of these peers, and returns the connections that were dropped.
    fn dropped(slots: &Arc<Slots>, peers: &[(u8, bool)]) -> (Vec<usize>, Vec<Slot>) {
        let notifies: Vec<_> = peers.iter().map(|_| Arc::new(Notify::new())).collect();
        let take =
            |(peer, notify): (&(u8, bool), &Arc<Notify>)| slots.take(ip(peer.0), peer.1, notify);
        let held = peers.iter().zip(&notifies).map(take).collect();
        (
            notifies
                .iter()
                .enumerate()
                .filter(|(_, notify)| was_dropped(notify))
                .map(|(at, _)| at)
                .collect(),
            held,
        )
    }

    #[test]
    fn new_connection_replaces_the_longest_idle() {
        let (gone, _held) = dropped(
            &slots(),
            &[(1, false), (2, false), (3, false), (4, false), (5, false), (6, false)],
        );
        assert_eq!(gone, [0, 1]);
    }

    #[test]
    fn peer_at_its_limit_replaces_its_own_connection() {
        let (gone, _held) = dropped(&slots(), &[(2, false), (1, false), (1, false), (1, false)]);
        assert_eq!(gone, [1]);
        let (gone, _held) = dropped(&slots(), &[(1, true), (1, true), (1, true), (1, true)]);
        assert_eq!(gone, [0], "addresses of this host have a higher limit");
    }

    #[test]
    fn dropped_slot_is_free_again() {
        let slots = slots();
        let (_, held) = dropped(&slots, &[(1, false), (2, false), (3, false), (4, false)]);
        drop(held);
        let (gone, _held) = dropped(&slots, &[(1, false), (2, false), (3, false), (4, false)]);
        assert_eq!(gone, [0; 0]);
        slots.drop_idlest();
        assert_eq!(slots.held().connections.len(), 3);
    }
}
