//! PagerDuty's side of its Events API v2. It refuses everything that the published schema refuses.
//!
//! Source: <https://developer.pagerduty.com/docs/events-api-v2/overview/>, and the pages on alert
//! and change events below it.

use serde_json::{Map, Value, json};

use super::Call;

/// Key of the only integration.
pub const PAGERDUTY_KEY: &str = "0123456789abcdef0123456789abcdef";

const BODY_BYTES_MAX: usize = 512 << 10;

type Checked = Result<(), String>;

/// Answers a call. Returns the status, the headers and the body.
pub fn answer(call: &Call) -> (u16, &'static str, Vec<u8>) {
    let checked = match call.method_and_target() {
        ("POST", "/v2/enqueue") => check(call, alert),
        ("POST", "/v2/change/enqueue") => check(call, change),
        (method, path) => Err(format!("there is no {method} {path}")),
    };
    match checked {
        Ok(event) => {
            let key = event["dedup_key"].clone();
            let said = json!({"status": "success", "message": "Event processed", "dedup_key": key});
            (202, "content-type: application/json\r\n", said.to_string().into_bytes())
        }
        Err(wrong) => {
            let said = json!({"status": "invalid event", "message": "Event object is \
            invalid", "errors": [wrong]});
            (400, "content-type: application/json\r\n", said.to_string().into_bytes())
        }
    }
}

fn check(call: &Call, event: impl Fn(&Map<String, Value>) -> Checked) -> Result<Value, String> {
    let of = call.headers.get("content-type").map_or("", String::as_str);
    ensure(of.starts_with("application/json"), || format!("content-type is {of:?}"))?;
    ensure(call.body.len() <= BODY_BYTES_MAX, || {
        format!("the body has {} bytes", call.body.len())
    })?;
    let value: Value = serde_json::from_slice(&call.body).map_err(|error| error.to_string())?;
    let fields = value.as_object().ok_or("the body is not an object")?;
    ensure(text(fields, "routing_key")? == PAGERDUTY_KEY, || "unknown routing_key".to_owned())?;
    event(fields)?;
    Ok(value)
}

fn alert(event: &Map<String, Value>) -> Checked {
    only(
        event,
        &[
            "routing_key",
            "event_action",
            "dedup_key",
            "client",
            "client_url",
            "payload",
            "links",
            "images",
        ],
    )?;
    let action = text(event, "event_action")?;
    ensure(["trigger", "acknowledge", "resolve"].contains(&action), || {
        format!("event_action is {action:?}")
    })?;
    let key = text(event, "dedup_key")?;
    ensure(!key.is_empty() && key.len() <= 255, || format!("dedup_key has {} bytes", key.len()))?;
    let payload = event.get("payload").and_then(Value::as_object).ok_or("payload is missing")?;
    only(
        payload,
        &[
            "summary",
            "source",
            "severity",
            "timestamp",
            "component",
            "group",
            "class",
            "custom_details",
        ],
    )?;
    described(payload)?;
    let severity = text(payload, "severity")?;
    ensure(["critical", "error", "warning", "info"].contains(&severity), || {
        format!("severity is {severity:?}")
    })?;
    for name in ["component", "group", "class"] {
        text(payload, name)?;
    }
    for image in list(event, "images")? {
        only(image, &["src", "href", "alt"])?;
        ensure(text(image, "src")?.starts_with("https://"), || "an image is not https".to_owned())?;
    }
    links(event)
}

fn change(event: &Map<String, Value>) -> Checked {
    only(event, &["routing_key", "payload", "links", "images"])?;
    let payload = event.get("payload").and_then(Value::as_object).ok_or("payload is missing")?;
    only(payload, &["summary", "source", "timestamp", "custom_details"])?;
    described(payload)?;
    links(event)
}

/// Checks the fields that alerts and changes share.
fn described(payload: &Map<String, Value>) -> Checked {
    let summary = text(payload, "summary")?;
    let chars = summary.chars().count();
    ensure((1..=1_024).contains(&chars), || format!("summary has {chars} characters"))?;
    ensure(!text(payload, "source")?.is_empty(), || "source is empty".to_owned())?;
    let at = text(payload, "timestamp")?;
    let digits = |range: std::ops::Range<usize>| {
        at.get(range).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()))
    };
    let is_time = at.len() >= 20
        && digits(0..4)
        && digits(5..7)
        && digits(8..10)
        && digits(11..13)
        && at.ends_with('Z');
    ensure(is_time, || format!("timestamp is {at:?}"))?;
    ensure(payload.get("custom_details").is_none_or(Value::is_object), || {
        "custom_details is not an object".to_owned()
    })
}

fn links(event: &Map<String, Value>) -> Checked {
    for link in list(event, "links")? {
        only(link, &["href", "text"])?;
        text(link, "href")?;
    }
    Ok(())
}

fn list<'a>(
    fields: &'a Map<String, Value>,
    name: &str,
) -> Result<Vec<&'a Map<String, Value>>, String> {
    let Some(value) = fields.get(name) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| format!("{name} is not an array"))?;
    items
        .iter()
        .map(|item| {
            item.as_object().ok_or_else(|| format!("{name} has an item that is not an object"))
        })
        .collect()
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    fields
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("{name} is missing or not a string"))
}

fn only(fields: &Map<String, Value>, known: &[&str]) -> Checked {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("{name} is unknown")),
        None => Ok(()),
    }
}

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(wrong()) }
}
