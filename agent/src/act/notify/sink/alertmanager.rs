//! Alertmanager's API v2: alerts with labels, which it groups, silences and routes.
//!
//! Source: `api/v2/openapi.yaml` of its repository. An alert without an end is over after its
//! `resolve_timeout`, five minutes, unless it is told again; so it gets an end that is a day off,
//! and one that has come when it is over.

use serde_json::{Value, json};

use crate::act::notify::{Notification, Update, links::Links, timestamp};

/// By when somebody has looked, or the agent has told again.
const FIRES_FOR_MS: u64 = 24 * 3_600 * 1_000;

/// The alerts, of which there is one; `None` for what is no alert.
pub fn body(page: &Notification, links: &Links) -> Option<Vec<u8>> {
    let ends_at_ms = match page.news {
        Update::Raised | Update::Updated => page.at_ms.saturating_add(FIRES_FOR_MS),
        Update::Resolved => page.at_ms,
        Update::Changed => return None,
    };
    // What changes while it lasts is no label: by its labels an alert is known.
    let mut annotations = json!({
        "summary": page.summary,
        "severity": page.severity.name(),
    });
    if let (Some(runbook), Value::Object(annotations)) = (&links.runbook, &mut annotations) {
        annotations.insert("runbook_url".to_owned(), runbook.clone().into());
    }
    let alert = json!({
        "labels": {
            "alertname": "Spillway",
            "instance": page.host,
            "incident": page.incident,
            "component": page.component,
            "class": page.class,
        },
        "annotations": annotations,
        "startsAt": timestamp(page.raised_at_ms),
        "endsAt": timestamp(ends_at_ms),
    });
    Some(Value::Array(vec![alert]).to_string().into_bytes())
}
