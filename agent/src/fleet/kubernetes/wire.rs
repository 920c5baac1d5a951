//! Names and content of leases, and what a list of them says about a group.
//!
//! Pure. Replies and what others wrote are hostile: anything unexpected is an error, an unreadable
//! member, or ignored.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fleet::{
    coordinator::PageSubject,
    report::{NodeReport, is_key_name},
    snapshot::{Member, Snapshot},
};

/// Label of all leases of a group.
const GROUP_LABEL: &str = "spillway.io/group";

/// Annotation with the name of the node.
const NODE: &str = "spillway.io/node";

/// Annotation with the report of the node.
const REPORT: &str = "spillway.io/report";

/// Annotation with the slots of the group.
const SLOTS: &str = "spillway.io/slots";

/// Annotation with the subject of a page, on the lease of the node that sends it.
const PAGE: &str = "spillway.io/page";

/// Version of the annotation with the slots.
const SLOTS_VERSION: u32 = 1;

/// Difference up to which times of the API server are the same, in seconds: one for the rounding of
/// its header, and two between the clocks of several servers.
pub const SKEW_SECS: f64 = 3.0;

/// Time after which a silent node is forgotten, in seconds.
const MEMBER_SECS: f64 = 3_600.0;

/// Latest time that is written, in seconds since 1970: the end of the year 9998.
const TIME_SECS_MAX: f64 = 253_370_764_799.0;

/// Maximum length of the readable part of a lease's name.
const READABLE_BYTES_MAX: usize = 60;

/// Names of the leases of one node and its group.
#[derive(Debug, Clone)]
pub struct LeaseNames {
    group: String,
    node: String,
    /// Value of the group's label.
    label: String,
    /// Lease of the node.
    pub member: String,
    /// Lease with the slots of the group.
    pub slots: String,
}

/// Lease, as far as it is read.
#[derive(Debug, Clone, Deserialize)]
pub struct Lease {
    /// Metadata.
    pub metadata: LeaseMetadata,
    /// Holder and time.
    #[serde(default)]
    pub spec: LeaseSpec,
}

/// Metadata of a lease.
#[derive(Debug, Clone, Deserialize)]
pub struct LeaseMetadata {
    name: String,
    uid: String,
    #[serde(rename = "resourceVersion")]
    version: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Holder of a lease, and the time of its last renewal.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LeaseSpec {
    #[serde(rename = "holderIdentity")]
    holder: Option<String>,
    #[serde(rename = "renewTime")]
    renewed: Option<String>,
}

/// One version of one lease, on which a write depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseVersion {
    /// Name of the lease.
    pub name: String,
    uid: String,
    version: String,
}

/// Page of a list of leases.
#[derive(Debug, Deserialize)]
pub struct LeasePage {
    kind: String,
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Lease>>,
}

#[derive(Debug, Deserialize)]
struct PageMetadata {
    #[serde(rename = "resourceVersion", default)]
    version: String,
    #[serde(rename = "continue", default)]
    next: String,
}

/// Slots of a group, as its lease has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupSlots {
    /// Version of the lease; `None` if there is no lease.
    pub version: Option<LeaseVersion>,
    /// Revision for [`Snapshot::grant_revision`]; 0 if there is no lease.
    pub revision: i64,
    /// Slots that were taken. One counts while its node renews.
    pub taken: Vec<TakenSlot>,
}

/// Slot that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenSlot {
    /// Node that has it.
    pub node: String,
    /// Number of the run of its agent.
    pub run: u64,
}

#[derive(Serialize, Deserialize)]
struct SavedSlots {
    v: u32,
    group: String,
    slots: Vec<TakenSlot>,
}

/// Leases of a group, gathered page by page.
#[derive(Debug)]
pub struct LeaseListing<'a> {
    names: &'a LeaseNames,
    /// Time of the API server.
    now_secs: f64,
    /// Time after which a node is silent, in seconds.
    silent_secs: f64,
    members: BTreeMap<String, ListedMember>,
    slots: GroupSlots,
    /// Leases of nodes that have been silent for so long that they are no members.
    forgotten: Vec<LeaseVersion>,
    /// Leases of pages, each with its node and the run that holds it.
    pages: Vec<(LeaseVersion, TakenPage)>,
}

/// Page that a node sends for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPage {
    /// Node that sends it.
    pub node: String,
    /// Number of the run of its agent, as text.
    pub run: String,
}

#[derive(Debug)]
struct ListedMember {
    report: Result<NodeReport, String>,
    holder: String,
    is_renewed: bool,
}

impl LeaseNames {
    /// Returns the names of the leases of `node` and `group`.
    pub fn new(group: &str, node: &str) -> Self {
        Self {
            group: group.to_owned(),
            node: node.to_owned(),
            label: hash(&["group", group]),
            member: member_name(group, node),
            slots: lease_name(&format!("slots-{group}"), &hash(&["slots", group])),
        }
    }

    /// Selector of all leases of the group, as it is written in a URL.
    pub fn selector(&self) -> String {
        format!("{}%3D{}", GROUP_LABEL.replace('/', "%2F"), self.label)
    }

    /// Lease of the node. `last` is the version that it replaces.
    pub fn member_lease(
        &self,
        report: &NodeReport,
        silent_secs: u64,
        renewed_secs: f64,
        last: Option<&LeaseVersion>,
    ) -> Value {
        let report_json = String::from_utf8(report.to_json()).unwrap_or_default();
        let annotations = json!({ NODE: self.node, REPORT: report_json });
        let mut lease = self.lease(&self.member, annotations, last);
        lease["spec"] = json!({
            "holderIdentity": report.run.to_string(),
            "leaseDurationSeconds": silent_secs,
            "renewTime": time_text(renewed_secs),
        });
        lease
    }

    /// Lease with these slots of the group. `last` is the version that it replaces.
    pub fn slots_lease(&self, taken: &[TakenSlot], last: Option<&LeaseVersion>) -> Value {
        let saved =
            SavedSlots { v: SLOTS_VERSION, group: self.group.clone(), slots: taken.to_vec() };
        // Serialising to memory fails only for maps with other keys than text.
        let saved = serde_json::to_string(&saved).unwrap_or_default();
        self.lease(&self.slots, json!({ SLOTS: saved }), last)
    }

    /// Name of the lease of the node that pages for a subject.
    pub fn page(&self, subject: &PageSubject) -> String {
        page_name(&self.group, &page_text(subject))
    }

    /// Lease of a page that this run of the node sends. `last` is the version that it replaces.
    pub fn page_lease(
        &self,
        subject: &PageSubject,
        run: u64,
        last: Option<&LeaseVersion>,
    ) -> Value {
        let annotations = json!({ NODE: self.node, PAGE: page_text(subject) });
        let mut lease = self.lease(&self.page(subject), annotations, last);
        lease["spec"] = json!({ "holderIdentity": run.to_string() });
        lease
    }

    /// Page that a lease is; `None` if it is another kind of lease, or damaged.
    pub fn page_of(&self, lease: &Lease) -> Option<TakenPage> {
        let name = page_name(&self.group, lease.annotation(PAGE)?);
        let node = lease.annotation(NODE).filter(|node| is_key_name(node))?;
        let (node, run) = (node.to_owned(), lease.holder().to_owned());
        (name == lease.metadata.name).then_some(TakenPage { node, run })
    }

    /// Name of the lease of another node of the group.
    pub fn member_of(&self, node: &str) -> String {
        member_name(&self.group, node)
    }

    fn lease(&self, name: &str, annotations: Value, last: Option<&LeaseVersion>) -> Value {
        let mut metadata = json!({
            "name": name, "labels": { GROUP_LABEL: self.label }, "annotations": annotations,
        });
        if let Some(LeaseVersion { uid, version, .. }) = last {
            metadata["uid"] = uid.as_str().into();
            metadata["resourceVersion"] = version.as_str().into();
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
            "spec": {},
        })
    }

    /// Reads the lease with the slots of the group.
    ///
    /// # Errors
    ///
    /// Returns an error if it is damaged, of another version, or of another group.
    pub fn slots_of(&self, lease: &Lease) -> Result<GroupSlots, String> {
        let text = lease.annotation(SLOTS).ok_or("it has none")?;
        let saved: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if saved["v"] != SLOTS_VERSION {
            let version = saved["v"].as_u64().map_or("none".to_owned(), |v| v.to_string());
            return Err(format!(
                "they have version {version}, and this agent reads version {SLOTS_VERSION}"
            ));
        }
        let saved: SavedSlots = serde_json::from_value(saved).map_err(|error| error.to_string())?;
        if saved.group != self.group {
            let found: String = saved.group.chars().take(64).collect();
            return Err(format!("they are of group {found:?}, and not of {:?}", self.group));
        }
        if let Some(slot) = saved.slots.iter().find(|slot| !is_key_name(&slot.node)) {
            let found: String = slot.node.chars().take(64).collect();
            return Err(format!("one is of node {found:?}, which is no name"));
        }
        let version = &lease.metadata.version;
        let revision = version.parse().ok().filter(|revision| *revision > 0);
        let revision =
            revision.ok_or_else(|| format!("their resourceVersion is {version:?}, no number"))?;
        Ok(GroupSlots { version: Some(lease.version()), revision, taken: saved.slots })
    }
}

impl Lease {
    /// Version of this lease.
    pub fn version(&self) -> LeaseVersion {
        let LeaseMetadata { name, uid, version, .. } = self.metadata.clone();
        LeaseVersion { name, uid, version }
    }

    /// Number of the run that holds the lease, as text; empty without one.
    pub fn holder(&self) -> &str {
        self.spec.holder.as_deref().unwrap_or_default()
    }

    /// Time of the last renewal, in seconds since 1970; `None` without a valid one.
    pub fn renewed_secs(&self) -> Option<f64> {
        let renewed = humantime::parse_rfc3339(self.spec.renewed.as_deref()?).ok()?;
        Some(renewed.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    }

    /// Returns whether the lease was renewed in this time before `now_secs`. One that was renewed
    /// in the future was not renewed by the API server's time.
    pub fn is_renewed(&self, now_secs: f64, within_secs: f64) -> bool {
        let ages = -SKEW_SECS..=within_secs + SKEW_SECS;
        self.renewed_secs().is_some_and(|renewed| ages.contains(&(now_secs - renewed)))
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

impl LeaseVersion {
    /// Options of a request that deletes this version only.
    pub fn delete_options(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": { "uid": self.uid, "resourceVersion": self.version },
        })
    }
}

impl LeasePage {
    /// Returns the version of the store, the token of the next page, and the leases.
    ///
    /// # Errors
    ///
    /// Returns an error if it is something else, or there is no version.
    pub fn parts(self) -> Result<(String, Option<String>, Vec<Lease>), String> {
        if self.kind != "LeaseList" {
            let kind: String = self.kind.chars().take(64).collect();
            return Err(format!("it is a {kind:?}, and no LeaseList"));
        }
        let PageMetadata { version, next } = self.metadata;
        if version.is_empty() {
            return Err("the list has no resourceVersion".to_owned());
        }
        Ok((version, (!next.is_empty()).then_some(next), self.items.unwrap_or_default()))
    }
}

impl GroupSlots {
    /// Returns whether this run of a node has a slot.
    pub fn has(&self, node: &str, run: u64) -> bool {
        self.taken.iter().any(|slot| slot.node == node && slot.run == run)
    }

    /// Slots of all nodes but one.
    pub fn without(&self, node: &str) -> Vec<TakenSlot> {
        self.taken.iter().filter(|slot| slot.node != node).cloned().collect()
    }
}

impl<'a> LeaseListing<'a> {
    /// Creates an empty listing of the group of `names` at `now_secs` by the API server's clock.
    pub fn new(names: &'a LeaseNames, now_secs: f64, silent_secs: f64) -> Self {
        Self {
            names,
            now_secs,
            silent_secs,
            members: BTreeMap::new(),
            slots: GroupSlots::default(),
            forgotten: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// Takes the leases that nobody needs: of nodes that have been silent for too long, and of
    /// pages of runs that are over. To be called once all leases are added.
    pub fn take_forgotten(&mut self) -> Vec<LeaseVersion> {
        let mut forgotten = std::mem::take(&mut self.forgotten);
        for (version, page) in self.pages.drain(..) {
            let sender = self.members.get(&page.node);
            if sender.is_none_or(|member| !member.is_renewed || member.holder != page.run) {
                forgotten.push(version);
            }
        }
        forgotten
    }

    /// Adds a lease with the group's label.
    ///
    /// # Errors
    ///
    /// Returns an error if the slots of the group cannot be read.
    pub fn add(&mut self, lease: &Lease) -> Result<(), String> {
        if lease.metadata.name == self.names.slots {
            self.slots = self.names.slots_of(lease)?;
            return Ok(());
        }
        let group = &self.names.group;
        if let Some(page) = self.names.page_of(lease) {
            self.pages.push((lease.version(), page));
            return Ok(());
        }
        let node = lease.annotation(NODE).filter(|node| is_key_name(node));
        let own = node.filter(|node| member_name(group, node) == lease.metadata.name);
        let is_forgotten =
            lease.renewed_secs().is_some_and(|renewed| self.now_secs - renewed > MEMBER_SECS);
        let (node, report) = match own {
            Some(_) if is_forgotten => {
                self.forgotten.push(lease.version());
                return Ok(());
            }
            Some(node) => (node.to_owned(), self.report_of(lease, node)),
            // No name of a node has a slash.
            None => (
                format!("lease/{}", lease.metadata.name.chars().take(253).collect::<String>()),
                Err(match node {
                    Some(node) => format!("it names node {node:?}, whose lease has another name"),
                    None => format!("its lease has no annotation {NODE} with a name"),
                }),
            ),
        };
        let is_renewed = lease.is_renewed(self.now_secs, self.silent_secs);
        let member = ListedMember { report, holder: lease.holder().to_owned(), is_renewed };
        self.members.insert(node, member);
        Ok(())
    }

    fn report_of(&self, lease: &Lease, node: &str) -> Result<NodeReport, String> {
        let report = lease.annotation(REPORT).ok_or("it has no report")?;
        let report = NodeReport::parse(report.as_bytes(), node, &self.names.group);
        report.map_err(|error| error.to_string())
    }

    /// Returns the snapshot.
    pub fn into_snapshot(self) -> Snapshot {
        let GroupSlots { revision, taken, .. } = self.slots;
        let members = self.members.into_iter().map(|(node, member)| {
            let ListedMember { report, holder, is_renewed } = member;
            // A run speaks for itself only.
            let is_holder = report.as_ref().is_ok_and(|report| report.run.to_string() == holder);
            let mut slots = taken.iter().filter(|slot| slot.node == node);
            let has_slot = is_renewed && slots.any(|slot| slot.run.to_string() == holder);
            Member {
                node,
                is_alive: is_renewed && (is_holder || report.is_err()),
                has_slot,
                report,
            }
        });
        Snapshot { members: members.collect(), grant_revision: revision }
    }
}

/// Subject of a page, as text.
fn page_text(PageSubject { cause, is_critical }: &PageSubject) -> String {
    format!("{} {cause}", if *is_critical { "critical" } else { "warning" })
}

/// Name of the lease of a page.
fn page_name(group: &str, subject: &str) -> String {
    lease_name(&format!("page-{subject}"), &hash(&["page", group, subject]))
}

/// Name of a node's lease.
fn member_name(group: &str, node: &str) -> String {
    lease_name(node, &hash(&["node", group, node]))
}

/// Name that a person recognises, and that the hash makes unique. The API allows lowercase letters,
/// digits, dashes and dots.
fn lease_name(text: &str, hash: &str) -> String {
    let is_allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let readable: String = text
        .chars()
        .take(READABLE_BYTES_MAX)
        .map(|c| Some(c.to_ascii_lowercase()).filter(is_allowed).unwrap_or('-'))
        .collect();
    format!("spillway-{readable}-{hash}")
}

/// Half of the SHA-256 of these texts, none of which but the last has a slash.
fn hash(parts: &[&str]) -> String {
    let hash = digest::digest(&digest::SHA256, parts.join("/").as_bytes());
    hash.as_ref().iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn time_text(secs: f64) -> String {
    let since = Duration::try_from_secs_f64(secs.min(TIME_SECS_MAX)).unwrap_or_default();
    humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests;
