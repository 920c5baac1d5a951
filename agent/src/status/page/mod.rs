//! Status of the agent as a page for a browser: the overview, and one page for each incident,
//! workload and listener.
//!
//! Pure: made from a [`StatusReport`] and from the history, for each request. Without a script, a
//! font or a picture from elsewhere, so that it works on a host that is cut off. Everything in a
//! report is escaped, because its names are chosen by others.

mod incident;
mod listener;
mod overview;
mod past;
mod style;
mod timeline;
mod workload;

use std::sync::Arc;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{IncidentEntry, ListenerEntry, StatusReport, WorkloadEntry};
use crate::{
    history::{
        HistoryEvent, StoredHistory,
        series::{ListenerSeries, WorkloadSeries},
    },
    serve::Pages,
    units::to_second,
};

/// Path of the incidents of the last day, and the beginning of the path of each.
const INCIDENTS: &str = "/incidents";

/// Beginning of the path of a workload's page, and of a listener's.
const WORKLOADS: &str = "/workloads/";
const LISTENERS: &str = "/listeners/";

/// Time after which a browser loads a page anew, in seconds: the status, and what the history
/// shows, which changes once a minute.
const REFRESH_SECS: u32 = 10;
const HISTORY_REFRESH_SECS: u32 = 60;

/// Policy that lets a browser run and load nothing, and use the page's own style.
const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'unsafe-inline'; ",
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// History that pages show; `None` if none is kept.
trait PageHistory {
    /// History of a workload.
    fn workload(&self, cgroup: &str) -> Option<WorkloadSeries>;

    /// History of a listener.
    fn listener(&self, netns: u32, addr: &str) -> Option<ListenerSeries>;

    /// Events of one incident, or of all, each with its time in milliseconds since 1970.
    fn incident(&self, id: Option<&str>) -> Option<Vec<(u64, HistoryEvent)>>;
}

impl PageHistory for StoredHistory {
    fn workload(&self, cgroup: &str) -> Option<WorkloadSeries> {
        Self::workload(self, cgroup)
    }

    fn listener(&self, netns: u32, addr: &str) -> Option<ListenerSeries> {
        Self::listener(self, netns, addr)
    }

    fn incident(&self, id: Option<&str>) -> Option<Vec<(u64, HistoryEvent)>> {
        self.events(|event| id.is_none_or(|id| event.ids.iter().any(|one| segment(one) == id)))
    }
}

/// Returns the pages of the status that `report` makes for each request, with this history.
pub fn pages(
    report: impl Fn() -> StatusReport + Send + Sync + 'static,
    history: StoredHistory,
) -> Pages {
    Pages {
        render: Arc::new(move |path| render(path, &report(), &history)),
        has: is_page,
        policy: CONTENT_SECURITY_POLICY,
    }
}

/// Returns the page at a path, or `None` if there is none.
fn render(path: &str, report: &StatusReport, history: &impl PageHistory) -> Option<String> {
    let mut refresh_secs = HISTORY_REFRESH_SECS;
    let (title, body) = if path == "/" {
        refresh_secs = REFRESH_SECS;
        (overview::title(report), overview::body(report))
    } else if path == INCIDENTS {
        let events = history.incident(None);
        (format!("Incidents on {}", report.host), past::list(events.as_ref(), report))
    } else if let Some(id) = path.strip_prefix(INCIDENTS).and_then(|rest| rest.strip_prefix('/')) {
        let title = format!("Incident on {}", report.host);
        match report.incidents.iter().find(|incident| segment(&incident.id) == id) {
            Some(incident) => {
                refresh_secs = REFRESH_SECS;
                (title, incident::body(incident, report))
            }
            None => {
                let events = history.incident(Some(id));
                (title, past::incident(id, events.as_ref(), report))
            }
        }
    } else if path.starts_with(WORKLOADS) {
        let workload = report.workloads.iter().find(|one| workload_link(one) == path)?;
        let series = history.workload(&workload.cgroup);
        let title = format!("{} on {}", workload.name, report.host);
        (title, workload::body(workload, series.as_ref(), report))
    } else {
        let listener = report.listeners.iter().find(|one| listener_link(one) == path)?;
        let series = history.listener(listener.netns, &listener.addr);
        let title = format!("{} on {}", listener.addr, report.host);
        (title, listener::body(listener, series.as_ref(), report))
    };
    Some(document(&title, report, refresh_secs, &body).into_string())
}

/// Returns whether a path is one of a page.
fn is_page(path: &str) -> bool {
    let has_subject = [WORKLOADS, LISTENERS].iter().any(|prefix| path.starts_with(prefix));
    path == "/" || has_subject || path.strip_prefix(INCIDENTS).is_some_and(is_rest)
}

/// Returns whether this may follow [`INCIDENTS`].
fn is_rest(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

fn document(title: &str, report: &StatusReport, refresh_secs: u32, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(refresh_secs);
                title { (title) }
                style { (PreEscaped(style::CSS)) }
            }
            body {
                main { (body) }
                footer {
                    "Spillway " (report.version) ", " (to_second(&report.at))
                    ". The same in a terminal: " code { "spillway status" } "."
                }
            }
        }
    }
}

/// Returns an incident's id as one segment of a path: letters, digits and `-._~` stay, other bytes
/// become `%NN`.
fn segment(id: &str) -> String {
    id.bytes().fold(String::with_capacity(id.len()), |mut path, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(byte.into());
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
        path
    })
}

/// Returns a link to the page of an incident.
fn link(incident: &IncidentEntry) -> String {
    format!("{INCIDENTS}/{}", segment(&incident.id))
}

/// Returns a link to the page of a workload.
fn workload_link(workload: &WorkloadEntry) -> String {
    format!("{WORKLOADS}{}", segment(&workload.cgroup))
}

/// Returns a link to the page of a listener.
fn listener_link(listener: &ListenerEntry) -> String {
    format!("{LISTENERS}{}/{}", listener.netns, segment(&listener.addr))
}

/// Class of what has a severity.
fn class(severity: &str) -> &'static str {
    match severity {
        "critical" => "critical",
        "warning" => "warning",
        _ => "info",
    }
}

#[cfg(test)]
mod tests;
