//! Requests that the node's services have not answered yet: the work that a drain waits for.
//!
//! The services are the listeners that the operator lists; without a list, or if nothing on the
//! host matches it, every TCP listener that is not protected. Requests are sampled by passes over
//! connections, so zero is only as good as the pass that found it: see [`RequestsLeft::pass_t`].
//! An address without a fact in a complete pass has no connection, and idle connections are no
//! work. Connections that wait for accept() are, since none of their requests can be seen, and so
//! are responses that go on, such as downloads.
//!
//! Unknown is never zero: UNIX listeners, listeners that passes do not reach or of whose
//! connections they leave some out, and those that closed with requests in flight are named in
//! [`RequestsLeft::unseen`], and all are without a recent
//! pass. Of several requests on one connection (HTTP/2) only the newest is seen. Pure; time is an
//! argument. Cold start: nothing is known until the first complete pass.

use std::sync::Arc;

use foldhash::HashMap;

use super::{Services, always_protected};
use crate::{
    config::Pattern,
    sense::{CompletePass, Fact, ListenerFact, RequestsFact},
    spare_room,
};

/// Age from which a pass says nothing about the present, and the same as a multiple of the time
/// between two passes, which rest longer on a host with more connections.
const STALE_SECS: f64 = 5.0;
const STALE_INTERVALS: f64 = 3.0;

/// Time for which a listener that is not in every scan is still there: those that found no room in
/// the kernel's map are read at times.
const SCANNED_WITHIN_SECS: f64 = 15.0;

/// Time for which a listener is remembered that has closed.
const FORGET_SECS: f64 = 600.0;

/// Maximum number of cgroups whose sockets share an address. A guess: more than one is rare.
const CGROUPS_MAX: usize = 8;

/// Maximum number of addresses: as many as detectors watch.
const ADDRESSES_MAX: usize = 16_384;

/// Time without being seen after which a listener has closed: longer than the agent rests between
/// two scans of thousands.
const CLOSED_SECS: f64 = 30.0;

/// Maximum number of closed listeners that are remembered: those that answered requests first, then
/// those that closed last. A guess at what a node's services have. What each of them takes of a
/// flood keeps a page or two of it.
const CLOSED_MAX: usize = 64;

const UNIX: &str = "unix:";

/// Network namespace and address of a listener.
pub type ListenerPlace = (u32, Arc<str>);

/// Requests and queues of every listener, as last seen.
#[derive(Default)]
pub struct ServiceRequests {
    addresses: HashMap<ListenerPlace, ServiceAddress>,
    scan: ListenerScan,
    pass: Option<CompletePass>,
    /// Time between the last two complete passes.
    interval_secs: f64,
    /// Set if a listener found no room here.
    is_full: bool,
}

/// Latest scan of listeners.
#[derive(Clone, Copy, Default)]
struct ListenerScan {
    t: f64,
    /// Set if the kernel has a map of listeners, which may lack some. Otherwise each scan has all.
    has_map: bool,
}

/// Listeners of one address: several sockets may share it.
#[derive(Default)]
struct ServiceAddress {
    /// Time of the latest scan that had it; `None` if only requests at it were seen.
    seen_t: Option<f64>,
    /// Cgroups of the owners, empty if unknown.
    cgroups: Vec<Arc<str>>,
    waiting: u64,
    /// Set if the kernel's map has all of them, so that BPF finds their connections.
    is_in_map: bool,
    requests: Option<AddressRequests>,
    /// Responses so far, and the sensor's total at the last fact.
    answered: u64,
    answered_total: Option<u64>,
}

#[derive(Clone, Copy)]
struct AddressRequests {
    t: f64,
    in_flight: u32,
    responding: u32,
    connections: u32,
}

/// Work that the node's services have left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestsLeft {
    /// Begin of the latest complete pass over connections; `None` if there is no recent one.
    pub pass_t: Option<f64>,
    /// Time until which it is recent.
    pub valid_until: f64,
    /// Requests in flight that were seen.
    pub in_flight: u64,
    /// Responses that go on.
    pub responding: u64,
    /// Connections that wait for accept().
    pub waiting: u64,
    /// Connections on which requests were looked for.
    pub connections: u64,
    /// Listeners whose requests are unknown.
    pub unseen: Vec<ListenerPlace>,
    /// Responses of the services that the operator lists, since each was first seen; `None` without
    /// a list, or if no response was seen. Falls when a service is forgotten.
    pub answered_total: Option<u64>,
}

impl ServiceRequests {
    /// Takes a fact, made at `t`. Only those about listeners and requests matter; of one read,
    /// those about listeners come first.
    pub fn observe(&mut self, t: f64, fact: &Fact) {
        match fact {
            Fact::Listener(fact) => self.listener(t, fact),
            Fact::Requests(fact) => self.requests(t, fact),
            Fact::Host(_) => self.forget(t),
            _ => {}
        }
    }

    fn listener(&mut self, t: f64, fact: &ListenerFact) {
        self.scan.t = t;
        self.scan.has_map |= fact.arrived_total.is_some();
        let Some(address) = self.address(fact.netns, &fact.addr) else { return };
        if address.seen_t.replace(t) != Some(t) {
            (address.waiting, address.is_in_map) = (0, true);
            address.cgroups.clear();
        }
        address.waiting += u64::from(fact.backlog);
        address.is_in_map &= fact.arrived_total.is_some();
        if address.cgroups.len() < CGROUPS_MAX && !address.cgroups.contains(&fact.cgroup) {
            address.cgroups.push(fact.cgroup.clone());
        }
    }

    fn requests(&mut self, t: f64, fact: &RequestsFact) {
        let scan = self.scan;
        let requests = AddressRequests {
            t,
            in_flight: fact.in_flight.max(fact.unread),
            responding: fact.responding,
            connections: fact.connections.unwrap_or(0),
        };
        let Some(address) = self.address(fact.netns, &fact.addr) else { return };
        if let Some(total) = fact.answered_total {
            let before = address.answered_total.replace(total).unwrap_or(total);
            // A total that fell counts anew.
            address.answered += total.saturating_sub(before);
        }
        // The connections of a listener that has closed are not seen any more: none is not zero.
        if address.is_open(scan) || requests.in_flight > 0 {
            address.requests = Some(requests);
        }
    }

    fn address(&mut self, netns: u32, addr: &Arc<str>) -> Option<&mut ServiceAddress> {
        let place = (netns, addr.clone());
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&place) {
            self.is_full = true;
            return None;
        }
        Some(self.addresses.entry(place).or_default())
    }

    /// Takes a pass over connections that was complete, after its facts.
    pub fn note_pass(&mut self, pass: CompletePass) {
        let last_t = self.pass.as_ref().map_or(pass.t, |last| last.t);
        if pass.t <= last_t && self.pass.is_some() {
            return;
        }
        self.interval_secs = pass.t - last_t;
        for address in self.addresses.values_mut() {
            if address.is_open(self.scan)
                && address.requests.is_some_and(|requests| requests.t < pass.t)
            {
                address.requests = None;
            }
        }
        self.pass = Some(pass);
    }

    /// Counts the work of the node's services at `now`. `protected` are the operator's.
    pub fn left(&self, now: f64, services: &Services, protected: &[Pattern]) -> RequestsLeft {
        let stale_secs = STALE_SECS.max(STALE_INTERVALS * self.interval_secs);
        let pass = self.pass.as_ref().filter(|pass| now - pass.t <= stale_secs && !self.is_full);
        let valid_until = pass.map_or(now, |pass| pass.t + stale_secs);
        let pass_t = pass.map(|pass| pass.began);
        let mut left = RequestsLeft { pass_t, valid_until, ..RequestsLeft::default() };
        let (counted, are_listed) = self.counted(services, protected);
        for (place, address) in counted {
            self.add(&mut left, pass, place, address);
            if are_listed && address.answered_total.is_some() {
                *left.answered_total.get_or_insert(0) += address.answered;
            }
        }
        left.unseen.sort_unstable();
        left
    }

    /// Adds the work at one address.
    fn add(
        &self,
        left: &mut RequestsLeft,
        pass: Option<&CompletePass>,
        place: &ListenerPlace,
        address: &ServiceAddress,
    ) {
        let requests = address.requests;
        let is_open = address.is_open(self.scan);
        if !is_open && requests.is_none_or(|it| it.in_flight == 0 && it.responding == 0) {
            return;
        }
        if is_open {
            left.waiting += address.waiting;
        }
        let is_seen = is_open
            && !place.1.starts_with(UNIX)
            && pass.is_some_and(|pass| {
                address.is_reached(place, pass)
                    && requests.is_none_or(|requests| requests.t == pass.t)
            });
        if is_seen {
            let Some(requests) = requests else { return };
            left.in_flight += u64::from(requests.in_flight);
            left.responding += u64::from(requests.responding);
            left.connections += u64::from(requests.connections);
        } else {
            left.unseen.push(place.clone());
        }
    }

    /// Addresses of the node's services, and whether the operator's list names them.
    fn counted<'a>(
        &'a self,
        services: &Services,
        protected: &[Pattern],
    ) -> (Vec<(&'a ListenerPlace, &'a ServiceAddress)>, bool) {
        let covers = |patterns: &[Pattern], cgroup: &str| {
            patterns.iter().any(|pattern| pattern.covers(cgroup))
        };
        let all = || self.addresses.iter();
        let is_listed = |(place, address): &(&ListenerPlace, &ServiceAddress)| {
            address.cgroups().any(|cgroup| {
                services.lists(place.0, &place.1, cgroup) && !covers(always_protected(), cgroup)
            })
        };
        let listed: Vec<_> = match services.has_list() {
            true => all().filter(is_listed).collect(),
            false => Vec::new(),
        };
        if !listed.is_empty() {
            return (listed, true);
        }
        let is_work = |(place, address): &(&ListenerPlace, &ServiceAddress)| {
            !place.1.starts_with(UNIX)
                && address
                    .cgroups()
                    .any(|cgroup| !covers(always_protected(), cgroup) && !covers(protected, cgroup))
        };
        (all().filter(is_work).collect(), false)
    }

    fn forget(&mut self, t: f64) {
        let is_recent = |seen_t: f64| t - seen_t <= FORGET_SECS;
        self.addresses.retain(|_, address| {
            address.seen_t.is_some_and(is_recent)
                || address.requests.is_some_and(|requests| is_recent(requests.t))
        });
        self.forget_closed(t);
        self.is_full &= self.addresses.len() >= ADDRESSES_MAX;
    }

    /// Forgets all but so many of those that have closed.
    fn forget_closed(&mut self, t: f64) {
        let closed = || self.addresses.values().filter(|address| address.has_closed(t));
        let spare = closed().count().saturating_sub(CLOSED_MAX);
        if spare == 0 {
            return;
        }
        let mut ranks: Vec<_> = closed().map(ServiceAddress::rank).collect();
        let (_, least, _) = ranks.select_nth_unstable(spare);
        let least = *least;
        let mut room = CLOSED_MAX - ranks.iter().filter(|rank| **rank > least).count();
        self.addresses.retain(|_, address| {
            if !address.has_closed(t) {
                return true;
            }
            let rank = address.rank();
            let is_kept = rank > least || (rank == least && room > 0);
            room -= usize::from(is_kept && rank == least);
            is_kept
        });
        spare_room::of_map(&mut self.addresses);
    }
}

impl ServiceAddress {
    /// Returns whether something listens there, as of the latest scan. An address at which only
    /// requests were seen has a listener that no scan finds.
    fn is_open(&self, scan: ListenerScan) -> bool {
        let is_in_every_scan = self.is_in_map || !scan.has_map;
        let within_secs = if is_in_every_scan { 0.0 } else { SCANNED_WITHIN_SECS };
        self.seen_t.is_none_or(|seen_t| scan.t - seen_t <= within_secs)
    }

    /// Returns whether it has closed for certain by `t`, however long the agent rests between two
    /// scans, and has no work left.
    fn has_closed(&self, t: f64) -> bool {
        let has_work =
            |requests: AddressRequests| requests.in_flight > 0 || requests.responding > 0;
        self.seen_t.is_some_and(|seen_t| t - seen_t > CLOSED_SECS)
            && !self.requests.is_some_and(has_work)
    }

    /// Order in which closed ones are kept, the highest first.
    fn rank(&self) -> (bool, u64) {
        // Times are positive, so that their bits are in the same order.
        (self.answered_total.is_some(), self.seen_t.unwrap_or(0.0).max(0.0).to_bits())
    }

    /// Returns whether a pass reached all of its connections.
    fn is_reached(&self, (netns, addr): &ListenerPlace, pass: &CompletePass) -> bool {
        let port = || addr.rsplit(':').next().and_then(|port| port.parse().ok());
        if !pass.partial.is_empty()
            && port().is_none_or(|port| pass.partial.contains(&(*netns, port)))
        {
            return false;
        }
        match &pass.namespaces {
            Some(namespaces) => namespaces.contains(netns),
            None => self.is_in_map || self.seen_t.is_none(),
        }
    }

    /// Cgroups of the owners; one that is empty if the owner is unknown.
    fn cgroups(&self) -> impl Iterator<Item = &str> {
        let unknown = self.cgroups.is_empty().then_some("");
        self.cgroups.iter().map(|cgroup| &**cgroup).chain(unknown)
    }
}

#[cfg(test)]
mod tests;
