//! PagerDuty's Events API v2: alerts, and change events beside them.
//!
//! Source: <https://developer.pagerduty.com/docs/events-api-v2/overview/>. 202 is taken; 400 says
//! what is wrong and is never sent again; 429 and 5xx are tried later.

use serde_json::{Map, Value, json};

use crate::act::notify::{Notification, Update, links::Links, timestamp};

/// Most bytes of an event.
const BODY_BYTES_MAX: usize = 512 << 10;

/// Said in place of a detail that there was no room for.
const LEFT_OUT: &str = "left out: there was no room for it";

/// Where change events go, beside the address of alerts: `/v2/enqueue`, `/v2/change/enqueue`.
pub fn url(alerts: &str, news: Update) -> String {
    match (news, alerts.strip_suffix("/enqueue")) {
        (Update::Changed, Some(root)) => format!("{root}/change/enqueue"),
        _ => alerts.to_owned(),
    }
}

/// The event. Details give way where it would be too large, the largest first; the summary never.
pub fn body(page: &Notification, routing_key: &str, links: &Links) -> Vec<u8> {
    let mut details = page.details.clone();
    loop {
        let body = event(page, routing_key, links, &details).to_string().into_bytes();
        if body.len() <= BODY_BYTES_MAX {
            return body;
        }
        let size = |value: &Value| value.to_string().len();
        let largest = details.iter_mut().max_by_key(|(_, value)| size(value));
        match largest {
            Some((_, value)) if size(value) > LEFT_OUT.len() + 2 => *value = LEFT_OUT.into(),
            // So many of them that their names alone are too much.
            _ => details.clear(),
        }
    }
}

fn event(
    page: &Notification,
    routing_key: &str,
    links: &Links,
    details: &Map<String, Value>,
) -> Value {
    let link = |href: &String, text: &str| json!({"href": href, "text": text});
    let hrefs: Vec<_> = links.runbook.iter().map(|href| link(href, "Runbook")).collect();
    let at = timestamp(page.at_ms);
    if page.news == Update::Changed {
        return json!({
            "routing_key": routing_key,
            "payload": {"summary": page.summary, "source": page.host, "timestamp": at, "custom_details": details},
            "links": hrefs,
        });
    }
    let images: Vec<_> =
        links.picture.iter().map(|src| json!({"src": src, "alt": page.summary})).collect();
    json!({
        "routing_key": routing_key,
        "event_action": if page.news == Update::Resolved { "resolve" } else { "trigger" },
        "dedup_key": page.incident,
        "client": "Spillway",
        "payload": {
            "summary": page.summary,
            "source": page.host,
            "severity": page.severity.name(),
            "timestamp": at,
            "component": page.component,
            "group": page.group,
            "class": page.class,
            "custom_details": details,
        },
        "links": hrefs,
        "images": images,
    })
}
