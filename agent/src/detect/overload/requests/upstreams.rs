//! Upstreams of services: addresses to which programs of a cgroup connect, and whether they answer.
//!
//! A cgroup may hold several programs, and several network namespaces: a service waits only for
//! what its own program asks for, from where it listens. A program is known by its name, without
//! what a master and its workers add to it to tell each other apart; one without a known name may
//! be any.
//!
//! A service whose requests wait for another is named with it only on evidence: its connects to the
//! other are pending or fail, or requests wait at the other itself, if that is on this host. A pool
//! of connections that stay open shows neither. Bounded by [`CGROUPS_MAX`], [`UPSTREAMS_MAX`] and
//! [`PROGRAMS_MAX`]; the one that was connected to longest ago makes room.

use std::{collections::HashMap, sync::Arc};

use crate::{detect::overload::counter::Counter, sense::OutboundFact};

/// Cgroups that are remembered.
const CGROUPS_MAX: usize = 1_024;

/// Addresses that are remembered of each.
const UPSTREAMS_MAX: usize = 8;

/// Programs that are remembered of each address: more than most services have.
const PROGRAMS_MAX: usize = 4;

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
    callers: Vec<CallingProgram>,
}

/// A program that connects to it.
#[derive(Debug)]
struct CallingProgram {
    program: Arc<str>,
    seen_t: f64,
    trouble_t: Option<f64>,
}

/// Service whose upstreams are asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::detect::overload) struct Service<'a> {
    /// Cgroup of its owner.
    pub(in crate::detect::overload) cgroup: &'a str,
    /// Network namespace that it listens in.
    pub(in crate::detect::overload) netns: u32,
    /// Name of its owner; empty if unknown.
    pub(in crate::detect::overload) comm: &'a str,
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
        let is_trouble = self.failed.rise(Some(failed)) > 0 || waits;
        (self.pending, self.seen_t) = (fact.pending, t);
        // A fact names one of several: the one that waits now, or had the most results.
        let program = program_of(&fact.comm);
        let known = self.callers.iter().position(|caller| *caller.program == *program);
        let place = known.unwrap_or_else(|| {
            if self.callers.len() >= PROGRAMS_MAX {
                self.callers.swap_remove(oldest(&self.callers, |caller| caller.seen_t));
            }
            self.callers.push(CallingProgram {
                program: Arc::from(program),
                seen_t: t,
                trouble_t: None,
            });
            self.callers.len() - 1
        });
        if let Some(caller) = self.callers.get_mut(place) {
            caller.seen_t = t;
            caller.trouble_t = if is_trouble { Some(t) } else { caller.trouble_t };
        }
    }

    /// Callers that are programs of a service.
    fn callers_of(&self, service: Service<'_>) -> impl Iterator<Item = &CallingProgram> {
        let program = program_of(service.comm);
        let is_its = move |caller: &&CallingProgram| {
            program.is_empty() || caller.program.is_empty() || *caller.program == *program
        };
        self.callers.iter().filter(is_its)
    }

    /// Returns whether connects of a service to it were pending or failed lately.
    pub(in crate::detect::overload) fn is_in_trouble(&self, t: f64, service: Service<'_>) -> bool {
        let mut since = self.callers_of(service).filter_map(|caller| caller.trouble_t);
        since.any(|then| t - then <= EVIDENCE_SECS)
    }
}

/// Returns the name of a program without the part of it that a process has: that of `puma: worker`
/// is `puma`.
fn program_of(comm: &str) -> &str {
    comm.split([':', ' ']).next().unwrap_or_default()
}

/// Returns the place of the one that was seen longest ago.
fn oldest<T>(all: &[T], seen_t: impl Fn(&T) -> f64) -> usize {
    let places = all.iter().enumerate();
    places.min_by(|a, b| seen_t(a.1).total_cmp(&seen_t(b.1))).map_or(0, |(place, _)| place)
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
                upstreams.swap_remove(oldest(upstreams, |one| one.seen_t));
            }
            upstreams.push(Upstream {
                netns: fact.netns,
                addr: fact.addr.clone(),
                failed: Counter::default(),
                pending: 0,
                seen_t: t,
                callers: Vec::new(),
            });
            upstreams.len() - 1
        });
        if let Some(upstream) = upstreams.get_mut(place) {
            upstream.take(t, fact);
        }
    }

    /// Returns the upstreams of a service.
    pub(in crate::detect::overload) fn of(
        &self,
        service: Service<'_>,
    ) -> impl Iterator<Item = &Upstream> {
        let of_cgroup = self.cgroups.get(service.cgroup).map_or(&[][..], Vec::as_slice);
        of_cgroup.iter().filter(move |one| {
            one.netns == service.netns && one.callers_of(service).next().is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(port: u16, pending: u32, failed: u64) -> OutboundFact {
        OutboundFact {
            addr: Arc::from(format!("10.0.0.7:{port}")),
            cgroup: Arc::from("/api"),
            comm: Arc::from("api: worker 3"),
            netns: 7,
            pending,
            timed_out_total: failed,
            ..OutboundFact::default()
        }
    }

    const API: Service<'static> = Service { cgroup: "/api", netns: 7, comm: "api: master" };

    #[test]
    fn connects_that_stay_pending_or_fail_are_evidence() {
        let mut upstreams = Upstreams::default();
        let trouble =
            |upstreams: &Upstreams, t| upstreams.of(API).any(|one| one.is_in_trouble(t, API));
        upstreams.observe(0.0, &fact(1, 1, 3));
        assert!(!trouble(&upstreams, 0.0), "once pending is on its way");
        upstreams.observe(1.0, &fact(1, 1, 3));
        assert!(trouble(&upstreams, 1.0) && !trouble(&upstreams, 6.1));
        upstreams.observe(10.0, &fact(1, 0, 4));
        assert!(trouble(&upstreams, 10.0));
        assert!(upstreams.of(Service { cgroup: "/other", ..API }).next().is_none());
    }

    #[test]
    fn programs_of_one_cgroup_are_not_mixed_up() {
        let mut upstreams = Upstreams::default();
        let other = |pending, failed| OutboundFact {
            comm: Arc::from("mailer"),
            ..fact(1, pending, failed)
        };
        let mailer = Service { comm: "mailer", ..API };
        let trouble = |upstreams: &Upstreams, t, service| {
            upstreams.of(service).any(|one| one.is_in_trouble(t, service))
        };
        upstreams.observe(0.0, &fact(1, 0, 0));
        upstreams.observe(1.0, &other(0, 1));
        assert!(trouble(&upstreams, 1.0, mailer));
        assert!(!trouble(&upstreams, 1.0, API), "the mailer's connects failed");
        assert!(trouble(&upstreams, 1.0, Service { comm: "", ..API }), "it may be the mailer");
        upstreams.observe(2.0, &fact(1, 0, 2));
        assert!(trouble(&upstreams, 2.0, API));
        let ports = |upstreams: &Upstreams, service| upstreams.of(service).count();
        upstreams.observe(3.0, &fact(2, 0, 0));
        assert_eq!((ports(&upstreams, API), ports(&upstreams, mailer)), (2, 1));
    }

    #[test]
    fn namespaces_of_one_cgroup_are_not_mixed_up() {
        let mut upstreams = Upstreams::default();
        upstreams.observe(0.0, &OutboundFact { netns: 8, ..fact(1, 0, 1) });
        assert!(upstreams.of(API).next().is_none());
        assert!(upstreams.of(Service { netns: 8, ..API }).next().is_some());
    }

    #[test]
    fn upstreams_are_bounded_and_the_oldest_goes() {
        let mut upstreams = Upstreams::default();
        for port in 0..20 {
            upstreams.observe(f64::from(port), &fact(port, 0, 0));
        }
        let ports: Vec<_> = upstreams.of(API).map(|one| one.addr.to_string()).collect();
        assert_eq!(ports.len(), UPSTREAMS_MAX);
        assert!(ports.contains(&"10.0.0.7:19".to_owned()) && !ports.contains(&"10.0.0.7:0".into()));
        for program in 0..20 {
            let comm = Arc::from(format!("p{program}"));
            upstreams.observe(29.0, &OutboundFact { comm, ..fact(19, 0, 0) });
        }
        assert!(upstreams.cgroups["/api"].iter().all(|one| one.callers.len() <= PROGRAMS_MAX));
        for cgroup in 0..2 * CGROUPS_MAX {
            let cgroup = Arc::from(format!("/{cgroup}"));
            upstreams.observe(30.0, &OutboundFact { cgroup, ..fact(1, 0, 0) });
        }
        assert_eq!(upstreams.cgroups.len(), CGROUPS_MAX);
    }
}
