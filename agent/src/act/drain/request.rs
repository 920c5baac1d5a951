//! Drain requests, and the meaning of replies.
//!
//! A request is a CloudEvents 1.0 event in JSON, signed as in Standard Webhooks 1.0. Pure. All
//! attempts at a request send the same bytes with the same id, so that a receiver recognises
//! repeats. A 2xx grants; for a drain only if the reply carries the request's `webhook-id`, because
//! a proxy or a parked domain that answers 200 to everything is no receiver. Nothing else of a
//! reply counts.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    act::{
        notify::{reply_text, timestamp},
        outcome::OutcomeCause,
    },
    decide::IncidentId,
};

/// Content type of a request.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// Kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Take the node out of rotation.
    Drain,
    /// Put the node back.
    Undrain,
}

/// Reason for a drain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainReason {
    /// Incident; `None` for an operator.
    #[serde(rename = "id", with = "incident_or_operator")]
    pub incident: Option<IncidentId>,
    /// Reason in a sentence, for people.
    pub why: String,
    /// Evidence, as in the verdict.
    pub evidence: Value,
}

/// One request, with all its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Unique id.
    pub id: String,
    /// Kind of request.
    pub ask: RequestKind,
    /// Creation time in milliseconds since 1970.
    pub at_ms: u64,
    /// Deadline, likewise.
    pub deadline_ms: u64,
    /// Reason.
    pub cause: DrainReason,
}

/// Meaning of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyClass {
    /// The receiver grants it.
    Granted,
    /// The receiver refuses it.
    Refused(String),
    /// The receiver wants no more requests.
    Closed(String),
    /// A success from something that may not have read the request.
    Unproven(String),
    /// Try again, after this delay if the receiver names one.
    Later(Option<Duration>, String),
}

impl RequestKind {
    /// Name in output, and part of ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }
}

impl DrainReason {
    /// Returns whether the incident is a leak. Its id shows it, which is on disk too.
    pub fn is_leak(&self) -> bool {
        self.incident.as_ref().is_some_and(IncidentId::is_leak)
    }

    /// Returns the cause of outcomes of this drain.
    pub fn outcome_cause(&self) -> OutcomeCause {
        self.incident.clone().map_or(OutcomeCause::Operator, OutcomeCause::from)
    }

    /// Seconds from `now` until the end that its evidence forecasts, and until the soonest that may
    /// be.
    pub fn left_secs(&self, now: f64) -> Option<[f64; 2]> {
        let age_secs = now - self.evidence["t"].as_f64()?;
        let forecast = self.evidence["exhaustion_secs"].as_f64()?;
        let soonest = self.evidence["exhaustion_interval_secs"][0].as_f64().unwrap_or(forecast);
        Some([forecast, soonest].map(|secs| secs - age_secs))
    }

    /// Returns whether an operator requested it.
    pub fn is_operator(&self) -> bool {
        self.incident.is_none()
    }

    /// Creates the reason of an operator's drain.
    pub fn operator() -> Self {
        Self { incident: None, why: "an operator said so".to_owned(), evidence: Value::Null }
    }
}

impl Request {
    /// Returns the body to send. `host` is this node's name.
    pub fn body(&self, host: &str) -> Vec<u8> {
        let DrainReason { why, evidence, .. } = &self.cause;
        let event = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": format!("/spillway/{host}"),
            "type": format!("io.spillway.node.{}.requested", self.ask.name()),
            "subject": host,
            "time": timestamp(self.at_ms),
            "datacontenttype": "application/json",
            "data": {
                "node": host,
                "incident": self.cause.outcome_cause(),
                "reason": why,
                "evidence": evidence,
                "deadline": timestamp(self.deadline_ms),
            },
        });
        event.to_string().into_bytes()
    }
}

/// Form of the incident on disk: its id, or the operator's name.
mod incident_or_operator {
    use super::*;

    pub fn serialize<S: Serializer>(
        incident: &Option<IncidentId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match incident {
            Some(id) => id.serialize(serializer),
            None => OutcomeCause::Operator.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IncidentId>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok((text != OutcomeCause::OPERATOR).then(|| IncidentId::from(&*text)))
    }
}

/// Returns whether a reply carries the request's id: as its header `webhook-id`, or as a string of
/// that name in a JSON object.
pub fn echoes(header: Option<&str>, body: &[u8], id: &str) -> bool {
    let in_body =
        || serde_json::from_slice::<Value>(body).is_ok_and(|body| body["webhook-id"] == id);
    header.map_or_else(in_body, |header| header.trim() == id)
}

/// Classifies a reply. `retry_after` is the value of its header of that name; `is_proven` is set if
/// it carries the request's id, or need not.
pub fn meaning(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
    is_proven: bool,
) -> ReplyClass {
    let said = reply_text(status, body);
    match status {
        200..300 if is_proven => ReplyClass::Granted,
        200..300 => ReplyClass::Unproven(said),
        // A request that is wrong now will be wrong the next time.
        400 | 409 | 413 | 422 | 423 => ReplyClass::Refused(said),
        410 => ReplyClass::Closed(said),
        _ => ReplyClass::Later(retry_after, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let evidence = json!({"verdict": "leak"});
        let incident = Some(IncidentId::from("leak-812-4711"));
        let cause = DrainReason { incident, why: "it leaks".to_owned(), evidence };
        Request {
            id: "drain-1".to_owned(),
            ask: RequestKind::Drain,
            at_ms: 0,
            deadline_ms: 300_000,
            cause,
        }
    }

    #[test]
    fn a_request_is_a_cloud_event_with_reason_evidence_and_deadline() {
        let event: Value = serde_json::from_slice(&request().body("web-3")).unwrap();
        assert_eq!(
            event,
            json!({
                "specversion": "1.0",
                "id": "drain-1",
                "source": "/spillway/web-3",
                "type": "io.spillway.node.drain.requested",
                "subject": "web-3",
                "time": "1970-01-01T00:00:00.000Z",
                "datacontenttype": "application/json",
                "data": {
                    "node": "web-3",
                    "incident": "leak-812-4711",
                    "reason": "it leaks",
                    "evidence": {"verdict": "leak"},
                    "deadline": "1970-01-01T00:05:00.000Z",
                },
            })
        );
        let undrain = Request { ask: RequestKind::Undrain, ..request() };
        let event: Value = serde_json::from_slice(&undrain.body("web-3")).unwrap();
        assert_eq!(event["type"], "io.spillway.node.undrain.requested");
    }

    #[test]
    fn a_request_that_was_kept_with_any_time_can_be_sent() {
        let request = Request { at_ms: u64::MAX, deadline_ms: u64::MAX, ..request() };
        let event: Value = serde_json::from_slice(&request.body("web-3")).unwrap();
        assert_eq!(event["time"], "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn only_a_status_of_success_grants() {
        let kind = |status| match meaning(status, None, b"<html>", true) {
            ReplyClass::Unproven(_) => "unproven",
            ReplyClass::Granted => "granted",
            ReplyClass::Refused(_) => "refused",
            ReplyClass::Closed(_) => "closed",
            ReplyClass::Later(..) => "later",
        };
        for (statuses, meant) in [
            (&[200, 202, 204, 299][..], "granted"),
            (&[400, 409, 413, 422, 423], "refused"),
            (&[410], "closed"),
            (&[100, 301, 302, 307, 308, 401, 403, 404, 408, 429, 500, 502, 503, 504], "later"),
        ] {
            for &status in statuses {
                assert_eq!(kind(status), meant, "{status}");
            }
        }
        let later = meaning(429, Some(Duration::from_secs(7)), b"slow down", true);
        assert_eq!(
            later,
            ReplyClass::Later(Some(Duration::from_secs(7)), "HTTP 429: slow down".to_owned())
        );
    }

    #[test]
    fn a_success_without_the_requests_identity_grants_nothing() {
        assert_eq!(
            meaning(200, None, b"welcome", false),
            ReplyClass::Unproven("HTTP 200: welcome".to_owned())
        );
        assert!(matches!(meaning(409, None, b"", false), ReplyClass::Refused(_)));
        for (header, body, is_echo) in [
            (Some("drain-1"), "", true),
            (Some(" drain-1 "), "<html>", true),
            (None, r#"{"webhook-id": "drain-1", "ok": true}"#, true),
            (None, "", false),
            (None, "drain-1", false),
            (None, r#"["drain-1"]"#, false),
            (None, r#"{"webhook-id": ["drain-1"]}"#, false),
            (Some("drain-2"), r#"{"webhook-id": "drain-1"}"#, false),
            (Some(""), "", false),
        ] {
            assert_eq!(echoes(header, body.as_bytes(), "drain-1"), is_echo, "{header:?} {body}");
        }
    }
}
