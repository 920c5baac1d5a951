//! Listeners: the accept queue and the requests of each address.

use std::sync::Arc;

use foldhash::HashMap;

use crate::{
    sense::{Fact, ListenerFact, RequestsFact},
    spare_room,
};

/// Maximum number of listeners.
pub const LISTENERS_MAX: usize = 2_000;

/// Least time over which connections accepted are counted for a pace.
const PACE_SECS: f64 = 5.0;

/// Listeners by network namespace and address.
#[derive(Debug, Default)]
pub struct ListenerTable {
    by_addr: HashMap<(u32, Arc<str>), ListenerState>,
}

#[derive(Debug, Default)]
struct ListenerState {
    /// Latest facts, over all sockets that share the address.
    listener: ListenerFact,
    requests: Option<RequestsFact>,
    backlog: u64,
    backlog_max: u64,
    accepted_total: Option<u64>,
    /// Time and count from which the pace is measured.
    since: Option<(f64, u64)>,
    accepted_per_sec: Option<f64>,
    is_seen: bool,
}

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerRow {
    /// Latest facts; of sockets that share an address, those of the one with the longest wait.
    pub listener: ListenerFact,
    /// Connections that wait, over all sockets of the address.
    pub backlog: u64,
    /// Limits of their queues together.
    pub backlog_max: u64,
    /// Connections accepted per second.
    pub accepted_per_sec: Option<f64>,
    /// Requests; `None` if they are not seen.
    pub requests: Option<RequestsFact>,
}

impl ListenerState {
    fn add(&mut self, fact: &ListenerFact) {
        if !self.is_seen {
            (self.backlog, self.backlog_max, self.accepted_total) = (0, 0, None);
        }
        if !self.is_seen || fact.oldest_wait_us > self.listener.oldest_wait_us {
            self.listener = fact.clone();
        }
        self.backlog += u64::from(fact.backlog);
        self.backlog_max += u64::from(fact.backlog_max);
        self.accepted_total = match (self.accepted_total, fact.accepted_total) {
            (Some(sum), Some(more)) => Some(sum.saturating_add(more)),
            (sum, more) => sum.or(more),
        };
        self.is_seen = true;
    }

    fn measure(&mut self, t: f64) {
        let Some(total) = self.accepted_total else { return };
        let Some((since_t, since)) = self.since else {
            self.since = Some((t, total));
            return;
        };
        if t - since_t >= PACE_SECS {
            // Fewer sockets share the address than before.
            let more = total.checked_sub(since);
            self.accepted_per_sec = more.map(|more| more as f64 / (t - since_t));
            self.since = Some((t, total));
        }
    }

    /// Order: the longest wait for accept() or for a response first, then the most requests.
    fn rank(&self) -> (u64, u64, u64) {
        let requests = self.requests.as_ref();
        let oldest = requests.and_then(|requests| requests.oldest_in_flight_us).unwrap_or(0);
        let wait = self.listener.oldest_wait_us.unwrap_or(0).max(oldest);
        (wait, requests.map_or(0, |requests| requests.in_flight.into()), self.backlog)
    }
}

impl ListenerTable {
    /// Takes a scan of listeners at `t`. Those that are not in it are gone.
    pub fn observe<'a>(&mut self, t: f64, facts: impl Iterator<Item = &'a Fact>) {
        for fact in facts {
            match fact {
                Fact::Listener(fact) => {
                    let key = (fact.netns, fact.addr.clone());
                    if self.by_addr.len() < LISTENERS_MAX || self.by_addr.contains_key(&key) {
                        self.by_addr.entry(key).or_default().add(fact);
                    }
                }
                Fact::Requests(fact) => {
                    if let Some(state) = self.by_addr.get_mut(&(fact.netns, fact.addr.clone())) {
                        state.requests = Some(fact.clone());
                    }
                }
                _ => {}
            }
        }
        self.by_addr.retain(|_, state| {
            state.measure(t);
            std::mem::take(&mut state.is_seen)
        });
        spare_room::of_map(&mut self.by_addr);
    }

    /// Returns the listeners with the longest wait, and the number of all.
    pub fn rows(&self, max: usize) -> (Vec<ListenerRow>, usize) {
        let mut states: Vec<_> = self.by_addr.iter().collect();
        states.sort_by(|(one_addr, one), (other_addr, other)| {
            other.rank().cmp(&one.rank()).then_with(|| one_addr.cmp(other_addr))
        });
        let rows = states.iter().take(max).map(|(_, state)| ListenerRow {
            listener: state.listener.clone(),
            backlog: state.backlog,
            backlog_max: state.backlog_max,
            accepted_per_sec: state.accepted_per_sec,
            requests: state.requests.clone(),
        });
        (rows.collect(), states.len())
    }
}
