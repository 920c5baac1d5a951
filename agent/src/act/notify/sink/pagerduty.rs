//! PagerDuty's Events API v2: alerts, and change events beside them.
//!
//! Source: <https://developer.pagerduty.com/docs/events-api-v2/overview/>. 202 accepts an event;
//! 400 names the mistake, and the event is never sent again; 429 and 5xx are retried.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Delivery, Links, OutgoingRequest, SecretError, Sink, SinkReply};
use crate::{
    act::notify::{Notification, Update, timestamp},
    config::PageConfig,
    net::{redact::Redactor, secret::SecretSource},
};

/// Maximum size of an event without its routing key, which has 32 characters. PagerDuty takes
/// 512 KiB.
const EVENT_BYTES_MAX: usize = 511 << 10;

/// Text in place of a detail that did not fit.
const LEFT_OUT: &str = "left out: the event would be larger than PagerDuty accepts";

/// A service integration of PagerDuty.
#[derive(Debug)]
pub struct PagerDuty {
    /// Address of alerts, which ends in `/enqueue`.
    url: String,
    routing_key: SecretSource,
    links: Links,
}

impl PagerDuty {
    /// Makes the sink if `act.page.pagerduty.routing_key_file` is set.
    pub fn from_config(page: &PageConfig, links: &Links) -> Option<Box<dyn Sink>> {
        let url = page.pagerduty.url.clone();
        let routing_key = page.pagerduty.routing_key_file.clone()?;
        Some(Box::new(Self { url, routing_key, links: links.clone() }))
    }

    /// Address of an update: change events go beside alerts, `/v2/change/enqueue` beside
    /// `/v2/enqueue`.
    fn url(&self, update: Update) -> String {
        match (update, self.url.strip_suffix("/enqueue")) {
            (Update::Changed, Some(root)) => format!("{root}/change/enqueue"),
            _ => self.url.clone(),
        }
    }

    fn event(&self, notification: &Notification, details: &Map<String, Value>) -> Value {
        let link = |href: &String, text: &str| json!({"href": href, "text": text});
        let links: Vec<_> = self.links.runbook.iter().map(|href| link(href, "Runbook")).collect();
        let at = timestamp(notification.at_ms);
        if notification.update == Update::Changed {
            return json!({
                "payload": {
                    "summary": notification.summary,
                    "source": notification.host,
                    "timestamp": at,
                    "custom_details": details,
                },
                "links": links,
            });
        }
        let image = |src: &String| json!({"src": src, "alt": notification.summary});
        let images: Vec<_> = self.links.picture.iter().map(image).collect();
        let is_resolved = notification.update == Update::Resolved;
        json!({
            "event_action": if is_resolved { "resolve" } else { "trigger" },
            "dedup_key": notification.incident,
            "client": "Spillway",
            "payload": {
                "summary": notification.summary,
                "source": notification.host,
                "severity": notification.severity.name(),
                "timestamp": at,
                "component": notification.component,
                "group": notification.group,
                "class": notification.class,
                "custom_details": details,
            },
            "links": links,
            "images": images,
        })
    }
}

impl Sink for PagerDuty {
    fn name(&self) -> &'static str {
        "pagerduty"
    }

    /// Encodes the event without its routing key. Details that do not fit are left out, the largest
    /// first; the summary never is.
    fn encode(&self, notification: &Notification) -> Bytes {
        let mut details = notification.details.clone();
        loop {
            let event = self.event(notification, &details).to_string();
            if event.len() <= EVENT_BYTES_MAX {
                return event.into();
            }
            let size = |value: &Value| value.to_string().len();
            let largest = details.iter_mut().max_by_key(|(_, value)| size(value));
            match largest {
                Some((_, value)) if size(value) > LEFT_OUT.len() + 2 => *value = LEFT_OUT.into(),
                // The names alone are too long.
                _ => details.clear(),
            }
        }
    }

    fn request(
        &self,
        notification: &Notification,
        body: Bytes,
        _unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError> {
        let key = self.routing_key.read().map_err(SecretError)?;
        // The key is the first field of the object: it may have been replaced since the encoding.
        let mut event = format!("{{\"routing_key\":{},", Value::from(key.as_str())).into_bytes();
        event.extend_from_slice(body.strip_prefix(b"{").unwrap_or_default());
        let redactor = Redactor::default().secret(&key);
        Ok(OutgoingRequest::json(self.url(notification.update), event.into(), redactor))
    }

    fn classify(&self, reply: &SinkReply<'_>) -> Delivery {
        let is_taken = || reply.field("status").as_deref() == Some("success");
        reply.classify(reply.status == 202 && is_taken())
    }
}
