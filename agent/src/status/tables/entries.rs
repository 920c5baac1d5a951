//! Rows as entries of the report, each with the open incident that it belongs to.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::report::{ListenerEntry, ResourceEntry, WorkloadEntry},
    LimitSubject, ListenerRow, ResourceRow, WorkloadRow,
};
use crate::{
    act::notify::printable,
    decide::{IncidentId, IncidentView},
    sense::identity::{CgroupName, Identity, NodePods},
};

/// Maximum length of a name, in characters.
const NAME_CHARS_MAX: usize = 300;

/// Open incidents by what they are about.
#[derive(Debug, Default)]
pub struct IncidentIndex<'a> {
    by_cgroup: HashMap<&'a str, String>,
    by_addr: HashMap<(u32, &'a str), String>,
    ends: Vec<ClaimedEnd<'a>>,
}

/// End of a resource that a claim forecasts.
#[derive(Debug)]
struct ClaimedEnd<'a> {
    resource: &'static str,
    is_of_host: bool,
    cgroup: &'a str,
    pid: Option<u32>,
    /// Subject of a count; `None` if it is no count that ends.
    counted: Option<Arc<str>>,
    /// Time until it, as of the report.
    secs: Option<f64>,
    incident: String,
}

impl<'a> IncidentIndex<'a> {
    /// Creates the index of these incidents, the worst first, for a report at `now`. One that a
    /// limit of Spillway's holds has no end.
    pub fn new(incidents: impl Iterator<Item = (&'a IncidentView, bool)>, now: f64) -> Self {
        let mut index = Self::default();
        for (incident, is_held) in incidents {
            let id = printable(&incident.id.to_string(), NAME_CHARS_MAX);
            for verdict in &incident.claims {
                let claim = &verdict.claim;
                if !claim.cgroup().is_empty() {
                    index.by_cgroup.entry(claim.cgroup()).or_insert_with(|| id.clone());
                }
                if let Some((netns, addr)) = claim.listener() {
                    index.by_addr.entry((netns, addr)).or_insert_with(|| id.clone());
                }
                let secs = verdict.exhaustion_secs.filter(|_| !is_held);
                index.ends.push(ClaimedEnd {
                    resource: claim.resource(),
                    is_of_host: claim.endangers_host(),
                    cgroup: claim.cgroup(),
                    pid: claim.pid(),
                    counted: match claim.id() {
                        IncidentId::Exhaustion { subject, .. } => Some(subject),
                        _ => None,
                    },
                    secs: secs.map(|secs| (secs - (now - verdict.t).max(0.0)).max(0.0)),
                    incident: id.clone(),
                });
            }
        }
        index
    }

    /// Returns the end that is forecast for a resource, the nearest one.
    fn end(&self, row: &ResourceRow) -> Option<&ClaimedEnd<'a>> {
        let is_of = |end: &&ClaimedEnd<'_>| match &row.subject {
            LimitSubject::Host => end.is_of_host && end.resource == row.resource,
            LimitSubject::Cgroup(cgroup) => {
                !end.is_of_host && end.resource == row.resource && **cgroup == *end.cgroup
            }
            LimitSubject::Process(pid, _) => {
                let is_same = end.resource == row.resource || end.resource == "close_wait";
                is_same && end.pid == Some(*pid)
            }
            LimitSubject::Counted(subject) => {
                end.resource == row.resource && end.counted.as_ref() == Some(subject)
            }
        };
        let left = |end: &&ClaimedEnd<'_>| end.secs.unwrap_or(f64::INFINITY);
        let ends = self.ends.iter().filter(is_of);
        ends.min_by(|one, other| left(one).total_cmp(&left(other)))
    }
}

/// Makes entries of workloads.
pub fn workload_entries(
    rows: &[WorkloadRow],
    index: &IncidentIndex<'_>,
    pods: &NodePods,
) -> Vec<WorkloadEntry> {
    let entry = |row: &WorkloadRow| WorkloadEntry {
        name: name_of(&row.cgroup, pods),
        cgroup: shown(&row.cgroup),
        processes: row.processes,
        comm: shown(&row.largest.1),
        pid: row.largest.0,
        memory_bytes: row.memory_bytes,
        growth_bytes_per_sec: row.growth_bytes_per_sec,
        growth_secs: row.growth_secs,
        limit_bytes: row.limit_bytes,
        incident: index.by_cgroup.get(&*row.cgroup).cloned(),
    };
    rows.iter().map(entry).collect()
}

/// Makes entries of listeners.
pub fn listener_entries(
    rows: &[ListenerRow],
    index: &IncidentIndex<'_>,
    pods: &NodePods,
) -> Vec<ListenerEntry> {
    let secs = |us: Option<u64>| us.map(|us| us as f64 / 1e6);
    let entry = |row: &ListenerRow| {
        let (listener, requests) = (&row.listener, row.requests.as_ref());
        let is_known = !listener.cgroup.is_empty();
        ListenerEntry {
            addr: shown(&listener.addr),
            netns: listener.netns,
            name: if is_known { name_of(&listener.cgroup, pods) } else { String::new() },
            cgroup: shown(&listener.cgroup),
            comm: shown(&listener.comm),
            pid: listener.pid,
            backlog: row.backlog,
            backlog_max: row.backlog_max,
            oldest_wait_secs: secs(listener.oldest_wait_us),
            wait_p99_secs: secs(listener.sojourn_p99_us),
            accepted_per_sec: row.accepted_per_sec,
            overflows_total: listener.overflows_total,
            connections: requests.and_then(|requests| requests.connections).map(u64::from),
            in_flight: requests.map(|requests| requests.in_flight.into()),
            oldest_in_flight_secs: secs(requests.and_then(|one| one.oldest_in_flight_us)),
            incident: index.by_addr.get(&(listener.netns, &*listener.addr)).cloned(),
        }
    };
    rows.iter().map(entry).collect()
}

/// Makes entries of resources: the nearest forecast end first, then the fullest.
pub fn resource_entries(rows: &[ResourceRow], index: &IncidentIndex<'_>) -> Vec<ResourceEntry> {
    let entry = |row: &ResourceRow| {
        let end = index.end(row);
        ResourceEntry {
            resource: row.resource.to_owned(),
            subject: match &row.subject {
                LimitSubject::Host => "host".to_owned(),
                LimitSubject::Cgroup(name) | LimitSubject::Counted(name) => shown(name),
                LimitSubject::Process(pid, name) => shown(&format!("{name} (pid {pid})")),
            },
            used: row.used,
            limit: row.limit,
            exhaustion_secs: end.and_then(|end| end.secs),
            incident: end.map(|end| end.incident.clone()),
        }
    };
    let mut entries: Vec<_> = rows.iter().map(entry).collect();
    let left = |entry: &ResourceEntry| entry.exhaustion_secs.unwrap_or(f64::INFINITY);
    // Stable: those without a forecast stay in the order of the rows.
    entries.sort_by(|one, other| left(one).total_cmp(&left(other)));
    entries
}

/// Names a workload as a person knows it: its unit, pod or container, or else the last part of its
/// cgroup.
fn name_of(cgroup: &str, pods: &NodePods) -> String {
    let last = || cgroup.rsplit('/').find(|part| !part.is_empty()).unwrap_or("/").to_owned();
    let mut identity = Identity::of_cgroup(cgroup);
    pods.name(&mut identity, &CgroupName::of(cgroup));
    shown(&identity.place().unwrap_or_else(last))
}

fn shown(text: &str) -> String {
    printable(text, NAME_CHARS_MAX)
}
