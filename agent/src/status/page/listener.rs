//! Page of one listener: its accept queue, its requests and their wait over the last day.

use maud::{Markup, html};

use super::{
    super::report::{ListenerEntry, StatusReport},
    chart::{self, Chart},
    workload::{about, no_history, now_ms, open_incidents},
};
use crate::{
    history::series::{ListenerSeries, Points},
    units::{Count, Frequency, Span},
};

/// Steps of a grid of counts and of seconds.
const STEPS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
const STEPS_BASE: f64 = 10.0;

pub(super) fn body(
    listener: &ListenerEntry,
    series: Option<&ListenerSeries>,
    report: &StatusReport,
) -> Markup {
    let incidents = about(report, |incident| Some(&incident.id) == listener.incident.as_ref());
    let unknown = || "unknown".to_owned();
    let pace = listener.accepted_per_sec.map(|pace| Frequency(pace).to_string());
    let pace = pace.unwrap_or_else(unknown);
    let span = |secs: Option<f64>| secs.map_or_else(unknown, |secs| Span(secs).to_string());
    html! {
        p { a href="/" { "All of " (report.host) } }
        h1 { (listener.addr) }
        (open_incidents(&incidents))
        dl {
            dt { "waiting" }
            dd { (Count(listener.backlog)) " of " (Count(listener.backlog_max))
                " connections, the oldest for " (span(listener.oldest_wait_secs)) }
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
                (pictures(series, now_ms(report)))
                (chart::list(&series.marks, now_ms(report)))
            }
            None => (no_history()),
        }
    }
}

fn pictures(series: &ListenerSeries, now_ms: u64) -> Markup {
    let (steps, steps_base, no_limit) = (STEPS, STEPS_BASE, Points::new());
    let plain = |title, points, text| Chart {
        title,
        points,
        limit: &no_limit,
        band: None,
        marks: &series.marks,
        now_ms,
        steps,
        steps_base,
        text,
    };
    let waiting = plain("Connections waiting", &series.backlog, count);
    html! {
        h2 { "Accept queue" }
        (Chart { limit: &series.backlog_max, ..waiting }.draw())
        h2 { "Requests" }
        (plain("Requests in flight", &series.in_flight, count).draw())
        (plain("Longest wait", &series.wait_secs, secs).draw())
    }
}

fn count(value: f64) -> String {
    if value.fract() == 0.0 { Count(value as u64).to_string() } else { format!("{value:.1}") }
}

fn secs(value: f64) -> String {
    if value < 1.0 { format!("{:.0} ms", value * 1e3) } else { Span(value).to_string() }
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
