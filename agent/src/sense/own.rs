//! Sockets of the agent itself, which detectors must not see.
//!
//! A listener is recognised by its network namespace and address rather than by its owner: pids
//! differ between pid namespaces, and no other socket can listen at an address that the agent has
//! bound without SO_REUSEPORT.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use super::{Fact, ListenerFact, OutboundFact, addr::unix_path};

/// Sockets of the agent itself.
#[derive(Debug)]
pub struct OwnSockets {
    netns: u32,
    pid: u32,
    listeners: Vec<(Arc<str>, u32)>,
}

impl OwnSockets {
    /// Describes the sockets of this process, which listens at these addresses.
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let netns = fs::metadata("/proc/self/ns/net").map_or(0, |netns| netns.ino() as u32);
        // Facts carry no scope id: the kernel's socket has none in the fields that sensors read.
        let plain =
            |address: &SocketAddr| SocketAddr::new(address.ip(), address.port()).to_string();
        let listeners = addresses.iter().map(|address| (Arc::from(plain(address)), 0)).collect();
        Self { netns, pid: std::process::id(), listeners }
    }

    /// Adds a UNIX socket at which this process listens.
    pub fn and_unix(mut self, path: &Path) -> Self {
        self.listeners.push((unix_path(path.as_os_str().as_bytes()), 0));
        self
    }

    /// Returns whether a fact is about the agent's own sockets.
    pub(super) fn owns(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::Listener(listener) => self.owns_listener(listener),
            Fact::Outbound(outbound) => self.owns_outbound(outbound),
            Fact::Requests(requests) => self.listens_at(requests.netns, &requests.addr),
            _ => false,
        }
    }

    /// Returns whether a listener is the agent's own; if so, remembers its queue.
    fn owns_listener(&mut self, fact: &ListenerFact) -> bool {
        let own = self
            .listeners
            .iter_mut()
            .find(|(addr, _)| fact.netns == self.netns && *addr == fact.addr);
        own.map(|(_, backlog)| *backlog = fact.backlog).is_some()
    }

    /// Returns whether the agent listens at this address.
    fn listens_at(&self, netns: u32, at: &str) -> bool {
        netns == self.netns && self.listeners.iter().any(|(addr, _)| **addr == *at)
    }

    /// Returns whether connects are the agent's own, such as those of notifications.
    fn owns_outbound(&self, fact: &OutboundFact) -> bool {
        fact.pid == self.pid
    }

    /// Addresses at which the agent listens, and the connections that waited there at the last
    /// scan.
    pub fn backlogs(&self) -> impl Iterator<Item = (&str, u32)> {
        self.listeners.iter().map(|(addr, backlog)| (&**addr, *backlog))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::RequestsFact;

    #[test]
    fn listener_is_recognised_by_namespace_and_address() {
        let mut own = OwnSockets::new(&[
            "127.0.0.1:9646".parse().unwrap(),
            "[fe80::1%2]:9647".parse().unwrap(),
        ]);
        let fact = |netns, addr: &str| ListenerFact {
            netns,
            addr: Arc::from(addr),
            backlog: 7,
            ..ListenerFact::default()
        };
        assert!(own.owns_listener(&fact(own.netns, "127.0.0.1:9646")));
        assert!(own.owns_listener(&fact(own.netns, "[fe80::1]:9647")));
        assert!(!own.owns_listener(&fact(own.netns, "127.0.0.1:9648")));
        assert!(!own.owns_listener(&fact(own.netns, "unix:/run/api.sock")));
        assert!(
            !own.owns_listener(&fact(own.netns.wrapping_add(1), "127.0.0.1:9646")),
            "another container's"
        );
        assert_eq!(
            own.backlogs().collect::<Vec<_>>(),
            [("127.0.0.1:9646", 7), ("[fe80::1]:9647", 7)]
        );
    }

    #[test]
    fn requests_to_the_agent_are_recognised_by_address() {
        let mut own = OwnSockets::new(&["127.0.0.1:9646".parse().unwrap()]);
        let netns = own.netns;
        let mut owns = |netns, addr: &str| {
            let fact = RequestsFact { netns, addr: Arc::from(addr), ..RequestsFact::default() };
            own.owns(&Fact::Requests(fact))
        };
        assert!(owns(netns, "127.0.0.1:9646"));
        assert!(!owns(netns, "127.0.0.1:9647"));
        assert!(!owns(netns.wrapping_add(1), "127.0.0.1:9646"), "another container's");
    }

    #[test]
    fn connects_are_recognised_by_their_process() {
        let own = OwnSockets::new(&[]);
        let fact = |pid| OutboundFact { pid, ..OutboundFact::default() };
        assert!(own.owns_outbound(&fact(std::process::id())));
        assert!(!own.owns_outbound(&fact(std::process::id() + 1)));
        assert!(!own.owns_outbound(&fact(0)));
    }
}
