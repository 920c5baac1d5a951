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
//!   nine tenths of capacity explain;
//! - slow: four or more wait, and each for half a second or more, for three seconds, at any load
//!   and even while it drains.
//!
//! A queue that is not standing and drops connections again and again has a backlog that is too
//! small. If the oldest wait cannot be read (a sensor without BPF, UNIX listeners), stricter rules
//! read the depth: a quarter of the limit, for twice as long, or full and dropping, or four
//! connections or more that have not become fewer for thrice as long, so that none was accepted.
//! Their claims say so and are less certain. Each claim names the resource that the service is
//! short of, as far as that could be read; facts about other subjects add that no file descriptor
//! is left, or which service it waits for. An oldest wait that is long proves how long its queue
//! has been standing, so that a standing time may begin before the first sample. Cold start: none
//! but the standing time itself. A gap between samples restarts it and the forecast. A sensor that
//! stops looks like a listener that disappears. Empty queues are never claimed. Requests that wait
//! on accepted connections are judged beside it, in [`requests`], and are the same claim.

mod address;
mod baseline;
mod bottleneck;
pub(super) mod claim;
mod counter;
mod drops;
mod exhausted;
mod queue;
mod rates;
mod requests;
mod samples;
mod socket_queues;
mod standing_queue;
mod trigger;
mod verdict;
mod worker;

use std::{collections::HashMap, fmt::Write as _, net::SocketAddr, sync::Arc};

use self::{
    address::ListenAddress,
    claim::Bottleneck,
    exhausted::ExhaustedProcesses,
    requests::{Service, Upstreams},
    worker::StuckWorker,
};
use super::{
    detector::{Context, Detector, DetectorSize, Findings},
    verdict::{Claim, ClaimState, Verdict},
};
use crate::{
    config::{DetectConfig, OverloadConfig},
    sense::{Fact, ListenerFact, OutboundFact, RequestsFact},
    spare_room,
    units::Span,
};

/// Maximum number of listeners watched: twice as many as the sensor has room for, so that closed
/// ones, which linger for a few scans, crowd out no new ones.
const LISTENERS_MAX: usize = 16_384;

/// Maximum number of addresses whose requests are watched: some KiB each.
const REQUESTS_MAX: usize = 4_096;

/// Finds listeners whose accept queue does not drain.
pub(super) struct OverloadDetector {
    config: OverloadConfig,
    addresses: HashMap<(u32, Arc<str>), ListenAddress>,
    sockets: usize,
    /// Addresses whose requests are watched.
    requests: usize,
    upstreams: Upstreams,
    exhausted: ExhaustedProcesses,
    untracked_total: u64,
}

impl OverloadDetector {
    /// Creates a detector that watches no listener yet.
    pub(super) fn new(config: &OverloadConfig) -> Self {
        Self {
            config: config.clone(),
            addresses: HashMap::new(),
            sockets: 0,
            requests: 0,
            upstreams: Upstreams::default(),
            exhausted: ExhaustedProcesses::default(),
            untracked_total: 0,
        }
    }

    fn listener(&mut self, context: &Context<'_>, fact: &ListenerFact, findings: &mut Findings) {
        let key = (fact.netns, fact.addr.clone());
        if self.sockets >= LISTENERS_MAX
            && !self.addresses.get(&key).is_some_and(|address| address.knows(fact))
        {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        let (verdicts_before, forecasts_before) =
            (findings.verdicts.len(), findings.forecasts.len());
        let address = self.addresses.entry(key).or_default();
        let before = address.sockets();
        address.observe(context, fact, &self.config, findings);
        self.sockets += address.sockets() - before;
        self.explain_new(context.t, (verdicts_before, forecasts_before), findings);
    }

    /// Explains the claims and forecasts that came after so many.
    fn explain_new(&self, t: f64, (verdicts, forecasts): (usize, usize), findings: &mut Findings) {
        let new = findings.verdicts.iter_mut().skip(verdicts);
        new.chain(findings.forecasts.iter_mut().skip(forecasts))
            .for_each(|verdict| self.explain(t, verdict));
    }

    /// Adds to a claim which worker is stuck, and what other facts say about its service: that no
    /// file descriptor is left, or that it waits for another.
    fn explain(&self, t: f64, verdict: &mut Verdict) {
        let Claim::Overload(claim) = &mut verdict.claim else { return };
        if verdict.state == ClaimState::Cleared {
            return;
        }
        // Writing to a String cannot fail.
        if let Some(StuckWorker { pid, secs, shares }) = claim.worker {
            let kept = if claim.addr.starts_with("unix:") {
                "kept a connection and hardly run"
            } else {
                "not answered a request"
            };
            let whose = match shares {
                true => "one of the processes that share it",
                false => "to which it passed a connection",
            };
            let _ = write!(verdict.why, "; pid {pid}, {whose}, has {kept} for {}", Span(secs));
        }
        claim.exhausted = self.exhausted.of(t, claim.owner, &claim.cgroup);
        if let Some(files) = claim.exhausted {
            let whose = match claim.pid == Some(files.files_pid) {
                true => "it has".to_owned(),
                false => format!("pid {} has", files.files_pid),
            };
            let _ = write!(
                verdict.why,
                "; {whose} {} of {} files open, so that it cannot accept",
                files.files, files.files_max
            );
        }
        let may_wait = match claim.scarce {
            Some(Bottleneck::Workers) => true,
            Some(Bottleneck::AcceptLoop) => !claim.is_busy && claim.exhausted.is_none(),
            _ => false,
        };
        if may_wait && claim.requests.is_none() {
            let dependency =
                self.dependency_of(t, claim.netns, &claim.addr, &claim.cgroup, &claim.comm);
            if let Some(peer) = dependency {
                let _ = write!(verdict.why, "; it waits for {peer}, which does not answer in time");
                (claim.scarce, claim.dependency) = (Some(Bottleneck::Dependency), Some(peer));
            }
        }
    }

    fn requests(&mut self, context: &Context<'_>, fact: &RequestsFact, findings: &mut Findings) {
        let key = (fact.netns, fact.addr.clone());
        let is_known = self.addresses.get(&key).is_some_and(ListenAddress::has_requests);
        if self.requests >= REQUESTS_MAX && !is_known {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        self.requests += usize::from(!is_known);
        let address = self.addresses.entry(key.clone()).or_default();
        if address.observe_requests(context, fact, &self.config, findings) {
            let (cgroup, comm) = address.owner();
            let dependency = self.dependency_of(context.t, key.0, &key.1, &cgroup, &comm);
            let (verdicts_before, forecasts_before) =
                (findings.verdicts.len(), findings.forecasts.len());
            if let Some(address) = self.addresses.get_mut(&key) {
                address.report_requests(context, dependency, findings);
            }
            self.explain_new(context.t, (verdicts_before, forecasts_before), findings);
        }
    }

    /// Returns the address that a service waits for, if there is evidence: the program of this name
    /// and cgroup that listens on `addr`.
    fn dependency_of(
        &self,
        t: f64,
        netns: u32,
        addr: &Arc<str>,
        cgroup: &str,
        comm: &str,
    ) -> Option<Arc<str>> {
        let service = Service { cgroup, netns, comm };
        let itself = addr;
        let others = || self.upstreams.of(service).filter(|one| one.addr != *itself);
        let waits = |one: &&requests::Upstream| {
            let at = |addr: Arc<str>| {
                let is_itself = addr == *itself;
                self.addresses
                    .get(&(one.netns, addr))
                    .is_some_and(|address| !is_itself && address.is_waiting(t))
            };
            at(one.addr.clone()) || any_address(&one.addr).into_iter().flatten().any(at)
        };
        others()
            .find(waits)
            .or_else(|| others().find(|one| one.is_in_trouble(t, service)))
            .map(|one| one.addr.clone())
    }

    fn outbound(&mut self, context: &Context<'_>, fact: &OutboundFact) {
        self.upstreams.observe(context.t, fact);
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        self.exhausted.prune(context.t);
        let cleared_from = findings.verdicts.len();
        self.addresses.retain(|_, address| {
            findings.verdicts.extend(address.prune(context));
            address.is_alive()
        });
        spare_room::of_map(&mut self.addresses);
        self.sockets = self.addresses.values().map(ListenAddress::sockets).sum();
        self.requests = self.addresses.values().filter(|address| address.has_requests()).count();
        // A hash map has no order, but output has.
        findings.verdicts[cleared_from..].sort_by_key(|verdict| verdict.claim.id());
    }
}

/// Returns the addresses of listeners on every interface that a loopback address reaches.
fn any_address(addr: &str) -> Option<[Arc<str>; 2]> {
    let socket: SocketAddr = addr.parse().ok()?;
    let on_any = |ip: &str| Arc::from(format!("{ip}:{}", socket.port()));
    socket.ip().is_loopback().then(|| [on_any("0.0.0.0"), on_any("[::]")])
}

impl Detector for OverloadDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => self.prune(context, findings),
            Fact::Listener(fact) => self.listener(context, fact, findings),
            Fact::Requests(fact) => self.requests(context, fact, findings),
            Fact::Outbound(fact) => self.outbound(context, fact),
            Fact::Handles(fact) => self.exhausted.observe(context.t, fact),
            Fact::Process(fact) => self.exhausted.locate(fact),
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
