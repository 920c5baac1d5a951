//! Kubernetes: reports and slots of a group as Lease objects of one namespace.
//!
//! ```text
//! spillway-NODE-HASH           spec: number of the run, time of its last renewal
//!                              annotations: name and report of the node
//! spillway-slots-GROUP-HASH    annotation: nodes with a slot, and the numbers of their runs
//! spillway-page-LEAK-HASH      spec: number of the run that pages; annotation: its node
//! ```
//!
//! Leases do not expire by themselves, so that their age has to be judged. A node's own clock may
//! be wrong, and the API does not say when an object was last written (`managedFields` can be
//! switched off). So all times are those of the API server's `Date` header: a node writes the
//! latest that it has seen plus what has passed since by its monotonic clock, and a reader compares
//! that with the header of its list. Whatever delays a node, a pause or a suspended host, makes its
//! time too old and never too new. Clocks of several API servers may differ by two seconds
//! ([`SKEW_SECS`](wire::SKEW_SECS)); a reader grants them that, and the owner of a lease does not.
//!
//! A node that stops renewing is silent, and its slot free; the next grant removes it from the
//! lease. That lease is only written by compare-and-swap on its `resourceVersion`, so that of two
//! that judged the same snapshot one wins. Whoever renews too late gives its slot up or, if the
//! node *is* out, takes it again; both are such writes. A page is a node's for as long as that run
//! renews the lease of its node. The other nodes delete the pages of a run that is over, and after
//! an hour the lease of a silent node.
//!
//! Cold start: no lease; the first report makes it. Failure: an error, and nothing else; the next
//! report finds out what is left.

mod api;
mod wire;

use std::time::Duration;

use tracing::debug;

use self::{
    api::{LeaseApi, LeaseOutcome},
    wire::{
        GroupSlots, Lease, LeaseListing, LeaseNames, LeaseVersion, SKEW_SECS, TakenPage, TakenSlot,
    },
};
use super::{
    coordinator::{Acquired, Coordinator, CoordinatorError, PageSubject, SlotState, check_name},
    report::{NodeReport, NodeState},
    snapshot::Snapshot,
};
use crate::net::{http_client::TlsOptions, redact::Redactor};

pub use self::api::TokenSource;

pub(super) const NAME: &str = "kubernetes";

/// Number of leases in one page of a snapshot.
const PAGE_LEASES: usize = 500;

/// Maximum size of a snapshot: that of about 20,000 nodes.
const SNAPSHOT_BYTES_MAX: usize = 32 << 20;

/// Number of attempts to change a lease that others change at the same time.
const ATTEMPTS: usize = 3;

/// Maximum number of forgotten nodes whose leases one report deletes.
const DELETED_MAX: usize = 2;

/// Settings of a node's access to Kubernetes.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// URL of the API server.
    pub url: String,
    /// Namespace of the leases.
    pub namespace: String,
    /// Name of the group.
    pub group: String,
    /// Name of the node, unique in the group.
    pub node: String,
    /// Random number of the agent's run.
    pub run: u64,
    /// Trusted authorities and the client certificate.
    pub tls: TlsOptions,
    /// Token, unless the client certificate is enough.
    pub token: TokenSource,
    /// Time after which a node that stopped renewing counts as silent.
    pub silent_after: Duration,
}

/// Client of the API server, for one node.
pub struct KubernetesCoordinator {
    api: LeaseApi,
    names: LeaseNames,
    node: String,
    run: u64,
    silent_secs: u64,
    /// Lease of this node, as this run wrote it last.
    own: Option<OwnLease>,
    slot: SlotState,
    /// Set if a request about the slot failed: it may be carried out later.
    is_slot_unsure: bool,
    /// Leases of forgotten nodes, from the last snapshot.
    forgotten: Vec<LeaseVersion>,
    /// Size of the last snapshot, in bytes as received.
    snapshot_bytes: usize,
}

#[derive(Debug)]
struct OwnLease {
    version: LeaseVersion,
    renewed_secs: f64,
}

impl KubernetesCoordinator {
    /// Creates a client. It makes no request.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not allowed.
    pub fn new(options: KubernetesOptions) -> Result<Self, CoordinatorError> {
        let KubernetesOptions { url, namespace, group, node, run, tls, token, silent_after } =
            options;
        check_name(NAME, "node", &node)?;
        check_name(NAME, "group", &group)?;
        Ok(Self {
            api: LeaseApi::new(&url, &namespace, tls, token)?,
            names: LeaseNames::new(&group, &node),
            node,
            run,
            silent_secs: (silent_after.as_secs_f64().ceil() as u64).max(1),
            own: None,
            slot: SlotState::None,
            is_slot_unsure: false,
            forgotten: Vec::new(),
            snapshot_bytes: 0,
        })
    }

    /// Size of the last snapshot, in bytes as received.
    pub fn snapshot_bytes(&self) -> usize {
        self.snapshot_bytes
    }

    /// Writes this node's lease, unless another run holds it. Returns whether it was renewed in
    /// time, so that the others never saw it expire.
    fn renew(&mut self, report: &NodeReport) -> Result<bool, CoordinatorError> {
        let mut is_in_time = None;
        for _ in 0..ATTEMPTS {
            if self.own.is_none()
                && let Some(lease) = self.api.get(&self.names.member)?
            {
                self.own = Some(self.taken_over(&lease)?);
            }
            let last = self.own.as_ref().map(|own| &own.version);
            // Known since the first reply.
            let renewed_secs = self.api.earliest_secs().unwrap_or_default();
            let lease = self.names.member_lease(report, self.silent_secs, renewed_secs, last);
            let written = match self.api.write(&self.names.member, &lease, last) {
                Ok(LeaseOutcome::Done(written)) => written,
                // Deleted by hand, or written by this run before a reply was lost.
                Ok(LeaseOutcome::Changed) => {
                    self.own = None;
                    continue;
                }
                Err(error) => {
                    self.own = None;
                    return Err(error);
                }
            };
            // By the time of the reply: whoever read it before it was written had the same clock.
            let is_in_time = *is_in_time.get_or_insert(!self.is_expired());
            self.own = Some(OwnLease { version: written.version(), renewed_secs });
            // Otherwise the host was suspended, or the API server's clock was set.
            if (self.api.told_secs() - renewed_secs).abs() <= SKEW_SECS {
                return Ok(is_in_time);
            }
        }
        Err(self.refused("the node's lease changes all the time".to_owned()))
    }

    /// Returns a lease that this run may write: its own, or one that was not renewed in time.
    fn taken_over(&self, lease: &Lease) -> Result<OwnLease, CoordinatorError> {
        let is_own = lease.holder() == self.run.to_string();
        if !is_own && lease.is_renewed(self.api.told_secs(), self.silent_secs as f64) {
            return Err(self.name_is_taken(lease.holder()));
        }
        let renewed_secs = lease.renewed_secs().filter(|_| is_own);
        let renewed_secs = renewed_secs.unwrap_or(f64::NEG_INFINITY);
        Ok(OwnLease { version: lease.version(), renewed_secs })
    }

    /// Returns whether this node's lease has expired by the time of the last reply.
    fn is_expired(&self) -> bool {
        self.own
            .as_ref()
            .is_none_or(|own| self.api.told_secs() - own.renewed_secs > self.silent_secs as f64)
    }

    /// Makes the slot of this node what it has to be after a report.
    fn settle_slot(&mut self, is_out: bool, is_in_time: bool) -> Result<(), CoordinatorError> {
        for _ in 0..ATTEMPTS {
            let slots = self.slots()?;
            let has_slot = slots.has(&self.node, self.run);
            let holds = has_slot && is_in_time && (is_out || self.slot == SlotState::Held);
            if holds || !has_slot && !is_out {
                self.note_slot(holds);
                return Ok(());
            }
            // Taken back by a node that is out, or given up: it expired, or it was given after all,
            // long after the request failed.
            let mut taken = slots.without(&self.node);
            if is_out {
                taken.push(self.own_slot());
            }
            if self.write_slots(&taken, &slots)? {
                self.note_slot(is_out);
                return Ok(());
            }
        }
        Err(self.refused("the slots of the group change all the time".to_owned()))
    }

    /// Removes the slot of this run.
    fn remove_slot(&mut self) -> Result<(), CoordinatorError> {
        for _ in 0..ATTEMPTS {
            let slots = self.slots()?;
            let is_gone = !slots.has(&self.node, self.run)
                || self.write_slots(&slots.without(&self.node), &slots)?;
            if is_gone {
                (self.slot, self.is_slot_unsure) = (SlotState::None, false);
                return Ok(());
            }
        }
        Err(self.refused("the slots of the group change all the time".to_owned()))
    }

    fn slots(&mut self) -> Result<GroupSlots, CoordinatorError> {
        let Some(lease) = self.api.get(&self.names.slots)? else {
            return Ok(GroupSlots::default());
        };
        self.names.slots_of(&lease).map_err(|why| self.unreadable_slots(&why))
    }

    /// Writes the slots, unless they have changed. Returns whether it did.
    fn write_slots(
        &mut self,
        taken: &[TakenSlot],
        last: &GroupSlots,
    ) -> Result<bool, CoordinatorError> {
        let lease = self.names.slots_lease(taken, last.version.as_ref());
        self.is_slot_unsure = true;
        let written = self.api.write(&self.names.slots, &lease, last.version.as_ref())?;
        self.is_slot_unsure = false;
        Ok(matches!(written, LeaseOutcome::Done(_)))
    }

    /// Notes whether this run's slot is there.
    fn note_slot(&mut self, is_there: bool) {
        self.is_slot_unsure = false;
        self.slot = self.slot.noted(is_there);
    }

    fn own_slot(&self) -> TakenSlot {
        TakenSlot { node: self.node.clone(), run: self.run }
    }

    /// Returns whether the run that sends a page renews the lease of its node.
    fn is_running(&mut self, page: &TakenPage) -> Result<bool, CoordinatorError> {
        let lease = self.api.get(&self.names.member_of(&page.node))?;
        let (now_secs, silent_secs) = (self.api.told_secs(), self.silent_secs as f64);
        Ok(lease.is_some_and(|lease| {
            lease.holder() == page.run && lease.is_renewed(now_secs, silent_secs)
        }))
    }

    /// Deletes leases of forgotten nodes, unless they are back.
    fn delete_forgotten(&mut self) {
        for _ in 0..DELETED_MAX {
            let Some(version) = self.forgotten.pop() else { break };
            if let Err(error) = self.api.delete(&version) {
                // Another node may, and the report is published.
                debug!(%error, "the lease of a forgotten node stays");
            }
        }
    }

    /// Reads all leases as they were at one moment; `None` if that is no longer kept.
    fn list(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        let selector = self.names.selector();
        let (mut listing, mut at, mut next, mut bytes) = (None, None, None::<String>, 0);
        loop {
            let bytes_max = SNAPSHOT_BYTES_MAX - bytes;
            let page = self.api.page(&selector, PAGE_LEASES, next.as_deref(), bytes_max)?;
            let LeaseOutcome::Done((page, page_bytes)) = page else { return Ok(None) };
            bytes += page_bytes;
            let parts = page.parts().map_err(|why| {
                self.api.invalid(&format!(
                    "{}\n  hint: the URL has to be that of a Kubernetes API server",
                    Redactor::default().line(&why)
                ))
            });
            let (version, token, leases) = parts?;
            if at.get_or_insert_with(|| version.clone()) != &version {
                let why = "its pages are of different times\n  \
                           hint: see the log of the API server";
                return Err(self.api.invalid(why));
            }
            let (now_secs, silent_secs) = (self.api.told_secs(), self.silent_secs as f64);
            let names = &self.names;
            let listing =
                listing.get_or_insert_with(|| LeaseListing::new(names, now_secs, silent_secs));
            for lease in &leases {
                listing.add(lease).map_err(|why| self.unreadable_slots(&why))?;
            }
            if token.is_none() {
                break;
            }
            if leases.is_empty() {
                let why = "it announces more leases, and sends none\n  \
                           hint: see the log of the API server";
                return Err(self.api.invalid(why));
            }
            next = token;
        }
        self.snapshot_bytes = bytes;
        let Some(mut listing) = listing else { return Ok(None) };
        self.forgotten = listing.take_forgotten();
        Ok(Some(listing.into_snapshot()))
    }

    fn unreadable_slots(&self, why: &str) -> CoordinatorError {
        self.api.invalid(&format!(
            "the slots of the group: {}\n  \
             hint: nobody leaves until lease {} is right; once no node is out, delete it",
            Redactor::default().line(why),
            self.names.slots
        ))
    }

    fn name_is_taken(&self, run: &str) -> CoordinatorError {
        let run = Redactor::default().line(run);
        self.refused(format!(
            "another agent, of run {run}, publishes as {}\n  \
             hint: give each node a name of its own; if this agent was restarted, the run before \
             is forgotten within {} s",
            self.node,
            self.silent_secs + SKEW_SECS as u64
        ))
    }

    fn refused(&self, why: String) -> CoordinatorError {
        let address = self.api.address().to_owned();
        CoordinatorError::Refused { coordinator: NAME, address, why }
    }
}

impl Coordinator for KubernetesCoordinator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError> {
        self.api.begin();
        let is_in_time = self.renew(report)?;
        let is_out = report.state == NodeState::Out;
        if is_out || !is_in_time || self.is_slot_unsure || self.slot == SlotState::Held {
            self.settle_slot(is_out, is_in_time)?;
        }
        self.delete_forgotten();
        Ok(())
    }

    fn has_lost_slot(&self) -> bool {
        self.slot == SlotState::Lost
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        self.api.begin();
        for _ in 0..2 {
            if let Some(snapshot) = self.list()? {
                return Ok(Some(snapshot));
            }
        }
        let why = "its list expires before it is read\n  hint: see the log of the API server";
        Err(self.api.invalid(why))
    }

    fn acquire(&mut self, since: Option<&Snapshot>) -> Result<Acquired, CoordinatorError> {
        self.api.begin();
        let (Some(since), Some(_)) = (since, &self.own) else { return Ok(Acquired::Stale) };
        let slots = self.slots()?;
        if self.is_expired() {
            return Ok(Acquired::Stale);
        }
        // It may have been taken before, by a request whose reply was lost.
        if slots.has(&self.node, self.run) {
            self.note_slot(true);
            return Ok(Acquired::Taken);
        }
        if slots.revision != since.grant_revision {
            return Ok(Acquired::Stale);
        }
        let is_held =
            |slot: &TakenSlot| since.member(&slot.node).is_some_and(|member| member.has_slot);
        let mut taken = slots.without(&self.node);
        taken.retain(is_held);
        taken.push(self.own_slot());
        if !self.write_slots(&taken, &slots)? {
            return Ok(Acquired::Stale);
        }
        if self.is_expired() {
            // Delayed for so long that the others count this node as silent. The next report gives
            // the slot up.
            self.is_slot_unsure = true;
            return Ok(Acquired::Stale);
        }
        self.note_slot(true);
        Ok(Acquired::Taken)
    }

    fn release(&mut self) -> Result<(), CoordinatorError> {
        self.api.begin();
        self.remove_slot()
    }

    fn claim_page(&mut self, subject: &PageSubject) -> Result<Option<String>, CoordinatorError> {
        self.api.begin();
        let name = self.names.page(subject);
        for _ in 0..ATTEMPTS {
            let last = self.api.get(&name)?;
            let page = last.as_ref().and_then(|lease| self.names.page_of(lease));
            match page {
                Some(page) if page.node == self.node && page.run == self.run.to_string() => {
                    return Ok(None);
                }
                Some(page) if page.node != self.node && self.is_running(&page)? => {
                    return Ok(Some(page.node));
                }
                _ => {}
            }
            let last = last.as_ref().map(Lease::version);
            let lease = self.names.page_lease(subject, self.run, last.as_ref());
            if let LeaseOutcome::Done(_) = self.api.write(&name, &lease, last.as_ref())? {
                return Ok(None);
            }
        }
        Err(self.refused("the lease of the page changes all the time".to_owned()))
    }

    fn release_page(&mut self, subject: &PageSubject) -> Result<(), CoordinatorError> {
        self.api.begin();
        let Some(lease) = self.api.get(&self.names.page(subject))? else { return Ok(()) };
        let page = self.names.page_of(&lease);
        if page.is_some_and(|page| page.node == self.node) {
            // Another node has it by now if it was changed.
            self.api.delete(&lease.version())?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), CoordinatorError> {
        self.api.begin();
        if self.slot != SlotState::None || self.is_slot_unsure {
            self.remove_slot()?;
        }
        if let Some(own) = self.own.take() {
            // Another run has it by now if it was changed.
            self.api.delete(&own.version)?;
        }
        Ok(())
    }
}

/// Snapshot that a reply of the API server makes for a node of a group, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn snapshot_of_list(bytes: &[u8], group: &str, node: &str) -> Option<Snapshot> {
    let page: wire::LeasePage = serde_json::from_slice(bytes).ok()?;
    let (_, _, leases) = page.parts().ok()?;
    let names = LeaseNames::new(group, node);
    let mut listing = LeaseListing::new(&names, 1_700_000_000.0, 45.0);
    leases.iter().try_for_each(|lease| listing.add(lease)).ok()?;
    Some(listing.into_snapshot())
}
