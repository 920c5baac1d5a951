//! Alertmanager's API v2: alerts with labels, which Alertmanager groups, silences and routes.
//!
//! Source: `api/v2/openapi.yaml` in its repository. An alert without an end is resolved after
//! `resolve_timeout`, five minutes, unless it is sent again. So an open incident gets an end one
//! day ahead, and a resolved one an end that has passed.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Delivery, Links, OutgoingRequest, SecretError, Sink, SinkReply};
use crate::{
    act::notify::{Notification, Update, timestamp},
    config::PageConfig,
    net::redact::Redactor,
};

/// Time for which an alert fires without an update. A guess: by then a human has seen it, or the
/// agent has sent an update.
const FIRES_FOR_MS: u64 = 24 * 3_600 * 1_000;

/// An Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    /// Address of its alerts, which ends in `/api/v2/alerts`.
    url: String,
    links: Links,
}

impl Alertmanager {
    /// Makes the sink if `act.page.alertmanager.url` is set.
    pub fn from_config(page: &PageConfig, links: &Links) -> Option<Box<dyn Sink>> {
        let url = page.alertmanager.url.clone()?;
        Some(Box::new(Self { url, links: links.clone() }))
    }
}

impl Sink for Alertmanager {
    fn name(&self) -> &'static str {
        "alertmanager"
    }

    fn wants(&self, update: Update) -> bool {
        // A change of the host is not an alert.
        update != Update::Changed
    }

    fn encode(&self, notification: &Notification) -> Bytes {
        let ends_at_ms = match notification.update {
            Update::Raised | Update::Updated => notification.at_ms.saturating_add(FIRES_FOR_MS),
            Update::Resolved | Update::Changed => notification.at_ms,
        };
        // Labels identify an alert, so whatever changes during an incident is an annotation.
        let mut annotations = json!({
            "summary": notification.summary,
            "severity": notification.severity.name(),
        });
        if let (Some(runbook), Value::Object(annotations)) = (&self.links.runbook, &mut annotations)
        {
            annotations.insert("runbook_url".to_owned(), runbook.clone().into());
        }
        let alert = json!({
            "labels": {
                "alertname": "Spillway",
                "instance": notification.host,
                "incident": notification.incident,
                "component": notification.component,
                "class": notification.class,
            },
            "annotations": annotations,
            "startsAt": timestamp(notification.raised_at_ms),
            "endsAt": timestamp(ends_at_ms),
        });
        Value::Array(vec![alert]).to_string().into()
    }

    fn request(
        &self,
        _notification: &Notification,
        body: Bytes,
        _unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError> {
        Ok(OutgoingRequest::json(self.url.clone(), body, Redactor::default()))
    }

    fn classify(&self, reply: &SinkReply<'_>) -> Delivery {
        reply.classify(reply.status == 200)
    }
}
