//! Everything about one line of a view, as labels and texts. Pure.

use crate::{
    sense::identity::Identity,
    status::{
        StatusReport,
        report::{
            ActionEntry, ChangeEntry, IncidentEntry, ListenerEntry, ProbeLine, ResourceEntry,
            WorkloadEntry,
        },
        text::{action_label, action_text, change_text},
    },
    units::{Count, Size, Span, clock_time},
};

use super::cell::{CellValue, pace};

/// Emphasis of a text, which never says anything that the text does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// No emphasis.
    Plain,
    /// Titles.
    Strong,
    /// Texts that matter less.
    Faint,
    /// A warning.
    Warning,
    /// Harm.
    Alarm,
    /// The selected line.
    Selected,
}

impl Tone {
    /// Returns that of a severity.
    pub(super) fn of_severity(severity: &str) -> Self {
        match severity {
            "critical" => Self::Alarm,
            "warning" => Self::Warning,
            _ => Self::Strong,
        }
    }
}

/// Labelled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Detail {
    /// Label; empty if it goes on with the one above.
    pub(super) label: String,
    /// Emphasis of the label.
    pub(super) tone: Tone,
    /// Text.
    pub(super) text: String,
}

/// Texts in the making.
struct Details(Vec<Detail>);

impl Details {
    fn add(&mut self, label: &str, text: impl Into<String>) {
        let text = text.into();
        if !text.is_empty() {
            self.0.push(Detail { label: label.to_owned(), tone: Tone::Strong, text });
        }
    }

    fn value(&mut self, label: &str, value: &CellValue) {
        self.add(label, value.text());
    }

    fn blank(&mut self) {
        self.0.push(Detail { label: String::new(), tone: Tone::Plain, text: String::new() });
    }

    /// Adds the incident of an entry.
    fn incident_of(mut self, id: Option<&str>, report: &StatusReport) -> Vec<Detail> {
        let Some(id) = id else { return self.0 };
        self.blank();
        match report.incidents.iter().find(|incident| incident.id == id) {
            Some(incident) => self.0.extend(of_incident(incident, report)),
            None => self.add("incident", format!("{id}; the report does not list it")),
        }
        self.0
    }
}

/// Describes an incident.
pub(super) fn of_incident(incident: &IncidentEntry, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(vec![Detail {
        label: incident.severity.to_uppercase(),
        tone: Tone::of_severity(&incident.severity),
        text: incident.headline.clone(),
    }]);
    let since = clock_time(&incident.since, &report.at);
    let mut since = format!("{since}, for {}", CellValue::Secs(Some(incident.lasted_secs)).text());
    if incident.confidence.is_finite() {
        since.push_str(&format!("; {:.0} % sure", incident.confidence * 100.0));
    }
    if incident.claims > 1 {
        since.push_str(&format!("; {} claims, one cause", Count(incident.claims)));
    }
    details.add("since", since);
    if let Some(secs) = incident.exhaustion_secs.filter(|secs| secs.is_finite()) {
        details.add("runs out", format!("in {}", Span(secs)));
    }
    let evidence = incident.first_evidence();
    details.add("evidence", evidence);
    if incident.why != evidence {
        details.add("now", incident.why.as_str());
    }
    if incident.severity_why != incident.why {
        details.add("harm", incident.severity_why.as_str());
    }
    details.add("also", incident.also.join(", "));
    details.add("to do", incident.advice.as_str());
    let workload = incident.identity.as_ref().map(Identity::sentence).unwrap_or_default();
    details.add("workload", workload);
    details.add("cgroup", incident.cgroup.as_str());
    details.add("pid", incident.pid.map(|pid| pid.to_string()).unwrap_or_default());
    for action in &incident.actions {
        details.add(action_label(&action.state), of_action(action, report));
    }
    if let Some(node) = &incident.paged_by {
        details.add("paged", format!("by node {node}, which has it too"));
    }
    details.add("verdict", incident.verdict.as_str());
    details.add("id", incident.id.as_str());
    details.0
}

fn of_action(action: &ActionEntry, report: &StatusReport) -> String {
    let text = action_text(action, report);
    match action.since.as_str() {
        "" => text,
        since => format!("{}: {text}", clock_time(since, &report.at)),
    }
}

/// Names what was done for an incident, or would be, in a few words.
pub(super) fn deeds(incident: &IncidentEntry) -> String {
    let deeds = incident.actions.iter().map(|action| {
        let ActionEntry { action, state, .. } = action;
        match (action.as_str(), state.as_str()) {
            (_, "would") => format!("would {action}"),
            (_, "refused") => format!("{action} refused"),
            ("page", "ordered") => "paged".to_owned(),
            (_, "ordered") => format!("{action} begun"),
            _ => state.replace('_', " "),
        }
    });
    deeds.collect::<Vec<_>>().join(", ")
}

/// Describes a workload.
pub(super) fn of_workload(workload: &WorkloadEntry, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(Vec::new());
    details.add("workload", workload.name.as_str());
    details.add("cgroup", workload.cgroup.as_str());
    details.value("processes", &CellValue::Count(Some(workload.processes)));
    details.add("largest", format!("{} (pid {})", workload.comm, workload.pid));
    details.value("memory", &CellValue::Bytes(Some(workload.memory_bytes as f64)));
    let growth = workload.growth_bytes_per_sec.filter(|growth| growth.is_finite());
    details.add(
        "growth",
        growth.map_or_else(
            || "not known before there are two minutes of it".to_owned(),
            |growth| format!("{}, over {}", pace(growth), Span(workload.growth_secs)),
        ),
    );
    details.add(
        "limit",
        workload.limit_bytes.map_or_else(
            || "none".to_owned(),
            |limit| {
                let share = CellValue::Share(workload.memory_bytes, limit).text();
                format!("{}, of which {share} in use", Size(limit as f64))
            },
        ),
    );
    details.incident_of(workload.incident.as_deref(), report)
}

/// Describes a listener.
pub(super) fn of_listener(listener: &ListenerEntry, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(Vec::new());
    details.add("listener", listener.addr.as_str());
    details.add("workload", listener.name.as_str());
    details.add("cgroup", listener.cgroup.as_str());
    let pid = listener.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    details.add("process", format!("{}{pid}", listener.comm).trim_start());
    details.add("namespace", listener.netns.to_string());
    let (length, max) = (Count(listener.backlog), Count(listener.backlog_max));
    details.add("queue", format!("{length} of {max} connections wait for accept()"));
    details.value("oldest", &CellValue::Secs(listener.oldest_wait_secs));
    details.value("wait, p99", &CellValue::Secs(listener.wait_p99_secs));
    details.value("accepted", &CellValue::PerSec(listener.accepted_per_sec));
    details.value("dropped", &CellValue::Count(listener.overflows_total));
    details.value("open", &CellValue::Count(listener.connections));
    details.value("in flight", &CellValue::Count(listener.in_flight));
    details.value("for", &CellValue::Secs(listener.oldest_in_flight_secs));
    details.incident_of(listener.incident.as_deref(), report)
}

/// Describes a resource.
pub(super) fn of_resource(resource: &ResourceEntry, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(Vec::new());
    details.add("resource", resource.resource.as_str());
    details.add("of", resource.subject.as_str());
    details.value("used", &amount(resource, resource.used));
    details.value("limit", &amount(resource, resource.limit));
    details.value("share", &CellValue::Share(resource.used, resource.limit));
    let end = resource.exhaustion_secs.filter(|secs| secs.is_finite());
    details.add(
        "runs out",
        end.map_or_else(|| "not foreseen".to_owned(), |secs| format!("in {}", Span(secs))),
    );
    details.incident_of(resource.incident.as_deref(), report)
}

/// Returns a part of a resource in its unit.
pub(super) fn amount(resource: &ResourceEntry, amount: u64) -> CellValue {
    if resource.is_bytes() {
        CellValue::Bytes(Some(amount as f64))
    } else {
        CellValue::Count(Some(amount))
    }
}

/// Describes a change that is in effect.
pub(super) fn of_change(change: &ChangeEntry, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(Vec::new());
    details.add("action", change.action.as_str());
    details.add("of", change.subject.as_str());
    if matches!(change.action.as_str(), "limit" | "shed") {
        details.add("effect", change_text(change, &report.at));
    }
    details.add("since", clock_time(&change.since, &report.at));
    details.add("state", change.state.replace('_', " "));
    details.add("why", change.why.as_str());
    details.add("until", change.until.as_str());
    details.add("incidents", change.incidents.join(", "));
    details.incident_of(change.incidents.first().map(String::as_str), report)
}

/// Describes a probe, and the agent's health.
pub(super) fn of_probe(probe: &ProbeLine, report: &StatusReport) -> Vec<Detail> {
    let mut details = Details(Vec::new());
    details.add("probe", probe.probe.as_str());
    details.add("state", probe.state.as_str());
    details.add("source", probe.source.as_str());
    details.add("lacks", probe.lacks.as_deref().unwrap_or("nothing"));
    details.blank();
    details.add("health", report.health.status.as_str());
    for reason in &report.health.reasons {
        details.add(&reason.kind, reason.detail.as_str());
    }
    details.0
}
