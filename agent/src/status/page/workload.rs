//! Page of one workload: its memory over the last day, with limit, forecast and marks.

use maud::{Markup, html};

use super::{
    super::report::{IncidentEntry, ResourceEntry, StatusReport, WorkloadEntry},
    class, link, timeline,
};
use crate::{
    history::{
        chart::{self, Band, Chart},
        series::WorkloadSeries,
    },
    units::{Count, Size, Span},
};

pub(super) fn body(
    workload: &WorkloadEntry,
    series: Option<&WorkloadSeries>,
    report: &StatusReport,
) -> Markup {
    let WorkloadEntry { name, cgroup, processes, comm, pid, memory_bytes, .. } = workload;
    let incidents = about(report, |incident| incident.cgroup == *cgroup);
    html! {
        p { a href="/" { "All of " (report.host) } }
        h1 { (name) }
        (open_incidents(&incidents))
        dl {
            dt { "memory" }
            dd { (Size(*memory_bytes as f64)) " in " (Count(*processes))
                @if *processes == 1 { " process" } @else { " processes" } }
            dt { "growth" }
            dd { (growth(workload)) }
            dt { "limit" }
            dd { @match workload.limit_bytes {
                Some(bytes) => (Size(bytes as f64)),
                None => "none of its own: the host's memory",
            } }
            dt { "largest" } dd { (comm) " (pid " (pid) ")" }
            dt { "cgroup" } dd { code { (cgroup) } }
        }
        h2 { "Memory" }
        @match series {
            Some(series) => {
                (memory(workload, series, report))
                (chart::list(&series.marks, now_ms(report)))
            }
            None => (no_history()),
        }
    }
}

fn memory(workload: &WorkloadEntry, series: &WorkloadSeries, report: &StatusReport) -> Markup {
    let chart = Chart {
        title: "Anonymous, swapped and shared memory",
        points: &series.memory,
        limit: &series.limit,
        band: band(workload, report),
        marks: &series.marks,
        now_ms: now_ms(report),
        unit: chart::BYTES,
    };
    chart.draw()
}

/// Returns the forecast of the resource that ends first: the workload's own limit, or the host's
/// memory.
fn band(workload: &WorkloadEntry, report: &StatusReport) -> Option<Band> {
    let is_own =
        |entry: &&ResourceEntry| entry.resource == "memory" && entry.subject == workload.cgroup;
    let is_host = |entry: &&ResourceEntry| {
        entry.resource == "memory"
            && entry.subject == "host"
            && entry.incident.is_some()
            && entry.incident == workload.incident
    };
    let resources = || report.resources.iter().filter(|entry| entry.exhaustion_secs.is_some());
    let entry = resources().find(is_own).or_else(|| resources().find(is_host))?;
    let incident = report.incidents.iter().find(|one| Some(&one.id) == entry.incident.as_ref())?;
    let secs = incident.exhaustion_secs?;
    let interval = incident.exhaustion_interval_secs.unwrap_or([secs, secs]);
    let free = entry.limit.saturating_sub(entry.used);
    Some(Band { limit: workload.memory_bytes.saturating_add(free) as f64, secs: interval })
}

/// Describes the growth of a workload.
pub(super) fn growth(workload: &WorkloadEntry) -> String {
    match workload.growth_bytes_per_sec {
        None => "not known yet".to_owned(),
        Some(pace) if pace.abs() * 3_600.0 < 1_048_576.0 => {
            format!("none to speak of in {}", Span(workload.growth_secs))
        }
        Some(pace) => {
            let sign = if pace < 0.0 { "-" } else { "+" };
            let size = Size(pace.abs() * 3_600.0);
            format!("{sign}{size} an hour, over {}", Span(workload.growth_secs))
        }
    }
}

/// Returns the open incidents about a subject.
pub(super) fn about(
    report: &StatusReport,
    is_about: impl Fn(&IncidentEntry) -> bool,
) -> Vec<&IncidentEntry> {
    report.incidents.iter().filter(|incident| is_about(incident)).collect()
}

/// Lists open incidents with links to their pages.
pub(super) fn open_incidents(incidents: &[&IncidentEntry]) -> Markup {
    html! {
        @for incident in incidents {
            section class={ "card " (class(&incident.severity)) } {
                p class="badge" { (incident.severity) }
                h3 { a href=(link(incident)) { (incident.headline) } }
            }
        }
    }
}

/// Says why there is no picture.
pub(super) fn no_history() -> Markup {
    html! {
        p { "There is no history: the agent keeps it if its state directory exists and "
            code { "record.history" } " is not 0s." }
    }
}

/// Time of the report in milliseconds since 1970; 0 if it cannot be read.
pub(super) fn now_ms(report: &StatusReport) -> u64 {
    timeline::unix_secs(&report.at).map_or(0, |secs| (secs * 1e3).round() as u64)
}
