//! Upstreams of workloads: addresses to which a cgroup connects, and whether they answer.
//!
//! A service whose requests wait for another is named with it only on evidence: its connects to the
//! other are pending or fail, or requests wait at the other itself, if that is on this host. A pool
//! of connections that stay open shows neither. Bounded by [`CGROUPS_MAX`] and [`UPSTREAMS_MAX`];
//! the one that was connected to longest ago makes room.

use std::{collections::HashMap, sync::Arc};

use crate::{detect::overload::counter::Counter, sense::OutboundFact};

/// Cgroups that are remembered.
const CGROUPS_MAX: usize = 1_024;

/// Addresses that are remembered of each.
const UPSTREAMS_MAX: usize = 8;

/// Time for which pending or failed connects are evidence: facts about them come once a second.
const EVIDENCE_SECS: f64 = 5.0;

/// An address that a workload connects to.
#[derive(Debug)]
pub(in crate::detect::overload) struct Upstream {
    /// Inode number of the network namespace that it is in, as seen from the workload.
    pub(in crate::detect::overload) netns: u32,
    /// Address and port.
    pub(in crate::detect::overload) addr: Arc<str>,
    failed: Counter,
    pending: u32,
    seen_t: f64,
    trouble_t: Option<f64>,
}

/// Upstreams of all workloads.
#[derive(Debug, Default)]
pub(in crate::detect::overload) struct Upstreams {
    cgroups: HashMap<Arc<str>, Vec<Upstream>>,
}

impl Upstream {
    fn take(&mut self, t: f64, fact: &OutboundFact) {
        let failed = fact
            .refused_total
            .saturating_add(fact.timed_out_total)
            .saturating_add(fact.abandoned_total);
        // A connect to another host is pending for a moment; in two facts in a row it waits.
        let waits = fact.pending > 0 && self.pending > 0;
        if self.failed.rise(Some(failed)) > 0 || waits {
            self.trouble_t = Some(t);
        }
        (self.pending, self.seen_t) = (fact.pending, t);
    }

    /// Returns whether connects to it were pending or failed lately.
    pub(in crate::detect::overload) fn is_in_trouble(&self, t: f64) -> bool {
        self.trouble_t.is_some_and(|then| t - then <= EVIDENCE_SECS)
    }
}

impl Upstreams {
    /// Takes the connects of a workload to one address.
    pub(in crate::detect::overload) fn observe(&mut self, t: f64, fact: &OutboundFact) {
        if fact.cgroup.is_empty()
            || (self.cgroups.len() >= CGROUPS_MAX && !self.cgroups.contains_key(&fact.cgroup))
        {
            return;
        }
        let upstreams = self.cgroups.entry(fact.cgroup.clone()).or_default();
        let known =
            upstreams.iter().position(|one| one.netns == fact.netns && one.addr == fact.addr);
        let place = known.unwrap_or_else(|| {
            if upstreams.len() >= UPSTREAMS_MAX {
                let oldest = upstreams
                    .iter()
                    .enumerate()
                    .min_by(|a, b| a.1.seen_t.total_cmp(&b.1.seen_t))
                    .map_or(0, |(place, _)| place);
                upstreams.swap_remove(oldest);
            }
            upstreams.push(Upstream {
                netns: fact.netns,
                addr: fact.addr.clone(),
                failed: Counter::default(),
                pending: 0,
                seen_t: t,
                trouble_t: None,
            });
            upstreams.len() - 1
        });
        if let Some(upstream) = upstreams.get_mut(place) {
            upstream.take(t, fact);
        }
    }

    /// Returns the upstreams of a workload.
    pub(in crate::detect::overload) fn of(&self, cgroup: &str) -> &[Upstream] {
        self.cgroups.get(cgroup).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(port: u16, pending: u32, failed: u64) -> OutboundFact {
        OutboundFact {
            addr: Arc::from(format!("10.0.0.7:{port}")),
            cgroup: Arc::from("/api"),
            pending,
            timed_out_total: failed,
            ..OutboundFact::default()
        }
    }

    #[test]
    fn connects_that_stay_pending_or_fail_are_evidence() {
        let mut upstreams = Upstreams::default();
        let trouble = |upstreams: &Upstreams, t| upstreams.of("/api")[0].is_in_trouble(t);
        upstreams.observe(0.0, &fact(1, 1, 3));
        assert!(!trouble(&upstreams, 0.0), "once pending is on its way");
        upstreams.observe(1.0, &fact(1, 1, 3));
        assert!(trouble(&upstreams, 1.0) && !trouble(&upstreams, 6.1));
        upstreams.observe(10.0, &fact(1, 0, 4));
        assert!(trouble(&upstreams, 10.0));
        assert!(upstreams.of("/other").is_empty());
    }

    #[test]
    fn upstreams_are_bounded_and_the_oldest_goes() {
        let mut upstreams = Upstreams::default();
        for port in 0..20 {
            upstreams.observe(f64::from(port), &fact(port, 0, 0));
        }
        let ports: Vec<_> = upstreams.of("/api").iter().map(|one| one.addr.to_string()).collect();
        assert_eq!(ports.len(), UPSTREAMS_MAX);
        assert!(ports.contains(&"10.0.0.7:19".to_owned()) && !ports.contains(&"10.0.0.7:0".into()));
        for cgroup in 0..2 * CGROUPS_MAX {
            let cgroup = Arc::from(format!("/{cgroup}"));
            upstreams.observe(30.0, &OutboundFact { cgroup, ..fact(1, 0, 0) });
        }
        assert_eq!(upstreams.cgroups.len(), CGROUPS_MAX);
    }
}
