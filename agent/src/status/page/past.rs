//! Incidents that are over: a list of those of the last day, and the course of each, from the
//! history.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{super::report::StatusReport, class, segment};
use crate::{
    act::notify::timestamp,
    history::HistoryEvent,
    units::{Span, clock_time, to_second},
};

/// Events, each with its time in milliseconds since 1970.
pub(super) type Events = Vec<(u64, HistoryEvent)>;

/// Page in place of one of an open incident: its course if the history has it.
pub(super) fn incident(id: &str, events: Option<&Events>, report: &StatusReport) -> Markup {
    let raised = events.and_then(|events| {
        events.iter().rev().find(|(_, event)| matches!(event.event.as_str(), "raised" | "updated"))
    });
    let (Some(events), Some((_, raised))) = (events, raised) else {
        return html! {
            p { a href="/" { "All of " (report.host) } " · " a href="/incidents" { "Incidents" } }
            h1 { "This incident is not open" }
            p { "It is over, or it was never raised here. The agent's log has it: "
                code { "journalctl -u spillway" } "." }
        };
    };
    let first_ms = events.first().map_or(0, |(at_ms, _)| *at_ms);
    let last_ms = events.last().map_or(0, |(at_ms, _)| *at_ms);
    html! {
        p { a href="/" { "All of " (report.host) } " · " a href="/incidents" { "Incidents" } }
        section class={ "card " (class(&raised.severity)) } {
            p class="badge" {
                (raised.severity) " · " (raised.verdict.replace('_', " ")) " · not open"
            }
            h1 { (raised.headline) }
            dl {
                dt { "lasted" } dd { (Span(last_ms.saturating_sub(first_ms) as f64 / 1e3)) }
                dt { "advice" } dd { (raised.advice) }
                @if !raised.cgroup.is_empty() {
                    dt { "cgroup" } dd { code { (raised.cgroup) } }
                }
                dt { "id" } dd { code { (id) } }
            }
        }
        h2 { "Timeline" }
        ol {
            @for (at_ms, event) in events {
                li {
                    span { (to_second(&timestamp(*at_ms))) }
                    span { (label(event)) @if !event.why.is_empty() { ": " (event.why) } }
                }
            }
        }
    }
}

/// Page of all incidents of the last day, the latest first.
pub(super) fn list(events: Option<&Events>, report: &StatusReport) -> Markup {
    let mut incidents: BTreeMap<&str, (u64, u64, &HistoryEvent)> = BTreeMap::new();
    let verdicts = events.into_iter().flatten().filter(|(_, event)| !event.verdict.is_empty());
    for (at_ms, event) in verdicts {
        let Some(id) = event.ids.first() else { continue };
        let entry = incidents.entry(id).or_insert((*at_ms, *at_ms, event));
        entry.1 = *at_ms;
        if event.event != "cleared" {
            entry.2 = event;
        }
    }
    let mut rows: Vec<_> = incidents.into_iter().collect();
    rows.sort_by_key(|(_, (_, last_ms, _))| std::cmp::Reverse(*last_ms));
    html! {
        p { a href="/" { "All of " (report.host) } }
        h1 { "Incidents of the last day" }
        @if rows.is_empty() { p { "None is in the history." } }
        @for (id, (first_ms, last_ms, event)) in rows {
            section class={ "card " (class(&event.severity)) } {
                p class="badge" { (event.severity) " · " (event.verdict.replace('_', " ")) }
                h3 { a href={ "/incidents/" (segment(id)) } { (event.headline) } }
                p { (clock_time(&timestamp(first_ms), &report.at)) " to "
                    (clock_time(&timestamp(last_ms), &report.at)) }
            }
        }
    }
}

/// Names an event in a few words.
fn label(event: &HistoryEvent) -> String {
    let progress = event.event.replace('_', " ");
    match (event.verdict.as_str(), event.event.as_str()) {
        ("", "would") => format!("would {}", event.action),
        ("", "ordered") => format!("{} begun", event.action),
        ("", "refused") => format!("{} refused", event.action),
        ("", _) => progress,
        (verdict, _) => format!("{} {progress}", verdict.replace('_', " ")),
    }
}
