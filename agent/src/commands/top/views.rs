//! The views, each with its columns: another view is a line in [`VIEWS`], another column a line in
//! its view.

use std::borrow::Cow;

use super::{
    cell::{
        CellValue::{Bytes, Count, Pace, PerSec, Pid, Queue, Secs, Severity, Share, Text, Time},
        rank,
    },
    details::{
        amount, deeds, of_change, of_incident, of_listener, of_probe, of_resource, of_workload,
    },
    table::{
        Sorted::{Falling, Rising},
        TopTable, TopView, column,
    },
};
use crate::status::{
    StatusReport,
    report::{ChangeEntry, IncidentEntry, ListenerEntry, ProbeLine, ResourceEntry, WorkloadEntry},
    text::{actions, rotation},
};

/// Views, in the order of their tabs.
pub(super) static VIEWS: &[&dyn TopView] =
    &[&WORKLOADS, &LISTENERS, &RESOURCES, &INCIDENTS, &ACTIONS, &PROBES];

static WORKLOADS: TopTable<WorkloadEntry> = TopTable {
    title: "Workloads",
    none: "no workload is listed",
    items: |report| Cow::Borrowed(&report.workloads),
    total: |report| report.workloads_total,
    id: |workload| format!("{}\n{}", workload.cgroup, workload.name),
    incident: |workload| workload.incident.as_deref(),
    tie: |workload| workload.memory_bytes as f64,
    details: of_workload,
    note: |_| String::new(),
    columns: &[
        column("GROWTH", 14, 0, Falling, |w, _| Pace(w.growth_bytes_per_sec)),
        column("MEMORY", 10, 0, Falling, |w, _| Bytes(Some(w.memory_bytes as f64))),
        column("LIMIT", 10, 0, Falling, |w, _| Bytes(w.limit_bytes.map(|bytes| bytes as f64))),
        column("USED", 6, 110, Falling, |w, _| Share(w.memory_bytes, w.limit_bytes.unwrap_or(0))),
        column("PROCS", 6, 0, Falling, |w, _| Count(Some(w.processes))),
        column("LARGEST", 16, 100, Rising, |w, _| Text(w.comm.clone())),
        column("PID", 8, 120, Rising, |w, _| Pid(w.pid)),
        column("WORKLOAD", 0, 0, Rising, |w, _| Text(w.name.clone())),
    ],
};

static LISTENERS: TopTable<ListenerEntry> = TopTable {
    title: "Listeners",
    none: "no listener is listed",
    items: |report| Cow::Borrowed(&report.listeners),
    total: |report| report.listeners_total,
    id: |listener| format!("{}\n{}", listener.addr, listener.netns),
    incident: |listener| listener.incident.as_deref(),
    tie: |listener| listener.in_flight.unwrap_or(0) as f64,
    details: of_listener,
    note: |_| String::new(),
    columns: &[
        column("WAIT", 8, 0, Falling, |l, _| Secs(l.oldest_wait_secs)),
        column("FLIGHT", 7, 0, Falling, |l, _| Count(l.in_flight)),
        column("OLDEST", 8, 0, Falling, |l, _| Secs(l.oldest_in_flight_secs)),
        column("QUEUE", 9, 0, Falling, |l, _| Queue(l.backlog, l.backlog_max)),
        column("P99", 8, 100, Falling, |l, _| Secs(l.wait_p99_secs)),
        column("ACCEPTS", 8, 110, Falling, |l, _| PerSec(l.accepted_per_sec)),
        column("OPEN", 7, 120, Falling, |l, _| Count(l.connections)),
        column("DROPS", 9, 130, Falling, |l, _| Count(l.overflows_total)),
        column("ADDRESS", 21, 0, Rising, |l, _| Text(l.addr.clone())),
        column("PROCESS", 16, 140, Rising, |l, _| Text(l.comm.clone())),
        column("WORKLOAD", 0, 0, Rising, |l, _| Text(l.name.clone())),
    ],
};

static RESOURCES: TopTable<ResourceEntry> = TopTable {
    title: "Resources",
    none: "no limited resource is listed",
    items: |report| Cow::Borrowed(&report.resources),
    total: |report| report.resources.len() as u64,
    id: |resource| format!("{}\n{}", resource.resource, resource.subject),
    incident: |resource| resource.incident.as_deref(),
    tie: |resource| resource.used as f64 / resource.limit.max(1) as f64,
    details: of_resource,
    note: |_| String::new(),
    columns: &[
        column("LEFT", 9, 0, Rising, |r, _| Secs(r.exhaustion_secs)),
        column("SHARE", 6, 0, Falling, |r, _| Share(r.used, r.limit)),
        column("USED", 10, 0, Falling, |r, _| amount(r, r.used)),
        column("LIMIT", 10, 0, Falling, |r, _| amount(r, r.limit)),
        column("RESOURCE", 12, 0, Rising, |r, _| Text(r.resource.clone())),
        column("OF", 0, 0, Rising, |r, _| Text(r.subject.clone())),
    ],
};

static INCIDENTS: TopTable<IncidentEntry> = TopTable {
    title: "Incidents",
    none: "no incident is open",
    items: |report| Cow::Borrowed(&report.incidents),
    total: |report| report.incidents_total,
    id: |incident| incident.id.clone(),
    incident: |incident| Some(&incident.id),
    // Those of one severity keep the order of the report.
    tie: |incident| f64::from(rank(&incident.severity)),
    details: of_incident,
    note: |_| String::new(),
    columns: &[
        column("SEVERITY", 9, 0, Falling, |i, _| Severity(i.severity.clone())),
        column("FOR", 8, 0, Falling, |i, _| Secs(Some(i.lasted_secs))),
        column("LEFT", 8, 0, Rising, |i, _| Secs(i.exhaustion_secs)),
        column("VERDICT", 12, 100, Rising, |i, _| Text(i.verdict.clone())),
        column("ACTIONS", 20, 0, Rising, |i, _| Text(deeds(i))),
        column("SURE", 6, 110, Falling, |i, _| Share((i.confidence * 100.0) as u64, 100)),
        column("INCIDENT", 0, 0, Rising, |i, _| Text(i.headline.clone())),
    ],
};

static ACTIONS: TopTable<ChangeEntry> = TopTable {
    title: "Actions",
    none: "nothing on this host is changed",
    items: changes,
    total: |report| report.changes_total + u64::from(node_change(report).is_some()),
    id: |change| format!("{}\n{}", change.action, change.subject),
    incident: |change| change.incidents.first().map(String::as_str),
    tie: |_| 0.0,
    details: of_change,
    note: actions,
    columns: &[
        column("SINCE", 10, 0, Falling, |c, report| Time(c.since.clone(), report.at.clone())),
        column("ACTION", 7, 0, Rising, |c, _| Text(c.action.clone())),
        column("STATE", 12, 0, Rising, |c, _| Text(c.state.replace('_', " "))),
        column("LIMIT", 10, 0, Falling, |c, _| Bytes(c.limit_bytes.map(|bytes| bytes as f64))),
        column("UNTIL", 36, 120, Rising, |c, _| Text(c.until.clone())),
        column("OF", 0, 0, Rising, |c, _| Text(c.subject.clone())),
    ],
};

static PROBES: TopTable<ProbeLine> = TopTable {
    title: "Probes",
    none: "no probe is listed before the first scan",
    items: |report| Cow::Borrowed(&report.probes),
    total: |report| report.probes.len() as u64,
    id: |probe| probe.probe.clone(),
    incident: |_| None,
    tie: |_| 0.0,
    details: of_probe,
    note: |report| {
        let reasons = report.health.reasons.iter().map(|reason| reason.detail.as_str());
        reasons.collect::<Vec<_>>().join("; ")
    },
    columns: &[
        column("STATE", 8, 0, Falling, |p, _| Text(p.state.clone())),
        column("PROBE", 20, 0, Rising, |p, _| Text(p.probe.clone())),
        column("SOURCE", 26, 90, Rising, |p, _| Text(p.source.clone())),
        column("LACKS", 0, 0, Rising, |p, _| Text(p.lacks.clone().unwrap_or_default())),
    ],
};

/// Returns the changes to this host, and the one to its rotation if there is one.
fn changes(report: &StatusReport) -> Cow<'_, [ChangeEntry]> {
    match node_change(report) {
        None => Cow::Borrowed(&report.changes),
        Some(change) => Cow::Owned([&[change], &report.changes[..]].concat()),
    }
}

/// Returns the change to the rotation of this node: a drain, or a lower weight.
fn node_change(report: &StatusReport) -> Option<ChangeEntry> {
    let drain = &report.drain;
    let is_drain = drain.out || drain.operator.is_some() || drain.state != "healthy";
    // An agent of another version may not say.
    let is_whole = matches!(drain.answer.as_str(), "" | "ready 100%");
    (!drain.state.is_empty() && (is_drain || !is_whole)).then(|| ChangeEntry {
        action: match drain.operator.as_deref() {
            Some("undrain") => "undrain".to_owned(),
            _ if is_drain => "drain".to_owned(),
            _ => "weigh".to_owned(),
        },
        subject: "this node".to_owned(),
        since: drain.since.clone().unwrap_or_default(),
        state: if is_drain { &drain.state } else { &drain.answer }.clone(),
        why: rotation(drain, &report.at),
        incidents: drain.incident.iter().cloned().collect(),
        until: drain.until.clone().unwrap_or_default(),
        limit_bytes: None,
    })
}
