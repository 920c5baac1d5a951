//! Established connections that this host serves: the work that a draining node may still have to
//! end if its requests are not seen.
//!
//! Counts those of each listener, accepted or not, in every network namespace whose sockets BPF
//! lists or that can be entered. A pass requests every connection on the host, so it is made only
//! while a node drains. A count that fails is unknown, not zero.

use std::{io, sync::Arc};

use super::{
    CgroupPaths, Hierarchy, LossCounters, SocketList,
    sock_diag::{Kinds, SockDiag},
};

/// Time for which owners and namespaces are cached, as in `tcp_listeners`.
const OWNER_REFRESH_SECS: f64 = 10.0;

/// Counts established connections.
pub struct EstablishedConnections {
    sockets: SockDiag,
    cgroups: CgroupPaths,
    lost: LossCounters,
    refreshed: Option<f64>,
}

impl EstablishedConnections {
    /// Creates a counter. Without a list each network namespace is entered.
    pub fn new(hierarchy: Hierarchy, list: Option<Arc<SocketList>>) -> Self {
        let cgroups = CgroupPaths::new(hierarchy);
        Self {
            sockets: SockDiag::of(Kinds::Tcp, list),
            cgroups,
            lost: LossCounters::default(),
            refreshed: None,
        }
    }

    /// Counts the connections of listeners for whose owner, a pid and a cgroup, `counts` returns
    /// true; `None` is an unknown owner. `now` is in seconds on any monotonic clock.
    ///
    /// # Errors
    ///
    /// Returns an error if not all of them can be counted.
    pub fn count(
        &mut self,
        now: f64,
        counts: impl Fn(Option<(u32, &str)>) -> bool,
    ) -> io::Result<u64> {
        let refresh = self.refresh(now);
        self.sockets.connections(refresh, &self.cgroups, &mut self.lost, counts)
    }

    /// Counts the connections at these listeners, each a network namespace and an address as in
    /// [`ListenerFact`](super::ListenerFact). They may have closed meanwhile.
    ///
    /// # Errors
    ///
    /// Returns an error if not all of them can be counted.
    pub fn count_at(&mut self, now: f64, listeners: &[(u32, Arc<str>)]) -> io::Result<u64> {
        let refresh = self.refresh(now);
        self.sockets.connections_at(refresh, &self.cgroups, &mut self.lost, listeners)
    }

    /// Returns whether owners and namespaces are to be found again, from `now` on.
    fn refresh(&mut self, now: f64) -> bool {
        let refresh = self.refreshed.is_none_or(|then| now - then >= OWNER_REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        refresh
    }
}
