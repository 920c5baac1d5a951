//! Overload detector: finds listeners whose accept queue does not drain, and forecasts when it
//! overflows.
//!
//! A queue that forms and drains is a burst and healthy; one that never drains is an overload
//! however short it is. So, as CoDel does, the rules read how long the oldest connection has
//! waited: a queue is *standing* while that wait is not below `target`. A standing queue is an
//! overload in any of these cases, but never while it is seen to drain:
//!
//! - stuck: the same connection waits at the head and nothing is accepted, for seven tenths of
//!   `sustain`;
//! - near its limit for half of `sustain`;
//! - filling: it grows from sample to sample while connections are accepted all along, and
//!   overflows within a second;
//! - standing for `sustain`, and deeper, or with more accepted meanwhile, than random arrivals at
//!   nine tenths of capacity explain.
//!
//! A queue that is not standing and drops connections again and again has a backlog that is too
//! small. If the oldest wait cannot be read (a sensor without BPF, UNIX listeners), stricter rules
//! read the depth: a quarter of the limit, for twice as long, or full and dropping, or four
//! connections or more that have not become fewer for thrice as long, so that none was accepted.
//! Their claims say so and are less certain. Each claim names the resource that the service is
//! short of, as far as that could be read. An oldest wait that is long proves how long its queue
//! has been standing, so that a standing time may begin before the first sample. Cold start: none
//! but the standing time itself. A gap between samples restarts it and the forecast. A sensor that
//! stops looks like a listener that disappears. Empty queues are never claimed.

mod address;
mod baseline;
mod bottleneck;
pub(super) mod claim;
mod counter;
mod drops;
mod queue;
mod rates;
mod samples;
mod standing_queue;
mod trigger;
mod verdict;

use std::{collections::HashMap, sync::Arc};

use self::address::ListenAddress;
use super::detector::{Context, Detector, DetectorSize, Findings};
use crate::{
    config::{DetectConfig, OverloadConfig},
    sense::{Fact, ListenerFact},
};

/// Maximum number of listeners watched: twice as many as the sensor has room for, so that closed
/// ones, which linger for a few scans, crowd out no new ones.
const LISTENERS_MAX: usize = 16_384;

/// Finds listeners whose accept queue does not drain.
pub(super) struct OverloadDetector {
    config: OverloadConfig,
    addresses: HashMap<(u32, Arc<str>), ListenAddress>,
    sockets: usize,
    untracked_total: u64,
}

impl OverloadDetector {
    /// Creates a detector that watches no listener yet.
    pub(super) fn new(config: &OverloadConfig) -> Self {
        Self { config: config.clone(), addresses: HashMap::new(), sockets: 0, untracked_total: 0 }
    }

    fn listener(&mut self, context: &Context<'_>, fact: &ListenerFact, findings: &mut Findings) {
        let key = (fact.netns, fact.addr.clone());
        if self.sockets >= LISTENERS_MAX
            && !self.addresses.get(&key).is_some_and(|address| address.knows(fact))
        {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        let address = self.addresses.entry(key).or_default();
        let before = address.sockets();
        address.observe(context, fact, &self.config, findings);
        self.sockets += address.sockets() - before;
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let cleared_from = findings.verdicts.len();
        self.addresses.retain(|_, address| {
            findings.verdicts.extend(address.prune(context));
            address.sockets() > 0
        });
        self.sockets = self.addresses.values().map(ListenAddress::sockets).sum();
        // A hash map has no order, but output has.
        findings.verdicts[cleared_from..].sort_by_key(|verdict| verdict.claim.id());
    }
}

impl Detector for OverloadDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => self.prune(context, findings),
            Fact::Listener(fact) => self.listener(context, fact, findings),
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        let is_raised = |address: &&ListenAddress| address.is_raised();
        DetectorSize {
            listeners: self.sockets,
            overloads_raised: self.addresses.values().filter(is_raised).count(),
            untracked_total: self.untracked_total,
            ..DetectorSize::default()
        }
    }

    fn reload(&mut self, config: &DetectConfig) {
        self.config.clone_from(&config.overload);
    }
}

#[cfg(test)]
mod tests;
