//! Page of one incident: the evidence, the workload, and a timeline with clock times that can be
//! printed for a post-mortem.

use maud::{Markup, html};

use super::{
    super::{
        report::{IncidentEntry, StatusReport},
        text,
    },
    class, timeline, workload_link,
};
use crate::units::{Span, to_second};

pub(super) fn body(incident: &IncidentEntry, report: &StatusReport) -> Markup {
    let usage = report.workloads.iter().find(|workload| workload.cgroup == incident.cgroup);
    let workload = incident.identity.as_ref().map(|identity| identity.sentence());
    let sure = incident.confidence * 100.0;
    html! {
        p { a href="/" { "All of " (report.host) } " · " a href="/incidents" { "Incidents" } }
        section class={ "card " (class(&incident.severity)) } {
            p class="badge" { (incident.severity) " · " (incident.verdict.replace('_', " ")) }
            h1 { (incident.headline) }
            dl {
                dt { "to do" } dd { strong { (incident.advice) } }
                dt { "why" }
                dd { (incident.first_evidence()) " (" (format!("{sure:.0}")) " % sure)" }
                @if incident.why != incident.first_evidence() { dt { "now" } dd { (incident.why) } }
                @if !incident.severity_why.is_empty() && incident.severity_why != incident.why {
                    dt { "harm" } dd { (incident.severity_why) }
                }
                @if let Some(workload) = workload { dt { "workload" } dd { (workload) } }
                @if !incident.cgroup.is_empty() {
                    dt { "cgroup" } dd { code { (incident.cgroup) } }
                }
                @if let Some(usage) = usage {
                    dt { "memory" } dd { a href=(workload_link(usage)) { "its last day" } }
                }
                @if !incident.also.is_empty() { dt { "also" } dd { (incident.also.join(", ")) } }
                @if let Some(node) = &incident.paged_by {
                    dt { "paged" } dd { "by node " (node) ", which has it too" }
                }
                dt { "id" } dd { code { (incident.id) } }
            }
        }
        h2 { "Timeline" }
        (timeline::picture(incident, report))
        ol {
            li { span { (to_second(&incident.since)) }
                span { "claimed: " (incident.first_evidence()) } }
            @for action in &incident.actions {
                li {
                    span { (to_second(&action.since)) }
                    span { (text::action_label(&action.state)) ": " (text::action_text(action, report)) }
                }
            }
            li { span { (to_second(&report.at)) }
                span { "now, " (Span(incident.lasted_secs)) " after the claim" } }
            @if let Some(secs) = incident.exhaustion_secs {
                li { span { "in " (Span(secs)) } span { "forecast end, if nothing is done" } }
            }
        }
    }
}
