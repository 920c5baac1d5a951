//! The action `page`: notifies humans of an incident once, again when it changes or an action is
//! taken, and when it is over.
//!
//! [`IncidentTracker`](incidents::IncidentTracker) decides what to send, and is pure; it merges
//! floods of incidents into summaries. A [`Notification`] is the same for all receivers, and this
//! is its form on disk until it is delivered. Each receiver is a file in `sink/`, which encodes a
//! notification for it and reads its reply.

mod delivery_queue;
mod inbox;
mod incidents;
mod message;
mod metrics;
mod notifier;
mod outbox;
mod owner;
mod sink;
pub mod spool;
mod storm;
mod text;
mod worker;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    config::{Config, Mode},
    decide::Severity,
};

pub use metrics::NotifyMetrics;
pub use notifier::Notifier;
pub(crate) use text::printable;
pub(in crate::act) use text::reply_text;
pub(in crate::act) use worker::Jitter;

/// Maximum size of an incident's key in bytes: that of PagerDuty's `dedup_key`.
const KEY_BYTES_MAX: usize = 255;

/// Maximum size of a notification in bytes; usual ones take about 1 KiB. A larger one loses its
/// details, then the ends of its texts.
const NOTIFICATION_BYTES_MAX: usize = 4 << 10;

/// Maximum length of a name in a notification, in characters.
const NAME_CHARS_MAX: usize = 256;

/// News of an incident, or a change to this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Identity of this notification, the same in every attempt to deliver it.
    pub id: String,
    /// Key of the incident, the same from its first notification to its last and across restarts
    /// of the agent. At most 255 bytes.
    pub incident: String,
    /// Kind of news.
    #[serde(rename = "news")]
    pub update: Update,
    /// Severity of the incident.
    pub severity: Severity,
    /// Subject, rate, forecast and actions in at most 1,024 characters.
    pub summary: String,
    /// Name of this host.
    pub host: String,
    /// Subject of the incident: a process, an address.
    pub component: String,
    /// Cgroup of the subject; empty if unknown.
    pub group: String,
    /// Kind of incident, such as `leak of memory`.
    pub class: String,
    /// Time at which the incident was raised, in milliseconds since 1970.
    pub raised_at_ms: u64,
    /// Time of this notification, likewise.
    pub at_ms: u64,
    /// Figures and evidence, by name.
    pub details: Map<String, Value>,
}

/// Kind of news in a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// An incident began.
    Raised,
    /// Its severity, its cause or the action against it changed.
    Updated,
    /// It is over.
    Resolved,
    /// Something was changed on this host, or restored.
    Changed,
}

/// Links in every notification.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    /// Address of the runbook.
    pub runbook: Option<String>,
    /// Address of a graph.
    pub picture: Option<String>,
}

impl Notification {
    /// Returns the approximate size in memory and on disk.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |json| json.len())
    }

    /// Makes the notification safe to show and to store, whatever names it contains.
    fn bounded(mut self) -> Self {
        text::printable_details(&mut self.details);
        self.cut(message::CHARS_MAX, NAME_CHARS_MAX);
        if self.bytes() > NOTIFICATION_BYTES_MAX {
            self.details.clear();
        }
        if self.bytes() > NOTIFICATION_BYTES_MAX {
            // Four bytes a character, or every character escaped.
            self.cut(message::CHARS_MAX / 4, NAME_CHARS_MAX / 4);
        }
        self
    }

    fn cut(&mut self, summary_chars: usize, name_chars: usize) {
        self.summary = printable(&self.summary, summary_chars);
        for name in [&mut self.host, &mut self.component, &mut self.group] {
            *name = printable(name, name_chars);
        }
    }
}

impl Update {
    /// Name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
            Self::Changed => "changed",
        }
    }
}

/// Names of the receivers that are notified with this configuration; none in `observe`, unless
/// `act.page.in_observe` is set.
pub fn receivers(config: &Config) -> Vec<&'static str> {
    let page = &config.act.page;
    if config.mode == Mode::Observe && !page.in_observe {
        return Vec::new();
    }
    sink::from_config(page).iter().map(|sink| sink.name()).collect()
}

/// Formats a time according to RFC 3339, which ends with the year 9999: a file may contain any
/// number.
pub(crate) fn timestamp(at_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(at).to_string()
}

/// Encodes a notification for every receiver, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn bodies(notification: &Notification) -> Vec<bytes::Bytes> {
    sink::all().iter().map(|sink| sink.encode(notification)).collect()
}

/// Reads a reply as every receiver's and returns the texts, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn reply_texts(
    status: u16,
    retry_after: Option<std::time::Duration>,
    body: &[u8],
) -> Vec<String> {
    use sink::Delivery;
    let reply = sink::SinkReply { status, retry_after, body };
    let text = |delivery| match delivery {
        Delivery::Taken => String::new(),
        Delivery::Unknown(text)
        | Delivery::Later(_, text)
        | Delivery::Refused(text)
        | Delivery::Closed(text) => text,
    };
    sink::all().iter().map(|sink| text(sink.classify(&reply))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a warning with an identity, an incident and nothing else.
    pub fn notification(id: &str, incident: &str, update: Update) -> Notification {
        Notification {
            id: id.to_owned(),
            incident: incident.to_owned(),
            update,
            severity: Severity::Warning,
            summary: id.to_owned(),
            host: String::new(),
            component: String::new(),
            group: String::new(),
            class: String::new(),
            raised_at_ms: 0,
            at_ms: 0,
            details: Map::new(),
        }
    }
}
