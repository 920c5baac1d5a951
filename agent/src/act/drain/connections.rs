//! Connections that a node still serves while it drains.
//!
//! Connections to protected services (a login over ssh) and to the agent itself do not count.
//! Failure: if they cannot be counted, their number is unknown, and reports say so. Cold start: not
//! counted.

use std::sync::Arc;

use crate::{
    config::Pattern,
    decide::always_protected,
    sense::{EstablishedConnections, Hierarchy, SocketList},
};

/// Interval between counts while a node drains, in seconds. A count walks all connections, which
/// may be a hundred thousand.
const COUNT_EVERY_SECS: f64 = 2.0;

/// Source of the count.
pub struct ConnectionCount {
    established: EstablishedConnections,
    protected: Vec<Pattern>,
    connections: Option<u64>,
    counted_at: f64,
}

impl ConnectionCount {
    /// Creates a counter that leaves protected services out.
    pub fn new(protected: &[Pattern], list: Option<Arc<SocketList>>) -> Self {
        let established = EstablishedConnections::new(Hierarchy::detect(), list);
        Self {
            established,
            protected: protected.to_vec(),
            connections: None,
            counted_at: f64::NEG_INFINITY,
        }
    }

    /// Counts them if `counts` is set and the interval has passed.
    pub fn update(&mut self, now: f64, counts: bool) {
        if !counts {
            (self.connections, self.counted_at) = (None, f64::NEG_INFINITY);
            return;
        }
        if now - self.counted_at < COUNT_EVERY_SECS {
            return;
        }
        self.counted_at = now;
        let own = std::process::id();
        let protected = &self.protected;
        let is_work = |owner: Option<(u32, &str)>| {
            owner.is_none_or(|(pid, cgroup)| {
                pid != own
                    && !always_protected()
                        .iter()
                        .chain(protected)
                        .any(|pattern| pattern.covers(cgroup))
            })
        };
        self.connections = match self.established.count(now, is_work) {
            Ok(connections) => Some(connections),
            Err(error) => {
                tracing::debug!(%error, "cannot count connections; draining until the deadline");
                None
            }
        };
    }

    /// Returns the number of connections; `None` if unknown.
    pub fn connections(&self) -> Option<u64> {
        self.connections
    }

    /// Describes the number of connections left.
    pub fn left(&self) -> String {
        match self.connections {
            Some(0) => "no connection is left".to_owned(),
            Some(1) => "1 connection is left, and the drain no longer waits for it".to_owned(),
            Some(more) => {
                format!("{more} connections are left, and the drain no longer waits for them")
            }
            None => "the number of connections left is unknown".to_owned(),
        }
    }
}
