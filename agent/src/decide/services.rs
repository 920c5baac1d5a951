//! Registry of services: the workloads whose trouble concerns a person, because an operator listed
//! them or because others have used them for minutes.
//!
//! Any user can open a socket and let connections wait at it, so the behaviour of a listener proves
//! nothing; that others use it does. A listener is proven once connections arrived at it in
//! [`PROVEN_MINUTES`] different minutes from other hosts, or from another unit of this one. A
//! user's session is never proven, and neither is a network namespace other than the host's and the
//! pods': its owner may have made its clients too. Pure; time is an argument. Cold start: nothing
//! is proven. Bounded by [`LISTENERS_MAX`]. Connections from before the first reading do not count.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};

use super::tenant::Tenant;
use crate::{
    config::ServicePattern,
    detect::{Importance, Verdict},
    sense::{Fact, ListenerFact, OutboundFact},
    spare_room,
};

/// Different minutes in which others must have connected. A guess: an attacker would have to keep
/// it up for as long.
const PROVEN_MINUTES: u32 = 3;

/// Time between two readings of a listener's counters. Minutes are counted, so tenths of a second
/// need not be read.
const READ_EVERY_SECS: f64 = 1.0;

/// Time for which a closed listener keeps its proof: a service that restarts is still a service.
const KEPT_SECS: f64 = 3_600.0;

/// Time for which one keeps its place that nobody was seen to use: longer than the agent rests
/// between two scans of thousands of listeners.
const UNUSED_KEPT_SECS: f64 = 30.0;

/// Listeners remembered at once: as many as detectors watch.
const LISTENERS_MAX: usize = 16_384;

/// Local clients remembered for each listener.
const CLIENTS_MAX: usize = 8;

/// Standing of a workload as a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceStanding {
    /// Listed by the operator with this pattern.
    Named(String),
    /// Used by others in so many different minutes.
    Proven(u32),
    /// Neither.
    Unproven(Tenant),
}

impl ServiceStanding {
    /// Whether it may cause a critical page or a drain.
    pub fn is_service(&self) -> bool {
        !matches!(self, Self::Unproven(_))
    }

    /// Importance of the workload, with the reason in words.
    pub(super) fn importance(&self) -> Importance {
        let (is_administered, reason) = match self {
            Self::Named(pattern) => {
                (true, format!("decide.services lists it as a service ({pattern})"))
            }
            Self::Proven(minutes) => {
                (true, format!("others have used it as a service in {minutes} different minutes"))
            }
            Self::Unproven(tenant) => {
                let reason = "it is not known to be a service: no other host or unit has used it \
                              for minutes, and decide.services does not list it";
                (tenant.is_set_up_by_root(), reason.to_owned())
            }
        };
        Importance { is_service: self.is_service(), is_administered, reason }
    }
}

/// Registry of services.
pub struct Services {
    patterns: Vec<ServicePattern>,
    /// Uids of the pods that the operator's pod patterns match, each with its pattern.
    named_pods: BTreeMap<String, String>,
    /// Network namespaces of the host; empty if unknown, as in a trace.
    host_netns: Vec<u32>,
    listeners: HashMap<(u32, Arc<str>), Proof>,
    /// Tenant of the latest new listener, with its cgroup: many new ones are of one.
    latest: (Arc<str>, Tenant),
    /// Tenants with a proven listener: minutes in which it was used, and when that was last
    /// confirmed.
    tenants: BTreeMap<Tenant, (u32, f64)>,
    read_t: f64,
}

/// Evidence for one listener.
#[derive(Debug)]
struct Proof {
    tenant: Tenant,
    /// Cgroup of that tenant in which its owner was last seen.
    cgroup: Arc<str>,
    /// Socket whose counter is followed, and the counter's last value: sockets that share an
    /// address count separately.
    last: (u64, u64),
    /// Connections of local clients, by cgroup.
    clients: Vec<(Arc<str>, u64)>,
    minute: i64,
    minutes: u32,
    seen_t: f64,
}

impl Services {
    /// Creates a registry of the services that the operator listed; none is proven.
    pub fn new(patterns: &[ServicePattern]) -> Self {
        Self {
            patterns: patterns.to_vec(),
            named_pods: BTreeMap::new(),
            host_netns: Vec::new(),
            listeners: HashMap::new(),
            latest: (Arc::from(""), Tenant::Shared),
            tenants: BTreeMap::new(),
            read_t: f64::NEG_INFINITY,
        }
    }

    /// Takes another list from the operator.
    pub fn reload(&mut self, patterns: &[ServicePattern]) {
        self.patterns = patterns.to_vec();
    }

    /// Sets the inode numbers of the network namespaces that the host's own services may be in.
    pub fn set_host_netns(&mut self, netns: Vec<u32>) {
        self.host_netns = netns;
    }

    /// Sets the pods that the operator's pod patterns match: their uids, each with the pattern.
    pub fn name_pods(&mut self, pods: BTreeMap<String, String>) {
        self.named_pods = pods;
    }

    /// Takes a fact. Only facts about listeners and connects matter.
    pub fn observe(&mut self, t: f64, fact: &Fact) {
        match fact {
            Fact::Listener(fact) => self.listener(t, fact),
            Fact::Outbound(fact) => self.outbound(t, fact),
            Fact::Host(_) => self.forget(t),
            _ => {}
        }
    }

    /// Returns the standing of the workload that a verdict is about.
    pub fn standing(&self, verdict: &Verdict) -> ServiceStanding {
        let cgroup = verdict.claim.cgroup();
        let tenant = Tenant::of(cgroup);
        let listener = verdict.claim.listener();
        let of = listener.map(|(netns, addr)| (netns, &**addr));
        if let Some(pattern) = self.pattern_of(cgroup, &tenant, of) {
            return ServiceStanding::Named(pattern);
        }
        let minutes = match listener {
            Some((netns, addr)) => {
                let proof = self
                    .listeners
                    .get(&(netns, addr.clone()))
                    .filter(|proof| proof.tenant == tenant);
                proof.map_or(0, |proof| proof.minutes)
            }
            None => self.tenants.get(&tenant).map_or(0, |(minutes, _)| *minutes),
        };
        if minutes >= PROVEN_MINUTES {
            ServiceStanding::Proven(minutes)
        } else {
            ServiceStanding::Unproven(tenant)
        }
    }

    /// Returns whether it is known which listeners the operator's list names: not if it is empty,
    /// or names pods and none was found on this node yet.
    pub fn has_list(&self) -> bool {
        let names_pods = self.patterns.iter().any(|pattern| pattern.pods().is_some());
        let lacks_pods = names_pods && self.named_pods.is_empty();
        !self.patterns.is_empty() && !lacks_pods
    }

    /// Returns whether the operator's list names a listener, by its address or its owner.
    pub fn lists(&self, netns: u32, addr: &str, cgroup: &str) -> bool {
        self.pattern_of(cgroup, &Tenant::of(cgroup), Some((netns, addr))).is_some()
    }

    /// Returns the operator's pattern that names a workload or its listener.
    fn pattern_of(
        &self,
        cgroup: &str,
        tenant: &Tenant,
        listener: Option<(u32, &str)>,
    ) -> Option<String> {
        let is_named = |pattern: &&ServicePattern| match pattern {
            ServicePattern::Workload(pattern) => pattern.covers(cgroup),
            ServicePattern::Listener(addr) => {
                // Other namespaces have an address of this name too, and any user can make one.
                listener.is_some_and(|(netns, name)| name == addr && self.is_hosts(netns))
            }
        };
        if let Some(pattern) = self.patterns.iter().find(is_named) {
            return Some(pattern.to_string());
        }
        let Tenant::Pod(uid) = tenant else { return None };
        self.named_pods.get(&**uid).cloned()
    }

    fn listener(&mut self, t: f64, fact: &ListenerFact) {
        // All readings of one instant count, and then none for a while.
        if t > self.read_t && t < self.read_t + READ_EVERY_SECS {
            return;
        }
        self.read_t = t;
        let key = (fact.netns, fact.addr.clone());
        let total = others_total(fact).unwrap_or(0);
        if let Some(proof) = self.listeners.get_mut(&key) {
            if fact.cgroup != proof.cgroup {
                let tenant = Tenant::of(&fact.cgroup);
                if tenant != proof.tenant {
                    // Another tenant listens there now.
                    *proof = Proof::new(tenant, fact, total, t);
                    return;
                }
                proof.cgroup = fact.cgroup.clone();
            }
            let (socket, last) = proof.last;
            if socket == fact.socket {
                proof.last.1 = total;
                if total > last {
                    proof.count(t);
                }
            } else if t - proof.seen_t > 10.0 * READ_EVERY_SECS {
                proof.last = (fact.socket, total);
            } else {
                return;
            }
            proof.seen_t = t;
            if proof.minutes >= PROVEN_MINUTES {
                self.tenants.insert(proof.tenant.clone(), (proof.minutes, t));
            }
            return;
        }
        let tenant = self.tenant_of(&fact.cgroup);
        if self.listeners.len() < LISTENERS_MAX && self.is_provable(&tenant, fact.netns) {
            self.listeners.insert(key, Proof::new(tenant, fact, total, t));
        }
    }

    fn tenant_of(&mut self, cgroup: &Arc<str>) -> Tenant {
        if self.latest.0 != *cgroup {
            self.latest = (cgroup.clone(), Tenant::of(cgroup));
        }
        self.latest.1.clone()
    }

    /// Returns whether anything could prove a tenant's listener in a namespace.
    fn is_provable(&self, tenant: &Tenant, netns: u32) -> bool {
        match tenant {
            Tenant::User(_) => false,
            Tenant::Pod(_) => true,
            Tenant::System(_) | Tenant::Shared => self.is_hosts(netns),
        }
    }

    fn is_hosts(&self, netns: u32) -> bool {
        self.host_netns.is_empty() || self.host_netns.contains(&netns)
    }

    /// Counts connections of a local client of another unit.
    fn outbound(&mut self, t: f64, fact: &OutboundFact) {
        let client = Tenant::of(&fact.cgroup);
        if !client.is_set_up_by_root() {
            return;
        }
        let Ok(to) = fact.addr.parse::<SocketAddr>() else { return };
        let mut addrs = vec![fact.addr.clone()];
        // A destination other than loopback is on this host only if a socket has that very address.
        if to.ip().is_loopback() {
            addrs.extend(["0.0.0.0", "[::]"].map(|any| Arc::from(format!("{any}:{}", to.port()))));
        }
        for addr in addrs {
            let Some(proof) = self.listeners.get_mut(&(fact.netns, addr)) else { continue };
            if proof.tenant == client {
                continue;
            }
            let Some(known) = proof.clients.iter().position(|(cgroup, _)| *cgroup == fact.cgroup)
            else {
                if proof.clients.len() < CLIENTS_MAX {
                    proof.clients.push((fact.cgroup.clone(), fact.established_total));
                }
                continue;
            };
            if fact.established_total
                > std::mem::replace(&mut proof.clients[known].1, fact.established_total)
            {
                proof.count(t);
            }
        }
    }

    fn forget(&mut self, t: f64) {
        self.listeners.retain(|_, proof| {
            t - proof.seen_t <= if proof.minutes > 0 { KEPT_SECS } else { UNUSED_KEPT_SECS }
        });
        spare_room::of_map(&mut self.listeners);
        self.tenants.retain(|_, (_, seen_t)| t - *seen_t <= KEPT_SECS);
    }
}

impl Proof {
    fn new(tenant: Tenant, fact: &ListenerFact, total: u64, t: f64) -> Self {
        Self {
            tenant,
            cgroup: fact.cgroup.clone(),
            last: (fact.socket, total),
            clients: Vec::new(),
            minute: i64::MIN,
            minutes: 0,
            seen_t: t,
        }
    }

    fn count(&mut self, t: f64) {
        let minute = (t / 60.0).floor() as i64;
        if std::mem::replace(&mut self.minute, minute) != minute {
            self.minutes = self.minutes.saturating_add(1);
        }
    }
}

/// Connections so far that may be from others: those from other hosts if they are counted
/// separately. In traces without that count all are, except at listeners that only this host can
/// reach.
fn others_total(fact: &ListenerFact) -> Option<u64> {
    if fact.remote_arrived_total.is_some() {
        return fact.remote_arrived_total;
    }
    let is_reachable = fact.addr.parse::<SocketAddr>().is_ok_and(|addr| !addr.ip().is_loopback());
    fact.arrived_total.or(fact.accepted_total).filter(|_| is_reachable)
}
