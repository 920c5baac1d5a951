//! The connections that a node still serves while it drains, counted at a gentle pace.
//!
//! Who logs in to help, and who reads metrics, is no work that is waited for. Failure: where nobody
//! can count them nobody knows, which is said. Cold start: not counted.

use std::sync::Arc;

use crate::{
    config::Pattern,
    decide::always_protected,
    sense::{EstablishedConnections, Hierarchy, SocketList},
};

/// How often connections are counted while a node drains, in seconds: a pass over all of them,
/// which may be a hundred thousand.
const COUNT_EVERY_SECS: f64 = 2.0;

/// Source of the count.
pub struct ConnectionCount {
    in_flight: EstablishedConnections,
    protected: Vec<Pattern>,
    connections: Option<u64>,
    counted_at: f64,
}

impl ConnectionCount {
    /// Those of everybody but of who is protected.
    pub fn new(protected: &[Pattern], list: Option<Arc<SocketList>>) -> Self {
        let in_flight = EstablishedConnections::new(Hierarchy::detect(), list);
        Self {
            in_flight,
            protected: protected.to_vec(),
            connections: None,
            counted_at: f64::NEG_INFINITY,
        }
    }

    /// Counts them, if they are waited for and it is time for that.
    pub fn look(&mut self, now: f64, counts: bool) {
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
        self.connections = match self.in_flight.count(now, is_work) {
            Ok(connections) => Some(connections),
            Err(error) => {
                tracing::debug!(%error, "connections cannot be counted");
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
            Some(1) => "1 connection is left, and waited for no more".to_owned(),
            Some(more) => format!("{more} connections are left, and waited for no more"),
            None => "how many connections are left cannot be told".to_owned(),
        }
    }
}
