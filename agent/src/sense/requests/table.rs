//! Requests by listening address: the state of the sensor between two passes.
//!
//! Counts of a pass are exact, but a request that came and was answered between two passes leaves
//! one trace however many there were: `answered_total` is a lower bound, by at most one response a
//! connection a pass. Abandoned requests are those whose client had closed or reset the connection
//! when it was seen, with a request in flight; one that the process closed in between is in neither
//! total, since it may have been answered or not. A client that closes only its sending side and
//! waits for the response counts as gone, because the kernel shows no difference.
//!
//! Cold start: the first pass counts nothing as answered or abandoned. Connections are bounded by
//! [`FOLLOWED_MAX`]; beyond that the state of a pass is still exact, unless several processes hold
//! one connection, and the totals miss some. Addresses are bounded by [`ADDRESSES_MAX`], and in
//! time by [`FORGET_SECS`]; a forgotten one begins at 0 again. A quarter of either is for the
//! system, and no other owner gets more than a quarter of the addresses: users cannot hide a
//! service.
//!
//! Which process keeps a request waiting is told by who holds its connection, see `holders`. How
//! long it has been held is counted from the first pass that saw it: a connection that waited for
//! accept() may be old and in good hands. Where processes share an address, or its owner passes its
//! connections on, the holder is searched for at once; elsewhere that is tried now and then.

use std::{
    collections::{BTreeSet, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use foldhash::HashMap;
use spillway_ebpf::{CONNECTIONS_MAX, LISTENERS_MAX};

use super::{
    connection::PeerConnection,
    holders::{HeldConnection, Holders},
    left_out::{LeftOut, ListenerPort},
};
use crate::{
    sense::{RequestsFact, waiting_requests::BusyAddresses},
    spare_room,
};

/// Maximum number of connections that are followed from pass to pass. They take 6 MiB.
pub(super) const FOLLOWED_MAX: usize = CONNECTIONS_MAX as usize;

/// Maximum number of addresses: the known listeners.
const ADDRESSES_MAX: usize = LISTENERS_MAX as usize;

/// Time for which an address is kept without a connection. A guess: longer than a pause between
/// clients that belong together.
const FORGET_SECS: f64 = 600.0;

/// Age from which data came in a tick that is over: two ticks of the longest, 10 ms.
const SETTLED_US: u64 = 20_000;

/// Time for which a process keeps a request waiting until it is worth asking which one that is, in
/// tenths of a second. A guess: few requests take so long, and claims come later.
const HELD_MIN_TENTHS: u32 = 5;

/// Time between two early searches for a holder at an address whose owner seems to answer itself. A
/// guess: a server seldom begins to pass its connections on, and others must not be delayed.
const TRY_OWNER_SECS: f64 = 60.0;

/// Owner that [`spillway_ebpf::share_of`] gives to the system.
pub(super) const SYSTEM: u64 = 0;

/// Network namespace and address of a listener.
pub(super) type ListenerKey = (u32, SocketAddr);

/// Requests at every listening address.
#[derive(Debug, Default)]
pub(super) struct RequestTable {
    addresses: Vec<RequestAddress>,
    /// Places in `addresses`.
    places: HashMap<ListenerKey, usize>,
    /// Listener and place of the last connection: the next one is often its neighbour.
    latest: Option<(ListenerKey, Option<usize>)>,
    /// Number of addresses by owner.
    owners: HashMap<u64, usize>,
    connections: HashMap<u64, KnownConnection>,
    /// Set if connections come from slots, which bound and share their number.
    has_slots: bool,
    /// Number of the current pass, from 1.
    pass: u32,
    /// Start of the current pass.
    now: f64,
    /// Time since the start of the last pass.
    interval_us: u64,
    /// Set after the first pass.
    is_warm: bool,
    /// Number of connections that the current pass could not follow, and their listeners.
    left_out: u64,
    left_out_at: LeftOut,
    holders: Holders,
}

/// A connection when it was last seen.
#[derive(Debug, Clone, Copy)]
struct KnownConnection {
    pass: u32,
    received_bytes: u32,
    sent_tick: u32,
    /// Time of the first pass that saw its request in flight, in tenths of a second.
    since_tenths: u32,
    peer_port: u16,
    is_in_flight: bool,
    /// Set if the tick in which data last came was over.
    is_settled: bool,
    is_left: bool,
}

#[derive(Debug)]
struct RequestAddress {
    listener: ListenerKey,
    /// Owner of the first connection.
    share: u64,
    text: Arc<str>,
    now: RequestCounts,
    /// Set if the last pass saw a connection.
    was_seen: bool,
    answered: u64,
    abandoned: u64,
    /// Time at which a connection was last seen.
    active_t: f64,
    /// Set if another process than its owner held the last connection that was found.
    passes_on: bool,
    /// Connection that was last searched for early although its owner seems to answer itself, and
    /// when that began.
    tried: Option<(u64, f64)>,
}

/// Counts of one pass.
#[derive(Debug, Clone, Copy, Default)]
struct RequestCounts {
    is_seen: bool,
    connections: u32,
    unread: u32,
    in_flight: u32,
    responding: u32,
    oldest_unread_us: Option<u64>,
    oldest_us: Option<u64>,
    youngest_us: Option<u64>,
    held: Option<HeldConnection>,
}

impl RequestTable {
    /// Creates a table of connections that have slots.
    pub(super) fn of_slots() -> Self {
        Self { has_slots: true, ..Self::default() }
    }

    /// Begins a pass at `now`, in seconds on any monotonic clock.
    pub(super) fn begin(&mut self, now: f64) {
        self.interval_us = ((now - self.now).max(0.0) * 1e6) as u64;
        self.now = now;
        self.pass = self.pass.wrapping_add(1);
        self.left_out = 0;
        self.left_out_at = LeftOut::default();
    }

    /// Returns whether a socket was in the last pass.
    pub(super) fn follows(&self, socket: u64) -> bool {
        self.connections.contains_key(&socket)
    }

    /// Processes that hold the connections that were asked for.
    pub(super) fn holders(&mut self) -> &mut Holders {
        &mut self.holders
    }

    /// Number of connections that are followed.
    pub(super) fn followed(&self) -> usize {
        self.connections.len()
    }

    /// Adds a connection that came to a listener. One that is added again in the same pass, because
    /// another process holds it too, is ignored, and false returned.
    pub(super) fn add(
        &mut self,
        listener: ListenerKey,
        share: u64,
        connection: &PeerConnection,
    ) -> bool {
        let Some(place) = self.place(listener, share) else {
            self.left_out += 1;
            self.left_out_at.note(port_of(listener), self.now);
            return true;
        };
        let Self {
            addresses,
            connections,
            has_slots,
            pass,
            now,
            interval_us,
            is_warm,
            left_out,
            left_out_at,
            ..
        } = self;
        let Some(address) = addresses.get_mut(place) else { return true };
        let is_full = !*has_slots && connections.len() >= room_for(share, FOLLOWED_MAX);
        let entry = connections.entry(connection.socket);
        let before = match &entry {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(_) => None,
        };
        if before.is_some_and(|before| before.pass == *pass) {
            return false;
        }
        let before = before.filter(|before| before.peer_port == connection.peer_port);
        let is_in_flight = connection.is_in_flight
            || before.is_some_and(|before| still_waits(&before, connection));
        address.active_t = *now;
        address.now.add(connection, is_in_flight);
        address.now.responding += u32::from(
            !is_in_flight && before.is_some_and(|it| goes_on(&it, connection, *interval_us)),
        );
        if *is_warm {
            address.answered += u64::from(is_answered(before, connection, is_in_flight));
            let was_left = before.is_some_and(|before| before.is_left);
            address.abandoned += u64::from(is_in_flight && connection.is_left && !was_left);
        }
        let now_tenths = (*now * 10.0) as u32;
        let since_tenths = match before.filter(|before| is_held(before, connection, is_in_flight)) {
            Some(before) => before.since_tenths,
            None => now_tenths,
        };
        if is_in_flight {
            address.now.hold(connection, now_tenths, since_tenths);
        }
        let known = KnownConnection {
            pass: *pass,
            received_bytes: connection.received_bytes,
            sent_tick: connection.sent_tick,
            since_tenths,
            peer_port: connection.peer_port,
            is_in_flight,
            is_settled: connection.received_us >= SETTLED_US,
            is_left: connection.is_left,
        };
        match entry {
            Entry::Occupied(mut entry) => drop(entry.insert(known)),
            Entry::Vacant(_) if is_full => {
                *left_out += 1;
                left_out_at.note(port_of(listener), *now);
            }
            Entry::Vacant(entry) => drop(entry.insert(known)),
        }
        true
    }

    /// Listeners some of whose connections the last pass could not follow; `None` if any may be.
    pub(super) fn partial(&self) -> Option<BTreeSet<ListenerPort>> {
        self.left_out_at.partial()
    }

    /// Returns the place of an address, new or not; `None` if there are too many.
    fn place(&mut self, listener: ListenerKey, share: u64) -> Option<usize> {
        if let Some((latest, place)) = self.latest
            && latest == listener
        {
            return place;
        }
        let place = self.places.get(&listener).copied().or_else(|| {
            let own = self.owners.get(&share).copied().unwrap_or(0);
            let is_share_full = share != SYSTEM && own >= ADDRESSES_MAX / 4;
            if is_share_full || self.addresses.len() >= room_for(share, ADDRESSES_MAX) {
                return None;
            }
            self.owners.insert(share, own + 1);
            let place = self.addresses.len();
            self.addresses.push(RequestAddress::new(listener, share));
            self.places.insert(listener, place);
            Some(place)
        });
        self.latest = Some((listener, place));
        place
    }

    /// Ends a pass: forgets connections that are gone, and passes on a fact for each address that
    /// has connections or had some at the last pass. Returns the number of connections, and how
    /// many of them were not followed. `busy` knows the addresses that processes share, and owners.
    pub(super) fn end(
        &mut self,
        busy: &BusyAddresses,
        mut each: impl FnMut(RequestsFact),
    ) -> (usize, u64) {
        let Self {
            addresses,
            places,
            latest,
            owners,
            connections,
            pass,
            now,
            is_warm,
            left_out,
            holders,
            ..
        } = self;
        *is_warm = true;
        holders.begin();
        // One that was refused may find room in the next pass.
        *latest = latest.filter(|(_, place)| place.is_some());
        connections.retain(|_, known| known.pass == *pass);
        spare_room::of_map(connections);
        let (mut seen, before) = (0, addresses.len());
        addresses.retain_mut(|address| {
            let counts = std::mem::take(&mut address.now);
            seen += counts.connections as usize;
            let was_seen = std::mem::replace(&mut address.was_seen, counts.is_seen);
            if counts.is_seen || was_seen {
                let stuck = counts.held.and_then(|held| {
                    let is_urgent = address.is_urgent(&held, *now, busy);
                    let pid = holders.of(&held, is_urgent)?;
                    address.learn(pid, busy);
                    Some((pid, held.held_us()))
                });
                each(address.fact(&counts, stuck));
            }
            *now - address.active_t < FORGET_SECS
        });
        holders.end();
        if addresses.len() < before {
            *latest = None;
            *places = addresses.iter().map(|one| one.listener).zip(0..).collect();
            owners.clear();
            addresses.iter().for_each(|one| *owners.entry(one.share).or_default() += 1);
        }
        (seen, *left_out)
    }
}

fn port_of((netns, addr): ListenerKey) -> ListenerPort {
    (netns, addr.port())
}

/// Returns the part of all room that an owner finds before it is full.
fn room_for(share: u64, all: usize) -> usize {
    if share == SYSTEM { all } else { all / 4 * 3 }
}

/// Returns whether a request that was in flight at the last pass is so still although the times
/// tie: nothing has come since, and a response would be of a later tick.
fn still_waits(before: &KnownConnection, connection: &PeerConnection) -> bool {
    before.is_in_flight
        && before.is_settled
        && before.received_bytes == connection.received_bytes
        && connection.received_us == connection.sent_us
}

/// Returns whether the request that is in flight was so at the last pass: no more has come since,
/// and nothing was sent.
fn is_held(before: &KnownConnection, connection: &PeerConnection, is_in_flight: bool) -> bool {
    is_in_flight
        && before.is_in_flight
        && before.received_bytes == connection.received_bytes
        && before.sent_tick == connection.sent_tick
}

/// Returns whether more of a response was sent since the last pass, to a request from before it.
/// One that was begun and ended in between has a request in between.
fn goes_on(before: &KnownConnection, connection: &PeerConnection, interval_us: u64) -> bool {
    !connection.is_left
        && before.received_bytes == connection.received_bytes
        && connection.sent_us < interval_us
}

/// Returns whether a response has begun since the last pass.
fn is_answered(
    before: Option<KnownConnection>,
    connection: &PeerConnection,
    is_in_flight: bool,
) -> bool {
    match before {
        // Something was sent, and another request may wait already.
        Some(before) if before.is_in_flight => {
            !is_in_flight || before.sent_tick != connection.sent_tick
        }
        // Data that came since then was answered. If nothing came, more of the old response went.
        Some(before) => !is_in_flight && before.received_bytes != connection.received_bytes,
        None => !is_in_flight && connection.received_bytes > 0,
    }
}

impl RequestAddress {
    fn new(listener: ListenerKey, share: u64) -> Self {
        Self {
            listener,
            share,
            text: Arc::from(listener.1.to_string()),
            now: RequestCounts::default(),
            was_seen: false,
            answered: 0,
            abandoned: 0,
            active_t: 0.0,
            passes_on: false,
            tried: None,
        }
    }

    /// Returns whether it matters at once which process holds a connection.
    fn is_urgent(&mut self, held: &HeldConnection, now: f64, busy: &BusyAddresses) -> bool {
        if self.passes_on || busy.is_shared(self.listener.0, &self.text) {
            return true;
        }
        match self.tried {
            Some((socket, since)) if now - since < TRY_OWNER_SECS => socket == held.socket,
            _ => {
                self.tried = Some((held.socket, now));
                true
            }
        }
    }

    /// Learns from the process that holds a connection whether the owner passes connections on.
    fn learn(&mut self, holder: u32, busy: &BusyAddresses) {
        if let Some(owner) = busy.owner(self.listener.0, &self.text) {
            self.passes_on = holder != owner;
        }
    }

    /// Builds the fact of a pass. `stuck` is the process that holds a request for longest.
    fn fact(&self, counts: &RequestCounts, stuck: Option<(u32, u64)>) -> RequestsFact {
        RequestsFact {
            netns: self.listener.0,
            addr: self.text.clone(),
            connections: Some(counts.connections),
            unread: counts.unread,
            in_flight: counts.in_flight,
            responding: counts.responding,
            oldest_unread_us: counts.oldest_unread_us,
            oldest_in_flight_us: counts.oldest_us,
            youngest_in_flight_us: counts.youngest_us,
            answered_total: Some(self.answered),
            abandoned_total: Some(self.abandoned),
            stuck_pid: stuck.map(|(pid, _)| pid),
            stuck_us: stuck.map(|(_, us)| us),
        }
    }
}

impl RequestCounts {
    /// Takes a request that is held since then. One whose client waits comes before one whose
    /// client has gone: that connection may have been forgotten.
    fn hold(&mut self, connection: &PeerConnection, now_tenths: u32, since_tenths: u32) {
        let held_tenths = now_tenths.wrapping_sub(since_tenths);
        if held_tenths < HELD_MIN_TENTHS {
            return;
        }
        let held = HeldConnection {
            has_client: !connection.is_left,
            held_tenths,
            waits_us: connection.received_us,
            socket: connection.socket,
            since_tenths,
        };
        self.held = self.held.max(Some(held));
    }

    fn add(&mut self, connection: &PeerConnection, is_in_flight: bool) {
        self.is_seen = true;
        // Nobody waits for a response on the others.
        if connection.is_left {
            return;
        }
        let age_us = connection.received_us;
        self.connections += 1;
        if connection.is_unread {
            self.unread += 1;
            self.oldest_unread_us = self.oldest_unread_us.max(Some(age_us));
        }
        if is_in_flight {
            self.in_flight += 1;
            self.oldest_us = self.oldest_us.max(Some(age_us));
            self.youngest_us = Some(self.youngest_us.map_or(age_us, |least| least.min(age_us)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: ListenerKey =
        (7, SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80));

    /// A connection on which a request has waited for so long, or was answered so long ago.
    fn waiting(socket: u64, us: u64) -> PeerConnection {
        PeerConnection {
            socket,
            peer_port: socket as u16,
            is_left: false,
            is_unread: false,
            is_in_flight: true,
            received_us: us,
            sent_us: us + 500_000,
            received_bytes: 100,
            sent_tick: 1,
        }
    }

    fn answered(socket: u64, us: u64) -> PeerConnection {
        let waits = waiting(socket, us + 1_000);
        PeerConnection { is_in_flight: false, sent_us: us, sent_tick: 2, ..waits }
    }

    /// Passes a second apart.
    #[derive(Default)]
    struct Passes {
        table: RequestTable,
        t: f64,
    }

    impl Passes {
        fn make(&mut self, connections: &[PeerConnection]) -> RequestsFact {
            self.t += 1.0;
            self.table.begin(self.t);
            for one in connections {
                self.table.add(LISTENER, SYSTEM, one);
            }
            let mut facts = Vec::new();
            self.table.end(&BusyAddresses::default(), |fact| facts.push(fact));
            assert_eq!(facts.len(), 1, "{facts:?}");
            facts.pop().unwrap()
        }

        fn totals(&mut self, connections: &[PeerConnection]) -> (u64, u64) {
            let fact = self.make(connections);
            (fact.answered_total.unwrap(), fact.abandoned_total.unwrap())
        }
    }

    #[test]
    fn counts_and_ages_are_those_of_the_pass() {
        let unread = PeerConnection { is_unread: true, ..waiting(3, 20_000) };
        let fact = Passes::default().make(&[
            waiting(1, 90_000),
            waiting(2, 5_000),
            unread,
            unread,
            answered(4, 70_000),
        ]);
        assert_eq!((fact.netns, &*fact.addr), (7, "127.0.0.1:80"));
        assert_eq!((fact.connections, fact.in_flight, fact.unread), (Some(4), 3, 1));
        assert_eq!(fact.oldest_in_flight_us, Some(90_000));
        assert_eq!(fact.youngest_in_flight_us, Some(5_000));
        assert_eq!(fact.oldest_unread_us, Some(20_000));
        assert_eq!((fact.answered_total, fact.abandoned_total), (Some(0), Some(0)));
    }

    #[test]
    fn address_without_connections_has_one_last_fact() {
        let mut passes = Passes::default();
        passes.make(&[waiting(1, 10)]);
        let fact = passes.make(&[]);
        assert_eq!(
            (fact.connections, fact.in_flight, fact.oldest_in_flight_us),
            (Some(0), 0, None)
        );
        passes.table.begin(3.0);
        passes.table.end(&BusyAddresses::default(), |fact| panic!("{fact:?}"));
        passes.table.begin(3.0 + FORGET_SECS);
        passes.table.end(&BusyAddresses::default(), |fact| panic!("{fact:?}"));
        assert!(passes.table.addresses.is_empty());
    }

    #[test]
    fn response_is_counted_once() {
        let mut passes = Passes::default();
        let next = |received_bytes, one: PeerConnection| PeerConnection { received_bytes, ..one };
        // What was answered before the first pass is not counted.
        assert_eq!(passes.totals(&[waiting(1, 10_000), answered(2, 10_000)]), (0, 0));
        assert_eq!(passes.totals(&[answered(1, 20_000), answered(2, 1_010_000)]), (1, 0));
        assert_eq!(passes.totals(&[answered(1, 1_020_000), answered(2, 2_010_000)]), (1, 0));
        // One was asked and answered in between, the other sends more of its old response.
        assert_eq!(passes.totals(&[next(200, answered(1, 9_000)), answered(2, 3_000)]), (2, 0));
        // The next request waits; then its response has begun and another waits.
        assert_eq!(passes.totals(&[next(300, waiting(1, 600_000))]), (2, 0));
        let another = PeerConnection { sent_tick: 3, ..next(400, waiting(1, 300_000)) };
        assert_eq!(passes.totals(&[another]), (3, 0));
        // An upload that goes on is not answered.
        let upload = PeerConnection { sent_tick: 3, ..next(900, waiting(1, 1_000)) };
        assert_eq!(passes.totals(&[upload]), (3, 0));
        // A connection that is new, and has been answered.
        assert_eq!(passes.totals(&[answered(9, 4_000)]), (4, 0));
    }

    #[test]
    fn response_that_goes_on_is_seen_until_it_ends() {
        let mut passes = Passes::default();
        let next = |received_bytes, one: PeerConnection| PeerConnection { received_bytes, ..one };
        let mut counts = |one: PeerConnection| {
            let fact = passes.make(&[one]);
            (fact.in_flight, fact.responding)
        };
        assert_eq!(counts(waiting(1, 10_000)), (1, 0));
        assert_eq!(counts(answered(1, 300_000)), (0, 1), "it was begun since the last pass");
        assert_eq!(counts(answered(1, 2_000)), (0, 1));
        assert_eq!(counts(answered(1, 1_002_000)), (0, 0), "nothing more was sent");
        // Short responses to requests in between, such as those to health checks.
        assert_eq!(counts(next(200, answered(1, 2_000))), (0, 0));
        assert_eq!(counts(next(300, answered(1, 2_000))), (0, 0));
        assert_eq!(counts(PeerConnection { is_left: true, ..answered(1, 2_000) }), (0, 0));
    }

    #[test]
    fn abandoned_request_is_counted_once_and_not_in_flight() {
        let mut passes = Passes::default();
        let left = |one: PeerConnection| PeerConnection { is_left: true, ..one };
        assert_eq!(passes.totals(&[waiting(1, 10_000), left(waiting(2, 10_000))]), (0, 0));
        let fact = passes.make(&[left(waiting(1, 1_010_000)), left(waiting(2, 1_010_000))]);
        assert_eq!((fact.abandoned_total, fact.in_flight), (Some(1), 0));
        assert_eq!(fact.connections, Some(0));
        let both = [left(waiting(1, 2_010_000)), left(waiting(2, 2_010_000))];
        assert_eq!(passes.totals(&both), (0, 1));
        // A client that closes after its response has abandoned nothing.
        assert_eq!(passes.totals(&[left(answered(3, 10_000))]), (1, 1));
        // Another connection in the same memory.
        let another = PeerConnection { peer_port: 9, ..left(waiting(1, 10_000)) };
        assert_eq!(passes.totals(&[another]), (1, 2));
    }

    #[test]
    fn request_seen_before_still_waits_although_times_tie() {
        let mut passes = Passes::default();
        let tie = |us| PeerConnection { sent_us: us, ..waiting(1, us) };
        let hidden = |us| PeerConnection { is_in_flight: false, ..tie(us) };
        assert_eq!(passes.make(&[tie(30_000)]).in_flight, 1);
        let fact = passes.make(&[hidden(1_030_000)]);
        assert_eq!((fact.in_flight, fact.answered_total), (1, Some(0)));
        // Something was sent: the response.
        let fact = passes.make(&[PeerConnection { sent_us: 5_000, ..hidden(2_030_000) }]);
        assert_eq!((fact.in_flight, fact.answered_total), (0, Some(1)));
        // The response may be of the tick in which the request was seen.
        assert_eq!(passes.make(&[tie(3_000)]).in_flight, 1);
        let fact = passes.make(&[hidden(1_003_000)]);
        assert_eq!((fact.in_flight, fact.answered_total), (0, Some(2)));
    }

    #[test]
    fn holders_are_searched_early_where_connections_are_passed_on() {
        let (mut passes, mut busy) = (Passes::default(), BusyAddresses::default());
        let addr = Arc::from(LISTENER.1.to_string());
        busy.note_owner(LISTENER.0, &addr, 811);
        // Each request is held for a second pass, and the next one comes on another socket.
        let mut asked = |busy: &BusyAddresses, socket: u64, holder: u32| {
            let mut stuck_pid = None;
            let mut was_early = false;
            for us in [900_000, 1_900_000, 2_900_000] {
                passes.t += 1.0;
                passes.table.begin(passes.t);
                passes.table.add(LISTENER, SYSTEM, &waiting(socket, us));
                passes.table.end(busy, |fact| stuck_pid = fact.stuck_pid);
                if passes.table.holders().wants_search() {
                    was_early = true;
                    passes.table.holders().begin_search();
                    passes.table.holders().found(socket, holder);
                }
            }
            (was_early, stuck_pid)
        };
        assert_eq!(asked(&busy, 1, 811), (true, Some(811)), "the first is");
        assert_eq!(asked(&busy, 2, 811), (false, None), "its owner answers itself");
        for socket in 3..=20 {
            asked(&busy, socket, 811);
        }
        assert_eq!(asked(&busy, 21, 815), (true, Some(815)), "it is tried again a minute later");
        assert_eq!(asked(&busy, 22, 816), (true, Some(816)), "it passes connections on");
        busy.begin_scan();
        busy.share(LISTENER.0, &addr);
        assert_eq!(asked(&busy, 23, 817), (true, Some(817)));
        assert_eq!(asked(&busy, 24, 817), (true, Some(817)));
    }

    #[test]
    fn connections_beyond_the_limit_are_counted_but_not_followed() {
        const USER: u64 = 1 << 32 | 1_000;
        let mut table = RequestTable::default();
        for pass in 1..=2 {
            table.begin(f64::from(pass));
            for n in 0..FOLLOWED_MAX as u64 + 5 {
                assert!(table.add(LISTENER, USER, &waiting(n, 1)));
                assert!(n != 0 || !table.add(LISTENER, USER, &waiting(n, 1)), "a repeat");
            }
            let service = FOLLOWED_MAX as u64 + 9;
            assert!(table.add(LISTENER, SYSTEM, &waiting(service, 1)));
            let mut in_flight = 0;
            let ended =
                table.end(&BusyAddresses::default(), |fact| in_flight = fact.in_flight as usize);
            let left_out = FOLLOWED_MAX as u64 / 4 + 5;
            assert_eq!(ended, (FOLLOWED_MAX + 6, left_out));
            let user_port = (LISTENER.0, LISTENER.1.port());
            assert_eq!(table.partial(), Some(BTreeSet::from([user_port])));
            assert_eq!(in_flight, FOLLOWED_MAX + 6);
            assert!(table.follows(service), "the system's quarter is free");
            assert!(table.follows(0) && !table.follows(service - 5));
        }
    }

    #[test]
    fn user_with_many_addresses_leaves_room_for_others() {
        let mut table = RequestTable::default();
        let at = |n: usize| (n as u32, LISTENER.1);
        table.begin(1.0);
        let mut add = |users: std::ops::Range<usize>, share| {
            for n in users {
                table.add(at(n), share, &waiting(n as u64, 1));
            }
            table.addresses.len()
        };
        assert_eq!(add(0..ADDRESSES_MAX, 1 << 32 | 1_000), ADDRESSES_MAX / 4);
        let more = (1..=4).map(|user| {
            let from = user * ADDRESSES_MAX;
            add(from..from + ADDRESSES_MAX, 1 << 32 | (1_000 + user as u64))
        });
        assert_eq!(more.last(), Some(ADDRESSES_MAX / 4 * 3));
        let from = 9 * ADDRESSES_MAX;
        assert_eq!(add(from..from + 10, SYSTEM), ADDRESSES_MAX / 4 * 3 + 10);
        table.end(&BusyAddresses::default(), |_| ());
        table.begin(2.0 + FORGET_SECS);
        table.end(&BusyAddresses::default(), |_| ());
        assert!(table.addresses.is_empty() && table.owners.is_empty());
    }
}
