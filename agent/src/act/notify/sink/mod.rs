//! Receivers of notifications: the request that each one gets, and the meaning of its reply.
//!
//! A sink is one file here: its address and secret from the configuration, its form of a
//! notification, its reading of a reply. A new sink is one such file, a line in [`CONSTRUCTORS`]
//! and a table of options in `config/options.rs`.
//!
//! Pure, except that secrets are read from their files at every attempt, so that a replaced secret
//! takes effect at once. A reply that does not say what the receiver's own would is no delivery: a
//! proxy may have written it.

mod alertmanager;
mod pagerduty;
mod slack;
mod webhook;

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde_json::Value;

use super::{Links, Notification, Update, text::reply_text};
use crate::{config::PageConfig, net::redact::Redactor};

/// Maximum delay that a receiver may ask for. A guess: a longer one is a mistake, and a human is
/// waiting for the notification.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Makes a sink from the configuration; `None` if the sink is not configured.
type Constructor = fn(&PageConfig, &Links) -> Option<Box<dyn Sink>>;

/// Constructors of all sinks.
const CONSTRUCTORS: &[Constructor] = &[
    pagerduty::PagerDuty::from_config,
    alertmanager::Alertmanager::from_config,
    slack::Slack::from_config,
    webhook::Webhook::from_config,
];

/// Makes every sink that is configured.
pub fn from_config(page: &PageConfig) -> Vec<Box<dyn Sink>> {
    let links = Links { runbook: page.runbook_url.clone(), picture: page.picture_url.clone() };
    CONSTRUCTORS.iter().filter_map(|new| new(page, &links)).collect()
}

/// A receiver of notifications.
pub trait Sink: fmt::Debug + Send {
    /// Name in the configuration, in logs, in metrics and in the spool.
    fn name(&self) -> &'static str;

    /// Returns whether the receiver is to get updates of this kind.
    fn wants(&self, _update: Update) -> bool {
        true
    }

    /// Encodes a notification. The result is kept for all attempts to deliver it, so it contains
    /// neither a secret nor the time of an attempt.
    fn encode(&self, notification: &Notification) -> Bytes;

    /// Makes the request of one attempt from what [`Sink::encode`] returned. `unix_secs` is now.
    ///
    /// # Errors
    ///
    /// Returns an error if the secret cannot be read.
    fn request(
        &self,
        notification: &Notification,
        body: Bytes,
        unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError>;

    /// Reads the receiver's reply.
    fn classify(&self, reply: &SinkReply<'_>) -> Delivery;
}

/// A request to a receiver. Not to be logged: its address or body may contain a secret.
pub struct OutgoingRequest {
    /// Address.
    pub url: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Bytes,
    /// Secrets to mask in the reply, in case the receiver sends them back.
    pub redactor: Redactor,
}

impl OutgoingRequest {
    /// A request with a JSON body; `redactor` gets its address.
    fn json(url: String, body: Bytes, redactor: Redactor) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { redactor: redactor.url(&url), url, headers, body }
    }
}

/// An error in reading a sink's secret: the file and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(pub String);

/// A receiver's reply.
#[derive(Debug, Clone, Copy)]
pub struct SinkReply<'a> {
    /// HTTP status.
    pub status: u16,
    /// Delay that its `Retry-After` header asks for.
    pub retry_after: Option<Duration>,
    /// Body, with secrets masked.
    pub body: &'a [u8],
}

impl SinkReply<'_> {
    /// Reads a reply by its status, as all receivers mean it. `is_taken` is what the receiver's own
    /// rule says of it.
    fn classify(&self, is_taken: bool) -> Delivery {
        match self.status {
            _ if is_taken => Delivery::Taken,
            // The same request would be wrong the next time too.
            400 | 413 | 422 => Delivery::Refused(self.text()),
            // A proxy gave up on the receiver, which may have the notification nonetheless. The
            // same holds for a success in other words than the receiver's.
            200..300 | 502 | 504 => Delivery::Unknown(self.text()),
            _ => {
                let delay = self.retry_after.map(|delay| delay.min(RETRY_AFTER_MAX));
                Delivery::Later(delay, self.text())
            }
        }
    }

    /// Value of a string field of a JSON body.
    fn field(&self, name: &str) -> Option<String> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(self.body) else { return None };
        Some(fields.get(name)?.as_str()?.to_owned())
    }

    fn text(&self) -> String {
        reply_text(self.status, self.body)
    }
}

/// Result of an attempt to deliver a notification, with the reply's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// It is delivered.
    Taken,
    /// It is not delivered; try again, after this delay if the receiver asked for one.
    Later(Option<Duration>, String),
    /// It may have been delivered; try again.
    Unknown(String),
    /// This notification will never be taken.
    Refused(String),
    /// No notification will ever be taken.
    Closed(String),
}

/// Sinks of all kinds, for tests and the fuzz target.
#[cfg(any(test, fuzzing))]
pub(super) fn all() -> Vec<Box<dyn Sink>> {
    use crate::{config::Config, net::secret::SecretSource};
    let mut page = Config::default().act.page;
    let secret = SecretSource::new("/no/such").ok();
    page.pagerduty.url = "http://127.0.0.1/enqueue".to_owned();
    page.pagerduty.routing_key_file = secret.clone();
    page.alertmanager.url = Some("http://127.0.0.1/api/v2/alerts".to_owned());
    page.slack.url_file = secret.clone();
    page.webhook.url = Some("http://127.0.0.1/".to_owned());
    page.webhook.secret_file = secret;
    from_config(&page)
}

#[cfg(test)]
mod tests;
