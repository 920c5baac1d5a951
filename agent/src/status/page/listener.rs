//! Page of one listener: its accept queue, its requests and their wait over the last day.

use maud::{Markup, html};

use super::{
    super::report::{ListenerEntry, StatusReport},
    workload::{about, no_history, now_ms, open_incidents},
};
use crate::{
    history::{chart, series::ListenerSeries},
    units::{Count, Frequency, Span},
};

pub(super) fn body(
    listener: &ListenerEntry,
    series: Option<&ListenerSeries>,
    report: &StatusReport,
) -> Markup {
    let incidents = about(report, |incident| Some(&incident.id) == listener.incident.as_ref());
    let unknown = || "unknown".to_owned();
    let pace = listener.accepted_per_sec.map(|pace| match pace {
        0.0 => "none in the last seconds".to_owned(),
        pace => Frequency(pace).to_string(),
    });
    let pace = pace.unwrap_or_else(unknown);
    let span = |secs: Option<f64>| secs.map_or_else(unknown, |secs| Span(secs).to_string());
    html! {
        p { a href="/" { "All of " (report.host) } }
        h1 { (listener.addr) }
        (open_incidents(&incidents))
        dl {
            dt { "waiting" }
            dd { (Count(listener.backlog)) " of " (Count(listener.backlog_max)) " connections"
                @if listener.backlog > 0 { ", the oldest for " (span(listener.oldest_wait_secs)) } }
            dt { "requests" }
            dd { (requests(listener)) }
            dt { "accepted" }
            dd { (pace) }
            @if let Some(overflows) = listener.overflows_total {
                dt { "refused" }
                dd { (Count(overflows)) " connections, because the queue was full" }
            }
            dt { "process" }
            dd { (process(listener)) }
            @if !listener.cgroup.is_empty() { dt { "cgroup" } dd { code { (listener.cgroup) } } }
        }
        @match series {
            Some(series) => {
                h2 { "Accept queue and requests" }
                (pictures(series, now_ms(report)))
                (chart::list(&series.marks, now_ms(report)))
            }
            None => (no_history()),
        }
    }
}

fn pictures(series: &ListenerSeries, now_ms: u64) -> Markup {
    html! {
        @for chart in series.charts(now_ms) { (chart.draw()) }
    }
}

fn requests(listener: &ListenerEntry) -> String {
    let Some(in_flight) = listener.in_flight else { return "not seen".to_owned() };
    let connections = listener.connections.map(|open| format!(" on {} connections", Count(open)));
    let oldest =
        listener.oldest_in_flight_secs.map(|secs| format!(", the oldest for {}", Span(secs)));
    format!(
        "{} in flight{}{}",
        Count(in_flight),
        connections.unwrap_or_default(),
        oldest.unwrap_or_default()
    )
}

/// Names the process that listens.
pub(super) fn process(listener: &ListenerEntry) -> String {
    let name = if listener.comm.is_empty() { "unknown" } else { &listener.comm };
    match listener.pid {
        Some(pid) => format!("{name} (pid {pid})"),
        None => name.to_owned(),
    }
}
