//! The overload detector: which listener's accept queue stands, and when it overflows.
//!
//! A queue that forms and drains is a burst and healthy; one that never drains is an overload
//! however short it is. So, as CoDel does, the rules look at how long the connection at the head
//! has waited: a queue stands while that is not below `target`. A queue that stands is an overload
//! on one of these grounds, and none of them while it is seen to drain:
//!
//! - stuck: the same connection waits at the head and nothing is accepted, for seven tenths of
//!   `sustain`;
//! - near its limit for half of `sustain`;
//! - filling: it grows from look to look while connections are accepted all along, and overflows
//!   within a second;
//! - standing for `sustain`, and deeper, or with more accepted meanwhile, than random arrivals at
//!   nine tenths of capacity explain.
//!
//! A queue that does not stand and drops connections again and again has a backlog that is too
//! small. Where head age cannot be seen (a sensor without BPF, UNIX listeners), a stricter rule
//! looks at depth: a quarter of the limit, for twice as long, or full and dropping; its claims say
//! so and are less sure. Each claim names what the service runs short of, as far as that could be
//! read. A head that has waited long proves how long its queue has stood, so that a run may begin
//! before the first look. Cold start: none needed but the run itself. A gap between looks restarts
//! the run and the forecast. Failure: a sensor that stops is a listener that vanishes. It refuses:
//! an empty queue, whatever else is reported about it.

mod address;
mod baseline;
mod bottleneck;
mod claim;
mod counter;
mod drops;
mod queue;
mod rates;
mod samples;
mod standing_queue;
mod trigger;

use std::{collections::HashMap, sync::Arc};

use self::address::ListenAddress;
use super::{Context, Detector, DetectorSize, Findings, verdict::Claim};
use crate::{
    config::OverloadConfig,
    sense::{Fact, ListenerFact},
};

/// Listeners watched at once: twice as many as the sensor has room for, so that those that vanished
/// and linger for a few scans crowd out none that came.
const LISTENERS_MAX: usize = 16_384;

/// Finds listeners whose accept queue stands.
pub struct OverloadDetector {
    config: OverloadConfig,
    addresses: HashMap<(u32, Arc<str>), ListenAddress>,
    sockets: usize,
    untracked_total: u64,
}

impl OverloadDetector {
    /// Watches nothing yet.
    pub fn new(config: &OverloadConfig) -> Self {
        Self { config: config.clone(), addresses: HashMap::new(), sockets: 0, untracked_total: 0 }
    }

    /// Follows other thresholds.
    pub fn reload(&mut self, config: &OverloadConfig) {
        self.config.clone_from(config);
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
        // A hash map has no order; output has one.
        findings.verdicts[cleared_from..].sort_by_key(|verdict| match &verdict.claim {
            Claim::Overload(claim) => (claim.netns, claim.addr.clone()),
            Claim::Leak(_) | Claim::CascadeRisk(_) | Claim::Exhaustion(_) => (0, Arc::from("")),
        });
    }
}

impl Detector for OverloadDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => self.prune(context, findings),
            Fact::Listener(fact) => self.listener(context, fact, findings),
            Fact::Handles(_)
            | Fact::Outbound(_)
            | Fact::Sensing(_)
            | Fact::Process(_)
            | Fact::Exec(_)
            | Fact::Exit(_) => {}
        }
    }

    fn held(&self) -> DetectorSize {
        DetectorSize {
            tracked: self.sockets,
            raised: self.addresses.values().filter(|address| address.is_raised()).count(),
            untracked_total: self.untracked_total,
        }
    }
}

#[cfg(test)]
mod tests;
