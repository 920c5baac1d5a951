//! Who is told: what each of them gets of a page, and what its answer means.
//!
//! Pure but for secrets, which are read from their files each time, so that one that was replaced
//! counts at once. An answer that says nothing of what it should is no delivery: something in
//! between may have given it.

pub(super) mod alertmanager;
pub(super) mod pagerduty;
pub(super) mod slack;
pub(super) mod webhook;

use std::{fmt, time::Duration};

use serde_json::Value;

use super::{Notification, Update, links::Links};
use crate::net::{
    secret::{Redactor, SecretSource},
    webhook_signature::SigningKeys,
};

/// Longest that a receiver may ask to be left alone: more is a mistake, and somebody waits to be
/// told.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// In which form.
    pub form: SinkFormat,
    /// What every page is linked to.
    pub links: Links,
}

/// In which form somebody is told, and where.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkFormat {
    /// PagerDuty's Events API v2.
    PagerDuty {
        /// Address of alerts, which ends in `/enqueue`.
        url: String,
        /// The integration's key.
        routing_key: SecretSource,
    },
    /// Alertmanager's API v2.
    Alertmanager {
        /// Address of its alerts, which ends in `/api/v2/alerts`.
        url: String,
    },
    /// An incoming webhook like Slack's.
    Slack {
        /// Its address, which is a secret.
        url: SecretSource,
    },
    /// A signed webhook of the operator's own.
    Webhook {
        /// Its address.
        url: String,
        /// Its keys.
        keys: SecretSource,
    },
}

/// What is sent. Not to be logged: its address or body may hold a secret.
pub struct OutgoingRequest {
    /// Where.
    pub url: String,
    /// With which headers.
    pub headers: Vec<(&'static str, String)>,
    /// What.
    pub body: Vec<u8>,
    /// What of it is not to be told, should it come back.
    pub hidden: Redactor,
}

/// What became of a page that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// It is delivered.
    Taken,
    /// It is not delivered, and may be later, not before this long from now if that is said.
    Later(Option<Duration>, String),
    /// It may be delivered or not: nothing was answered.
    Unknown(String),
    /// It never will be.
    Refused(String),
    /// Nothing ever will be.
    Closed(String),
}

/// Kinds of sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SinkKind {
    /// See [`Form::PagerDuty`].
    PagerDuty,
    /// See [`Form::Alertmanager`].
    Alertmanager,
    /// See [`Form::Slack`].
    Slack,
    /// See [`Form::Webhook`].
    Webhook,
}

impl SinkKind {
    /// As it is configured, printed and counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::PagerDuty => "pagerduty",
            Self::Alertmanager => "alertmanager",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
        }
    }
}

impl Sink {
    /// Its kind.
    pub fn kind(&self) -> SinkKind {
        match self.form {
            SinkFormat::PagerDuty { .. } => SinkKind::PagerDuty,
            SinkFormat::Alertmanager { .. } => SinkKind::Alertmanager,
            SinkFormat::Slack { .. } => SinkKind::Slack,
            SinkFormat::Webhook { .. } => SinkKind::Webhook,
        }
    }

    /// Whether it is told of such.
    pub fn wants(&self, news: Update) -> bool {
        match self.kind() {
            // A change is no alert.
            SinkKind::Alertmanager => news != Update::Changed,
            SinkKind::PagerDuty | SinkKind::Slack | SinkKind::Webhook => true,
        }
    }

    /// What to send for a page; `None` where this one is not told of such. `unix_secs` is now.
    ///
    /// # Errors
    ///
    /// Where its secret cannot be read.
    pub fn post(
        &self,
        page: &Notification,
        unix_secs: u64,
    ) -> Result<Option<OutgoingRequest>, String> {
        let json = |url: String, body, hidden: Redactor| {
            let headers = vec![("content-type", "application/json".to_owned())];
            OutgoingRequest { hidden: hidden.address(&url), url, headers, body }
        };
        Ok(match &self.form {
            SinkFormat::PagerDuty { url, routing_key } => {
                let key = routing_key.read()?;
                let body = pagerduty::body(page, &key, &self.links);
                Some(json(pagerduty::url(url, page.news), body, Redactor::default().secret(&key)))
            }
            SinkFormat::Alertmanager { url } => alertmanager::body(page, &self.links)
                .map(|body| json(url.clone(), body, Redactor::default())),
            SinkFormat::Slack { url } => {
                let url = url.read()?;
                let hidden = Redactor::default().secret_address(&url);
                Some(json(url, slack::body(page, &self.links), hidden))
            }
            SinkFormat::Webhook { url, keys } => {
                let text = keys.read()?;
                let keys_read =
                    SigningKeys::read(&text).map_err(|error| format!("{keys}: {error}"))?;
                let body = webhook::body(page);
                let mut headers = vec![("content-type", webhook::CONTENT_TYPE.to_owned())];
                headers.extend(keys_read.headers(&page.id, unix_secs, &body));
                let hidden = Redactor::default().secret(&text).address(url);
                Some(OutgoingRequest { url: url.clone(), headers, body, hidden })
            }
        })
    }

    /// What an answer means. `retry_after` is what its header of that name asks for.
    pub fn fate(&self, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Delivery {
        let said = said(status, body);
        let is_taken = match self.kind() {
            SinkKind::PagerDuty => {
                status == 202 && field(body, "status").as_deref() == Some("success")
            }
            SinkKind::Alertmanager => status == 200,
            SinkKind::Slack => status == 200 && body.trim_ascii() == b"ok",
            SinkKind::Webhook => (200..300).contains(&status),
        };
        match status {
            _ if is_taken => Delivery::Taken,
            // What is wrong with it will be wrong the next time.
            400 | 413 | 422 => Delivery::Refused(said),
            410 if self.kind() == SinkKind::Webhook => Delivery::Closed(said),
            // Something in between has given up on the receiver, which may have it nonetheless; as
            // may one that answers with something else.
            200..300 | 502 | 504 => Delivery::Unknown(said),
            _ => Delivery::Later(retry_after.map(|after| after.min(RETRY_AFTER_MAX)), said),
        }
    }
}

/// A status and the first line of what came with it, short enough for a log.
pub(in crate::act) fn said(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]);
    let line = text.trim().lines().next().unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {line}") }
}

fn field(body: &[u8], name: &str) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return None };
    Some(fields.get(name)?.as_str()?.to_owned())
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(form: SinkFormat) -> Sink {
        Sink { form, links: Links::default() }
    }

    fn url() -> String {
        "http://127.0.0.1/enqueue".to_owned()
    }

    fn secret() -> SecretSource {
        SecretSource::new("/no/such").unwrap()
    }

    #[test]
    fn an_answer_means_what_its_receiver_says() {
        let pagerduty = sink(SinkFormat::PagerDuty { url: url(), routing_key: secret() });
        let success = br#"{"status":"success","message":"Event processed","dedup_key":"k"}"#;
        assert_eq!(pagerduty.fate(202, None, success), Delivery::Taken);
        let invalid =
            br#"{"status":"invalid event","message":"Event object is invalid","errors":["no"]}"#;
        let Delivery::Refused(why) = pagerduty.fate(400, None, invalid) else { panic!() };
        assert!(why.starts_with("HTTP 400: {\"status\":\"invalid event\""), "{why}");
        for status in [301, 429, 500] {
            assert!(
                matches!(pagerduty.fate(status, None, b""), Delivery::Later(None, _)),
                "{status}"
            );
        }
        for (status, body) in
            [(200, &success[..]), (202, b"<html>"), (202, b""), (502, b""), (504, b"")]
        {
            assert!(matches!(pagerduty.fate(status, None, body), Delivery::Unknown(_)), "{status}");
        }
        let day = Some(Duration::from_hours(24));
        assert!(
            matches!(pagerduty.fate(429, day, b""), Delivery::Later(Some(after), _) if after == RETRY_AFTER_MAX)
        );

        let slack = sink(SinkFormat::Slack { url: secret() });
        assert_eq!(slack.fate(200, None, b"ok\n"), Delivery::Taken);
        assert!(matches!(slack.fate(200, None, b"<html>please log in"), Delivery::Unknown(_)));
        let webhook = sink(SinkFormat::Webhook { url: url(), keys: secret() });
        assert_eq!(webhook.fate(204, None, b""), Delivery::Taken);
        assert!(matches!(webhook.fate(410, None, b""), Delivery::Closed(_)));
        assert!(matches!(pagerduty.fate(410, None, b""), Delivery::Later(..)));
        let alertmanager = sink(SinkFormat::Alertmanager { url: url() });
        assert_eq!(alertmanager.fate(200, None, b""), Delivery::Taken);
        assert!(matches!(alertmanager.fate(202, None, b""), Delivery::Unknown(_)));
    }

    #[test]
    fn what_was_answered_is_told_in_a_line() {
        let long = "x".repeat(1_000);
        assert_eq!(said(500, format!(" \n{long}").as_bytes()).len(), "HTTP 500: ".len() + 200);
        assert_eq!(said(503, b"\x1b[31mred\nmore"), "HTTP 503: [31mred");
        assert_eq!(said(503, b"\n"), "HTTP 503");
    }
}
