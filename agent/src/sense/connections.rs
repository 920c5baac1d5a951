//! Connections that this host serves, counted by the kernel: what a node that is drained still has
//! to end.
//!
//! Those of each listener in every network namespace that may be entered, accepted or not. A pass
//! asks for every connection there is, so it is for while a node drains, and not for always. What
//! cannot be counted is unknown, and not zero.

use std::io;

use super::{CgroupPaths, Hierarchy, LossCounters, sock_diag::SockDiag};

/// How long owners and namespaces are believed, in seconds; see `listeners.rs`.
const OWNER_REFRESH_SECS: f64 = 10.0;

/// Counts them.
pub struct EstablishedConnections {
    sockets: SockDiag,
    cgroups: CgroupPaths,
    lost: LossCounters,
    refreshed: Option<f64>,
}

impl EstablishedConnections {
    /// Has counted nothing yet.
    pub fn new(hierarchy: Hierarchy) -> Self {
        let cgroups = CgroupPaths::new(hierarchy);
        Self {
            sockets: SockDiag::default(),
            cgroups,
            lost: LossCounters::default(),
            refreshed: None,
        }
    }

    /// How many there are at `now`, in seconds on any monotonic clock. A listener counts whose
    /// owner, a pid and a cgroup, `counts`; `None` is one that is not known.
    ///
    /// # Errors
    ///
    /// Where they cannot all be counted.
    pub fn count(
        &mut self,
        now: f64,
        counts: impl Fn(Option<(u32, &str)>) -> bool,
    ) -> io::Result<u64> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= OWNER_REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        self.sockets.connections(refresh, &self.cgroups, &mut self.lost, counts)
    }
}
