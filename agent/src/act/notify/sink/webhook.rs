//! A webhook of the operator's own: a CloudEvents 1.0 event in JSON, signed as Standard Webhooks
//! 1.0 says.

use serde_json::{Value, json};

use crate::act::notify::{Notification, timestamp};

/// What it is sent as.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The event.
pub fn body(page: &Notification) -> Vec<u8> {
    let data = serde_json::to_value(page).unwrap_or(Value::Null);
    let event = json!({
        "specversion": "1.0",
        "id": page.id,
        "source": format!("/spillway/{}", page.host),
        "type": format!("io.spillway.incident.{}", page.news.name()),
        "subject": page.incident,
        "time": timestamp(page.at_ms),
        "datacontenttype": "application/json",
        "data": data,
    });
    event.to_string().into_bytes()
}
