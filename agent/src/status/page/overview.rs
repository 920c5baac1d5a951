//! Overview: the incidents, the worst first, what is changed on this host, and what the agent sees.

use maud::{Markup, html};

use super::{
    super::{
        report::{ChangeEntry, IncidentEntry, ProbeLine, ResourceEntry, StatusReport},
        text,
    },
    class, link,
    listener::process,
    listener_link,
    workload::growth,
    workload_link,
};
use crate::units::{Count, Size, Span, clock_time};

/// Returns the title: a tab in the background shows how the host is.
pub(super) fn title(report: &StatusReport) -> String {
    match report.incidents.first() {
        None => format!("{}: no incident", report.host),
        Some(worst) => {
            format!("{} {} on {}", report.incidents_total, worst.severity, report.host)
        }
    }
}

pub(super) fn body(report: &StatusReport) -> Markup {
    let hang = report.health.reasons.iter().find(|reason| reason.kind == "hang");
    html! {
        h1 { (report.host) }
        p { (mode(report)) " It has been up for " (Span(report.uptime_secs)) "." }
        @if let Some(hang) = hang {
            section class="card critical" {
                p class="badge" { "hangs" }
                p { "Spillway no longer watches this host: " (hang.detail) ". "
                    code { "systemctl restart spillway" } " starts it anew." }
            }
        }
        h2 { "Incidents" }
        @if report.incidents.is_empty() {
            section class="card well" { p class="badge" { "none is open" } }
        }
        @for incident in &report.incidents { (card(incident, report)) }
        @if report.incidents_total > report.incidents.len() as u64 {
            p { (Count(report.incidents_total - report.incidents.len() as u64)) " more; "
                code { "spillway status --json" } " lists them." }
        }
        p { a href="/incidents" { "Incidents of the last day" } }
        h2 { "This node" }
        (node(report))
        h2 { "Resources" }
        (resources(report))
        h2 { "Workloads" }
        (workloads(report))
        h2 { "Listeners" }
        (listeners(report))
        h2 { "What Spillway sees" }
        (probes(&report.probes))
    }
}

fn mode(report: &StatusReport) -> &'static str {
    match (report.paused, report.mode.as_str()) {
        (true, "observe") => "Spillway only observes, and is paused as well.",
        (true, _) => "Spillway is paused: it watches, and starts no action.",
        (false, "observe") => "Spillway only observes: it changes nothing on this host.",
        (false, _) => "Spillway watches and acts.",
    }
}

fn card(incident: &IncidentEntry, report: &StatusReport) -> Markup {
    html! {
        section class={ "card " (class(&incident.severity)) } {
            p class="badge" { (incident.severity) }
            h3 { a href=(link(incident)) { (incident.headline) } }
            dl {
                dt { "since" }
                dd { (clock_time(&incident.since, &report.at)) ", for "
                    (Span(incident.lasted_secs)) }
                @for action in &incident.actions {
                    dt { (text::action_label(&action.state)) }
                    dd { (text::action_text(action, report)) }
                }
                dt { "to do" }
                dd { (incident.advice) }
            }
        }
    }
}

fn node(report: &StatusReport) -> Markup {
    html! {
        dl {
            dt { "rotation" }
            dd { (text::rotation(&report.drain, &report.at)) }
            @for change in &report.changes { (changed(change, report)) }
            @if report.changes.is_empty() { dt { "changed" } dd { "nothing on this host" } }
            @if let Some(fleet) = &report.fleet { dt { "group" } dd { (text::group(fleet)) } }
            dt { "actions" }
            dd { (text::actions(report)) }
            dt { "notifies" }
            dd { (text::notifies(report)) }
            @for reason in report.health.reasons.iter().filter(|reason| is_trouble(&reason.kind)) {
                dt { "trouble" }
                dd { (reason.detail) }
            }
        }
    }
}

/// Returns whether a reason is told nowhere else on the page.
fn is_trouble(kind: &str) -> bool {
    !matches!(kind, "probe" | "hang" | "notification")
}

fn changed(change: &ChangeEntry, report: &StatusReport) -> Markup {
    html! { dt { "changed" } dd { (text::change_text(change, &report.at)) } }
}

/// Rows of a table on the overview: `spillway top` has more.
const ROWS_MAX: usize = 10;

fn resources(report: &StatusReport) -> Markup {
    html! {
        table {
            thead { tr { th { "resource" } th { "of" } th { "in use" } th { "runs out in" } } }
            tbody {
                @for entry in report.resources.iter().take(ROWS_MAX) {
                    tr {
                        td { (entry.resource) }
                        td { (entry.subject) }
                        td data-of="in use:" { (share(entry)) }
                        td data-of="runs out in:" { @match entry.exhaustion_secs {
                            Some(secs) => (Span(secs)),
                            None => "no end in sight",
                        } }
                    }
                }
            }
        }
    }
}

/// Describes the part of a resource that is in use.
fn share(entry: &ResourceEntry) -> String {
    let percent = entry.used as f64 / entry.limit.max(1) as f64 * 100.0;
    if entry.is_bytes() {
        let [used, limit] = [entry.used, entry.limit].map(|bytes| Size(bytes as f64));
        format!("{used} of {limit} ({percent:.0} %)")
    } else {
        format!("{} of {} ({percent:.0} %)", Count(entry.used), Count(entry.limit))
    }
}

fn workloads(report: &StatusReport) -> Markup {
    html! {
        table {
            thead { tr { th { "workload" } th { "memory" } th { "growth" } th { "processes" } } }
            tbody {
                @for workload in report.workloads.iter().take(ROWS_MAX) {
                    tr {
                        td { a href=(workload_link(workload)) { (workload.name) } }
                        td data-of="memory:" { (Size(workload.memory_bytes as f64)) }
                        td data-of="growth:" { (growth(workload)) }
                        td data-of="processes:" { (Count(workload.processes)) }
                    }
                }
            }
        }
        (more(report.workloads_total))
    }
}

fn listeners(report: &StatusReport) -> Markup {
    html! {
        table {
            thead { tr { th { "listener" } th { "process" } th { "waiting" } th { "in flight" } } }
            tbody {
                @for listener in report.listeners.iter().take(ROWS_MAX) {
                    tr {
                        td { a href=(listener_link(listener)) { (listener.addr) } }
                        td { (process(listener)) }
                        td data-of="waiting:" { (Count(listener.backlog)) }
                        td data-of="in flight:" { @match listener.in_flight {
                            Some(in_flight) => (Count(in_flight)),
                            None => "not seen",
                        } }
                    }
                }
            }
        }
        (more(report.listeners_total))
    }
}

/// Tells how many of a table are not shown.
fn more(total: u64) -> Markup {
    html! {
        @if total > ROWS_MAX as u64 {
            p { (Count(total - ROWS_MAX as u64)) " more; " code { "spillway top" } " lists them." }
        }
    }
}

fn probes(probes: &[ProbeLine]) -> Markup {
    html! {
        table {
            thead { tr { th { "probe" } th { "state" } th { "source" } th { "lacks" } } }
            tbody {
                @for probe in probes {
                    tr {
                        td { (probe.probe) }
                        td { (probe.state) }
                        td { (probe.source) }
                        td { (probe.lacks.as_deref().unwrap_or_default()) }
                    }
                }
            }
        }
    }
}
