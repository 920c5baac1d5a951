//! etcd: reports and slots of a group as keys, through etcd's JSON gateway.
//!
//! ```text
//! /spillway/v1/GROUP/node/NODE    report of the node        member lease, an hour
//! /spillway/v1/GROUP/alive/NODE   number of its run         alive lease, `silent_after`
//! /spillway/v1/GROUP/slot/NODE    number of its run         alive lease
//! /spillway/v1/GROUP/turn         node of the last grant    none
//! ```
//!
//! A node that stops renewing loses its alive lease, and with it its slot: the others then count it
//! as silent, and forget it when its member lease expires. Each grant writes `turn`, so that of two
//! that judged the same snapshot one wins. A slot is only taken while the alive key is this run's,
//! under its lease: an agent that was paused for longer than that is refused. A node that *is* out
//! takes its slot back without asking, because the truth counts; that is a grant too.
//!
//! Cold start: no leases; the first report makes them. Failure: an error, and nothing else; the
//! next report finds out what is left.

mod gateway;
mod wire;

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tracing::debug;

use self::{
    gateway::Gateway,
    wire::{GrantReply, KeyValue, Listing, NodeKeys, RangeReply, RenewalReply, TxnReply},
};
use super::{
    coordinator::{Acquired, Coordinator, CoordinatorError, PageSubject, SlotState, check_name},
    report::{NodeReport, NodeState},
    snapshot::Snapshot,
};
use crate::{
    clock::Clock,
    net::{http_client::TlsOptions, redact::Redactor, secret::SecretSource},
};

const NAME: &str = "etcd";

/// Time after which a silent node is forgotten.
const MEMBER_TTL_SECS: i64 = 3_600;

/// Time after which the member lease is renewed.
const MEMBER_RENEWAL_SECS: f64 = 600.0;

/// Time after which a report is written although it is no news, so that the others can compare
/// clocks.
const REWRITE_SECS: f64 = 30.0;

/// Number of keys in one page of a snapshot.
const PAGE_KEYS: usize = 1_000;

/// Maximum size of a snapshot: that of about 30,000 nodes.
const SNAPSHOT_BYTES_MAX: usize = 32 << 20;

/// Settings of a node's access to etcd.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Client URLs of etcd's members.
    pub endpoints: Vec<String>,
    /// Name of the group.
    pub group: String,
    /// Name of the node, unique in the group.
    pub node: String,
    /// Random number of the agent's run.
    pub run: u64,
    /// Trusted authorities and the client certificate.
    pub tls: TlsOptions,
    /// User and password, if etcd has users.
    pub credentials: Option<(String, SecretSource)>,
    /// Time after which a node that stopped renewing counts as silent.
    pub silent_after: Duration,
}

/// Client of etcd, for one node.
pub struct EtcdCoordinator {
    gateway: Gateway,
    keys: NodeKeys,
    node: String,
    run: String,
    alive_ttl_secs: i64,
    clock: Clock,
    /// Number of the alive lease.
    alive: Option<i64>,
    /// Number of the member lease, and the time of its last renewal.
    member: Option<(i64, f64)>,
    /// Last report that was written under these leases, and when.
    written: Option<(NodeReport, f64)>,
    slot: SlotState,
    /// Size of the last snapshot, in bytes as received.
    snapshot_bytes: usize,
}

impl EtcdCoordinator {
    /// Creates a client. It makes no request.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not allowed, or there is no endpoint.
    pub fn new(options: EtcdOptions) -> Result<Self, CoordinatorError> {
        let EtcdOptions { endpoints, group, node, run, tls, credentials, silent_after } = options;
        check_name(NAME, "node", &node)?;
        check_name(NAME, "group", &group)?;
        if endpoints.is_empty() {
            let why =
                "there is no endpoint\n  hint: name the client URLs of its members".to_owned();
            return Err(CoordinatorError::Unusable { coordinator: NAME, why });
        }
        Ok(Self {
            gateway: Gateway::new(&endpoints, tls, credentials),
            keys: NodeKeys::new(&group, &node),
            node,
            run: run.to_string(),
            alive_ttl_secs: (silent_after.as_secs_f64().ceil() as i64).max(1),
            clock: Clock::start(),
            alive: None,
            member: None,
            written: None,
            slot: SlotState::None,
            snapshot_bytes: 0,
        })
    }

    /// Size of the last snapshot, in bytes as received.
    pub fn snapshot_bytes(&self) -> usize {
        self.snapshot_bytes
    }

    /// Renews the alive lease, or makes a new one if it has expired.
    fn renewed_alive(&mut self) -> Result<i64, CoordinatorError> {
        if let Some(lease) = self.alive
            && self.renew(lease)?
        {
            return Ok(lease);
        }
        // The keys are gone with the lease. After so long a pause the other may be too.
        (self.alive, self.written) = (None, None);
        self.note_slot(false);
        self.doubt_member();
        let lease = self.new_lease(self.alive_ttl_secs)?;
        Ok(*self.alive.insert(lease))
    }

    /// Renews the member lease if it is time, or makes a new one if it has expired.
    fn renewed_member(&mut self) -> Result<i64, CoordinatorError> {
        let now = self.clock.now();
        let known = self.member;
        if let Some((lease, at)) = known
            && now - at < MEMBER_RENEWAL_SECS
        {
            return Ok(lease);
        }
        let lease = match known {
            Some((lease, _)) if self.renew(lease)? => lease,
            _ => {
                // The report is gone with the lease.
                (self.member, self.written) = (None, None);
                self.new_lease(MEMBER_TTL_SECS)?
            }
        };
        self.member = Some((lease, now));
        Ok(lease)
    }

    /// Makes the next report renew the member lease.
    fn doubt_member(&mut self) {
        self.member = self.member.map(|(lease, _)| (lease, f64::NEG_INFINITY));
    }

    fn new_lease(&mut self, ttl_secs: i64) -> Result<i64, CoordinatorError> {
        let request = json!({ "TTL": ttl_secs.to_string() });
        let GrantReply { id } = self.gateway.call("lease/grant", &request)?;
        Ok(id)
    }

    /// Renews a lease; returns false if it has expired.
    fn renew(&mut self, lease: i64) -> Result<bool, CoordinatorError> {
        let request = json!({ "ID": lease.to_string() });
        let RenewalReply { result } = self.gateway.call("lease/keepalive", &request)?;
        Ok(result.ttl_secs > 0)
    }

    fn txn(
        &mut self,
        compare: &[Value],
        success: &[Value],
        failure: &[Value],
    ) -> Result<TxnReply, CoordinatorError> {
        self.gateway.call("kv/txn", &wire::txn(compare, success, failure))
    }

    /// Comparisons that hold while this run owns its name under `lease`.
    fn is_own(&self, lease: i64) -> [Value; 2] {
        let alive = &self.keys.alive;
        [wire::has_value(alive, &self.run), wire::has_lease(alive, lease)]
    }

    /// Returns whether a report says something new, or has to be written again.
    fn is_due(&self, report: &NodeReport) -> bool {
        let Some((last, at)) = &self.written else { return true };
        let after = REWRITE_SECS.min(self.alive_ttl_secs as f64);
        !report.is_no_news_after(last) || self.clock.now() - at >= after
    }

    /// Writes the report and the alive key, unless another run owns that. Returns whether the node
    /// has a slot.
    fn write(
        &mut self,
        report: &NodeReport,
        alive: i64,
        member: i64,
    ) -> Result<bool, CoordinatorError> {
        let put_report = wire::put(&self.keys.report, report.to_json(), member);
        let put_alive = wire::put(&self.keys.alive, &self.run, alive);
        let [get_slot, get_alive] = [&self.keys.slot, &self.keys.alive].map(|key| wire::get(key));
        // Nothing is there before the first report, and usually this run's key after it.
        let mut compare = match self.written {
            Some(_) => self.is_own(alive).to_vec(),
            None => vec![wire::at_revision(&self.keys.alive, 0)],
        };
        let success = [put_alive, put_report, get_slot];
        for _ in 0..2 {
            let reply = self.txn(&compare, &success, std::slice::from_ref(&get_alive))?;
            if reply.succeeded {
                return Ok(reply.found().is_some_and(|slot| self.is_this_run(slot)));
            }
            // Lost by hand, or written by this run before a reply was lost.
            let revision = match reply.found() {
                Some(owner) if !self.is_this_run(owner) => return Err(self.name_is_taken(owner)),
                owner => owner.map_or(0, |owner| owner.mod_revision),
            };
            compare = vec![wire::at_revision(&self.keys.alive, revision)];
        }
        Err(self.refused("the node's keys change all the time".to_owned()))
    }

    /// Takes the slot of a node that is out, if the node is still this run's.
    fn take_back_slot(&mut self, alive: i64) -> Result<(), CoordinatorError> {
        let reply = self.txn(&self.is_own(alive), &self.grant(alive), &[])?;
        match reply.succeeded {
            true => Ok(()),
            false => Err(self.refused("the node's keys were changed meanwhile".to_owned())),
        }
    }

    /// Deletes this run's slot. Returns the slot of another run, which stays.
    fn delete_slot(&mut self) -> Result<Option<KeyValue>, CoordinatorError> {
        let compare = [wire::has_value(&self.keys.slot, &self.run)];
        let [delete, get] = [wire::delete(&self.keys.slot), wire::get(&self.keys.slot)];
        Ok(self.txn(&compare, &[delete], &[get])?.into_found())
    }

    /// Operations that give this node a slot.
    fn grant(&self, alive: i64) -> [Value; 2] {
        let holder = format!("{} {}", self.node, self.run);
        [wire::put(&self.keys.slot, &self.run, alive), wire::put(&self.keys.turn, holder, 0)]
    }

    /// Notes whether this run's slot is there.
    fn note_slot(&mut self, is_there: bool) {
        self.slot = self.slot.noted(is_there);
    }

    fn is_this_run(&self, found: &KeyValue) -> bool {
        found.value == self.run.as_bytes()
    }

    fn name_is_taken(&self, owner: &KeyValue) -> CoordinatorError {
        let run = String::from_utf8_lossy(&owner.value);
        let run = Redactor::default().line(&run);
        self.refused(format!(
            "another agent, of run {run}, publishes as {}\n  \
             hint: give each node a name of its own; if this agent was restarted, the run before \
             is forgotten within {} s",
            self.node, self.alive_ttl_secs
        ))
    }

    fn refused(&self, why: String) -> CoordinatorError {
        CoordinatorError::Refused { coordinator: NAME, address: self.gateway.address(), why }
    }
}

impl Coordinator for EtcdCoordinator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError> {
        self.gateway.begin();
        let alive = self.renewed_alive()?;
        let member = self.renewed_member()?;
        if !self.is_due(report) {
            return Ok(());
        }
        let has_slot = match self.write(report, alive, member) {
            Ok(has_slot) => has_slot,
            Err(error) => {
                // Its reason may be that the member lease is gone.
                self.doubt_member();
                return Err(error);
            }
        };
        let is_out = report.state == NodeState::Out;
        if is_out && !has_slot {
            self.take_back_slot(alive)?;
        }
        if has_slot && !is_out && self.slot != SlotState::Held {
            // It was given after all, long after the request failed.
            self.delete_slot()?;
        } else {
            self.note_slot(has_slot || is_out);
        }
        self.written = Some((report.clone(), self.clock.now()));
        Ok(())
    }

    fn has_lost_slot(&self) -> bool {
        self.slot == SlotState::Lost
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        self.gateway.begin();
        let mut listing = Listing::new(&self.keys);
        let (mut from, mut revision, mut bytes) = (None, 0, 0);
        loop {
            let request = self.keys.page(from.as_deref(), revision, PAGE_KEYS);
            let page = self.gateway.fetch("kv/range", &request, SNAPSHOT_BYTES_MAX - bytes)?;
            bytes += page.len();
            let RangeReply { header, kvs, more } = self.gateway.read(&page)?;
            // All pages are of the time of the first.
            if revision == 0 {
                revision = header.revision;
            }
            from = kvs.last().map(|last| wire::following(&last.key));
            kvs.into_iter().for_each(|one| listing.add(one));
            match more {
                false => break,
                true if from.is_some() => {}
                true => {
                    let why = "it announces more keys, and sends none\n  hint: see the log of etcd";
                    return Err(self.refused(why.to_owned()));
                }
            }
        }
        self.snapshot_bytes = bytes;
        if listing.unknown > 0 {
            debug!("etcd: ignoring {} keys that do not fit the layout", listing.unknown);
        }
        Ok(Some(listing.into_snapshot()))
    }

    fn acquire(&mut self, since: Option<&Snapshot>) -> Result<Acquired, CoordinatorError> {
        self.gateway.begin();
        let (Some(since), Some(alive)) = (since, self.alive) else { return Ok(Acquired::Stale) };
        let mut compare = self.is_own(alive).to_vec();
        compare.push(wire::at_revision(&self.keys.turn, since.grant_revision));
        let get_slot = wire::get(&self.keys.slot);
        let reply = self.txn(&compare, &self.grant(alive), &[get_slot])?;
        // It may have been taken before, by a request whose reply was lost.
        let has_slot = reply.succeeded || reply.found().is_some_and(|slot| self.is_this_run(slot));
        if has_slot {
            self.note_slot(true);
        }
        Ok(if has_slot { Acquired::Taken } else { Acquired::Stale })
    }

    fn release(&mut self) -> Result<(), CoordinatorError> {
        self.gateway.begin();
        if let Some(slot) = self.delete_slot()? {
            return Err(self.name_is_taken(&slot));
        }
        self.slot = SlotState::None;
        Ok(())
    }

    fn claim_page(&mut self, subject: &PageSubject) -> Result<Option<String>, CoordinatorError> {
        self.gateway.begin();
        let Some(alive) = self.alive else { return Ok(None) };
        let key = self.keys.page_for(subject);
        let claim = [wire::put(&key, &self.node, alive)];
        let mut revision = 0;
        for _ in 0..2 {
            let mut compare = self.is_own(alive).to_vec();
            compare.push(wire::at_revision(&key, revision));
            let reply = self.txn(&compare, &claim, &[wire::get(&key)])?;
            match reply.found() {
                _ if reply.succeeded => return Ok(None),
                None => break,
                // This node's, of this run or an earlier one, or one that no lease ends.
                Some(found) if found.lease == 0 || found.value == self.node.as_bytes() => {
                    revision = found.mod_revision;
                }
                Some(found) => {
                    let unreadable = || self.refused(format!("{key} holds no name of a node"));
                    let node = wire::node_in(&found.value).ok_or_else(unreadable)?;
                    return Ok(Some(node.to_owned()));
                }
            }
        }
        Err(self.refused("the node's keys were changed meanwhile".to_owned()))
    }

    fn release_page(&mut self, subject: &PageSubject) -> Result<(), CoordinatorError> {
        self.gateway.begin();
        let key = self.keys.page_for(subject);
        let compare = [wire::has_value(&key, &self.node)];
        self.txn(&compare, &[wire::delete(&key)], &[]).map(drop)
    }

    fn leave(&mut self) -> Result<(), CoordinatorError> {
        self.gateway.begin();
        let member = self.member.take().map(|(lease, _)| lease);
        (self.written, self.slot) = (None, SlotState::None);
        // The keys go with their leases.
        for lease in self.alive.take().into_iter().chain(member) {
            let request = json!({ "ID": lease.to_string() });
            self.gateway.call::<IgnoredAny>("lease/revoke", &request)?;
        }
        Ok(())
    }
}

/// Snapshot that a reply of etcd makes for a node of a group, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn snapshot_of_reply(bytes: &[u8], group: &str, node: &str) -> Option<Snapshot> {
    let RangeReply { kvs, .. } = serde_json::from_slice(bytes).ok()?;
    let keys = NodeKeys::new(group, node);
    let mut listing = Listing::new(&keys);
    kvs.into_iter().for_each(|one| listing.add(one));
    Some(listing.into_snapshot())
}
