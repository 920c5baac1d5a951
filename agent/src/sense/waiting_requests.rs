//! Addresses at which requests wait, as the last pass over connections saw them: their services are
//! examined like those at whose queue connections wait. And their owners, and addresses whose
//! connections several processes take, as the last scan of listeners saw them: it matters which
//! process is slow.
//!
//! A pass says of each address that has connections, or had some at the pass before, whether
//! requests wait there. So an address is remembered until a pass says otherwise, and there are no
//! more than the sensor of requests follows.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::RequestsFact;

/// Age of a request from which its service is examined. A guess: answers of healthy services mostly
/// take less, and overloads last much longer.
const WAITS_MIN_US: u64 = 100_000;

/// Addresses at which requests wait, and those that processes share, by network namespace.
#[derive(Debug, Default)]
pub(super) struct BusyAddresses {
    addresses: HashSet<(u32, Arc<str>)>,
    shared: HashSet<(u32, Arc<str>)>,
    owners: HashMap<(u32, Arc<str>), u32>,
}

impl BusyAddresses {
    /// Takes what a pass saw.
    pub(super) fn take(&mut self, fact: &RequestsFact) {
        let oldest_us = fact.oldest_in_flight_us.max(fact.oldest_unread_us);
        let address = (fact.netns, fact.addr.clone());
        if oldest_us.is_some_and(|us| us >= WAITS_MIN_US) {
            self.addresses.insert(address);
        } else if !self.addresses.is_empty() {
            self.addresses.remove(&address);
        }
    }

    /// Forgets owners and which addresses processes share: the scan of listeners that begins finds
    /// them anew.
    pub(super) fn begin_scan(&mut self) {
        self.shared.clear();
        self.owners.clear();
    }

    /// Notes that several processes take the connections of an address. There are no more of these
    /// than listeners.
    pub(super) fn share(&mut self, netns: u32, addr: &Arc<str>) {
        self.shared.insert((netns, addr.clone()));
    }

    /// Returns whether several processes take the connections of an address.
    pub(super) fn is_shared(&self, netns: u32, addr: &Arc<str>) -> bool {
        !self.shared.is_empty() && self.shared.contains(&(netns, addr.clone()))
    }

    /// Notes the owner of a listener at whose address requests wait.
    pub(super) fn note_owner(&mut self, netns: u32, addr: &Arc<str>, pid: u32) {
        self.owners.insert((netns, addr.clone()), pid);
    }

    /// Returns the owner of the listener at an address at which requests wait, if it is known.
    pub(super) fn owner(&self, netns: u32, addr: &Arc<str>) -> Option<u32> {
        self.owners.get(&(netns, addr.clone())).copied()
    }

    /// Returns whether requests wait at an address.
    pub(super) fn wait_at(&self, netns: u32, addr: &Arc<str>) -> bool {
        !self.addresses.is_empty() && self.addresses.contains(&(netns, addr.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_counts_until_no_request_has_waited_long() {
        let mut waiting = BusyAddresses::default();
        let addr: Arc<str> = Arc::from("127.0.0.1:80");
        let fact = |us| RequestsFact {
            netns: 7,
            addr: addr.clone(),
            oldest_in_flight_us: us,
            ..RequestsFact::default()
        };
        waiting.take(&fact(Some(WAITS_MIN_US - 1)));
        assert!(!waiting.wait_at(7, &addr));
        waiting.take(&fact(Some(WAITS_MIN_US)));
        assert!(waiting.wait_at(7, &addr) && !waiting.wait_at(8, &addr));
        waiting.take(&fact(None));
        assert!(!waiting.wait_at(7, &addr));
        let unread = RequestsFact { oldest_unread_us: Some(WAITS_MIN_US), ..fact(None) };
        waiting.take(&unread);
        assert!(waiting.wait_at(7, &addr));
    }
}
