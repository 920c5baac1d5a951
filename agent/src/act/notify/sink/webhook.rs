//! A webhook of the operator's own: a CloudEvents 1.0 event in JSON, signed according to Standard
//! Webhooks 1.0.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Delivery, Links, OutgoingRequest, SecretError, Sink, SinkReply};
use crate::{
    act::notify::{Notification, timestamp},
    config::PageConfig,
    net::{redact::Redactor, secret::SecretSource, webhook_signature::SigningKeys},
};

const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// A webhook.
#[derive(Debug)]
pub struct Webhook {
    url: String,
    keys: SecretSource,
}

impl Webhook {
    /// Makes the sink if `act.page.webhook.url` and `secret_file` are set. Events carry no links.
    pub fn from_config(page: &PageConfig, _links: &Links) -> Option<Box<dyn Sink>> {
        let url = page.webhook.url.clone()?;
        let keys = page.webhook.secret_file.clone()?;
        Some(Box::new(Self { url, keys }))
    }
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn encode(&self, notification: &Notification) -> Bytes {
        let data = serde_json::to_value(notification).unwrap_or(Value::Null);
        let event = json!({
            "specversion": "1.0",
            "id": notification.id,
            "source": format!("/spillway/{}", notification.host),
            "type": format!("io.spillway.incident.{}", notification.update.name()),
            "subject": notification.incident,
            "time": timestamp(notification.at_ms),
            "datacontenttype": "application/json",
            "data": data,
        });
        event.to_string().into()
    }

    fn request(
        &self,
        notification: &Notification,
        body: Bytes,
        unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError> {
        let text = self.keys.read().map_err(SecretError)?;
        let keys = SigningKeys::read(&text)
            .map_err(|error| SecretError(format!("{}: {error}", self.keys)))?;
        let mut headers = vec![("content-type", CONTENT_TYPE.to_owned())];
        headers.extend(keys.headers(&notification.id, unix_secs, &body));
        let redactor = Redactor::default().secret(&text).url(&self.url);
        Ok(OutgoingRequest { url: self.url.clone(), headers, body, redactor })
    }

    fn classify(&self, reply: &SinkReply<'_>) -> Delivery {
        match reply.status {
            // Standard Webhooks: the endpoint is gone for good.
            410 => Delivery::Closed(reply.text()),
            status => reply.classify((200..300).contains(&status)),
        }
    }
}
