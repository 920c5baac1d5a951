//! Status of the agent as a page for a browser: the overview, and one page for each open incident.
//!
//! Pure: made from a [`StatusReport`], for each request. Without a script, a font or a picture from
//! elsewhere, so that it works on a host that is cut off. Everything in a report is escaped,
//! because its names are chosen by others.

mod incident;
mod overview;
mod style;
mod timeline;

use std::sync::Arc;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{IncidentEntry, StatusReport};
use crate::serve::Pages;

/// Beginning of the path of an incident's page.
const INCIDENTS: &str = "/incidents/";

/// Time after which a browser loads the page anew, in seconds.
const REFRESH_SECS: u32 = 10;

/// Policy that lets a browser run and load nothing, and use the page's own style.
const CONTENT_SECURITY_POLICY: &str = concat!(
    "default-src 'none'; style-src 'unsafe-inline'; ",
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

/// Returns the pages of the status that `report` makes for each request.
pub fn pages(report: impl Fn() -> StatusReport + Send + Sync + 'static) -> Pages {
    Pages {
        render: Arc::new(move |path| render(path, &report())),
        has: is_page,
        policy: CONTENT_SECURITY_POLICY,
    }
}

/// Returns the page at a path, or `None` if there is none.
fn render(path: &str, report: &StatusReport) -> Option<String> {
    let (title, body) = match path.strip_prefix(INCIDENTS) {
        None if path == "/" => (overview::title(report), overview::body(report)),
        None => return None,
        Some(id) => {
            let incident = report.incidents.iter().find(|incident| segment(&incident.id) == id);
            (format!("Incident on {}", report.host), incident::body(incident, report))
        }
    };
    Some(document(&title, report, &body).into_string())
}

/// Returns whether a path is one of a page.
fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with(INCIDENTS)
}

fn document(title: &str, report: &StatusReport, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH_SECS);
                title { (title) }
                style { (PreEscaped(style::CSS)) }
            }
            body {
                main { (body) }
                footer {
                    "Spillway " (report.version) ", " (seconds(&report.at))
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
    format!("{INCIDENTS}{}", segment(&incident.id))
}

/// Shortens a time of RFC 3339 to the second.
fn seconds(time: &str) -> String {
    match (time.get(..10), time.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock} UTC"),
        _ => time.to_owned(),
    }
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
