//! Services: the workloads whose trouble is a human's, because an operator named them or because
//! others have used them for minutes.
//!
//! Any user can open a socket and let connections wait at it, so what a listener does proves
//! nothing; that others use it does. A listener is proven once connections came to it in
//! [`PROVEN_MINUTES`] different minutes from other hosts, or from another unit of this one. A
//! user's session is never proven, and neither is a network namespace that is neither the host's
//! nor a pod's: whoever made it may have made its clients too. Pure; time is an argument. Cold
//! start: nothing is proven. Bounded by [`LISTENERS_MAX`]. It refuses to count what came before it
//! watched.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};

use super::tenant::Tenant;
use crate::{
    config::ServicePattern,
    detect::{Claim, Verdict},
    sense::{Fact, ListenerFact, OutboundFact},
};

/// Different minutes in which somebody else must have connected. A guess: an attacker would have to
/// keep it up for as long.
const PROVEN_MINUTES: u32 = 3;

/// Time between two looks at a listener's counters: minutes are counted, so tenths of a second need
/// not be looked at.
const LOOK_EVERY_SECS: f64 = 1.0;

/// Time for which a listener that is gone keeps its proof: a service that restarts is still one.
const KEPT_SECS: f64 = 3_600.0;

/// Listeners remembered at once: as many as detectors watch.
const LISTENERS_MAX: usize = 16_384;

/// Local clients remembered for each listener.
const CLIENTS_MAX: usize = 8;

/// Standing of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceStanding {
    /// The operator named it, with this pattern.
    Named(String),
    /// Others have used it in so many different minutes.
    Proven(u32),
    /// Neither.
    Unproven(Tenant),
}

impl ServiceStanding {
    /// Tells if it may cause a critical page or a drain.
    pub fn is_service(&self) -> bool {
        !matches!(self, Self::Unproven(_))
    }
}

/// The registry.
pub struct Services {
    patterns: Vec<ServicePattern>,
    /// Uids of the pods that the operator's patterns of pods name, and the pattern.
    named_pods: BTreeMap<String, String>,
    /// Network namespaces of the host; empty if they are not known, as in a trace.
    host_netns: Vec<u32>,
    listeners: HashMap<(u32, Arc<str>), Proof>,
    /// Tenants with a proven listener, how well it is proven, and when that was last confirmed.
    tenants: BTreeMap<Tenant, (u32, f64)>,
    look_t: f64,
}

/// Evidence for one listener.
#[derive(Debug)]
struct Proof {
    tenant: Tenant,
    /// The socket whose counter is followed, and its last value: sockets that share an address
    /// count apart.
    last: (u64, u64),
    /// Connections of local clients by cgroup.
    clients: Vec<(Arc<str>, u64)>,
    minute: i64,
    minutes: u32,
    seen_t: f64,
}

impl Services {
    /// Knows what the operator named, and nothing that is proven.
    pub fn new(patterns: &[ServicePattern]) -> Self {
        Self {
            patterns: patterns.to_vec(),
            named_pods: BTreeMap::new(),
            host_netns: Vec::new(),
            listeners: HashMap::new(),
            tenants: BTreeMap::new(),
            look_t: f64::NEG_INFINITY,
        }
    }

    /// Follows another list of the operator's.
    pub fn reload(&mut self, patterns: &[ServicePattern]) {
        self.patterns = patterns.to_vec();
    }

    /// Sets the inode numbers of the network namespaces that the host's own services may be in.
    pub fn set_host_netns(&mut self, netns: Vec<u32>) {
        self.host_netns = netns;
    }

    /// Sets which pods the operator's patterns of pods name: their uids, each with the pattern.
    pub fn name_pods(&mut self, pods: BTreeMap<String, String>) {
        self.named_pods = pods;
    }

    /// Takes a fact; only those about listeners and connects matter.
    pub fn observe(&mut self, t: f64, fact: &Fact) {
        match fact {
            Fact::Listener(fact) => self.listener(t, fact),
            Fact::Outbound(fact) => self.outbound(t, fact),
            Fact::Host(_) => self.forget(t),
            _ => {}
        }
    }

    /// Standing of the workload that a verdict is about.
    pub fn standing(&self, verdict: &Verdict) -> ServiceStanding {
        let cgroup = verdict.claim.cgroup();
        let tenant = Tenant::of(cgroup);
        let listener = match &verdict.claim {
            Claim::Overload(claim) => Some((claim.netns, &claim.addr)),
            Claim::Leak(_) | Claim::CascadeRisk(_) | Claim::Exhaustion(_) => None,
        };
        let is_named = |pattern: &&ServicePattern| match pattern {
            ServicePattern::Workload(pattern) => pattern.covers(cgroup),
            ServicePattern::Listener(addr) => {
                // Another namespace has an address of this name too, and anybody can make one.
                listener.is_some_and(|(netns, name)| **name == **addr && self.is_hosts(netns))
            }
        };
        if let Some(pattern) = self.patterns.iter().find(is_named) {
            return ServiceStanding::Named(pattern.to_string());
        }
        if let Tenant::Pod(uid) = &tenant
            && let Some(pattern) = self.named_pods.get(&**uid)
        {
            return ServiceStanding::Named(pattern.clone());
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

    fn listener(&mut self, t: f64, fact: &ListenerFact) {
        // All looks of one instant count, and then none for a while.
        if t > self.look_t && t < self.look_t + LOOK_EVERY_SECS {
            return;
        }
        self.look_t = t;
        let key = (fact.netns, fact.addr.clone());
        let total = others_total(fact).unwrap_or(0);
        if let Some(proof) = self.listeners.get_mut(&key) {
            let tenant = Tenant::of(&fact.cgroup);
            if tenant != proof.tenant {
                // Somebody else listens there now.
                *proof = Proof::new(tenant, fact.socket, total, t);
                return;
            }
            let (socket, last) = proof.last;
            if socket == fact.socket {
                proof.last.1 = total;
                if total > last {
                    proof.count(t);
                }
            } else if t - proof.seen_t > 10.0 * LOOK_EVERY_SECS {
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
        let tenant = Tenant::of(&fact.cgroup);
        if self.listeners.len() < LISTENERS_MAX && self.is_provable(&tenant, fact.netns) {
            self.listeners.insert(key, Proof::new(tenant, fact.socket, total, t));
        }
    }

    /// Tells if anything could prove a tenant's listener in a namespace.
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

    /// Counts a local client of another unit.
    fn outbound(&mut self, t: f64, fact: &OutboundFact) {
        let client = Tenant::of(&fact.cgroup);
        if !client.is_set_up_by_root() {
            return;
        }
        let Ok(to) = fact.addr.parse::<SocketAddr>() else { return };
        let mut addrs = vec![fact.addr.clone()];
        // A destination beyond loopback is this host's only if a socket here has that very address.
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
            t - proof.seen_t <= if proof.minutes > 0 { KEPT_SECS } else { 60.0 }
        });
        self.tenants.retain(|_, (_, seen_t)| t - *seen_t <= KEPT_SECS);
    }
}

impl Proof {
    fn new(tenant: Tenant, socket: u64, total: u64, t: f64) -> Self {
        Self {
            tenant,
            last: (socket, total),
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

/// Connections so far that may be others': those from other hosts if they are told apart. Traces
/// without that are taken at their word, but for listeners that only this host can reach.
fn others_total(fact: &ListenerFact) -> Option<u64> {
    if fact.remote_arrived_total.is_some() {
        return fact.remote_arrived_total;
    }
    let is_reachable = fact.addr.parse::<SocketAddr>().is_ok_and(|addr| !addr.ip().is_loopback());
    fact.arrived_total.or(fact.accepted_total).filter(|_| is_reachable)
}
