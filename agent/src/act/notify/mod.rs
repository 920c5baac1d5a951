//! The action `page`: a human is told of an incident once, again when it changed or something was
//! done about it, and when it is over.
//!
//! [`Pager`](pager::Pager) says what is told, and is pure; it merges floods into summaries.
//! [`Page`] is one such thing, the same for everybody who is told; what is not delivered yet is on
//! disk in this form. A sink is a file here: it puts a page into the form of its receiver, and
//! reads the answer. The next sink is one more file, a variant of [`SinkKind`] and a table of the
//! configuration.

mod delivery_queue;
mod inbox;
mod incidents;
mod links;
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

use crate::decide::Severity;

pub use metrics::NotifyMetrics;
pub use notifier::Notifier;
pub(in crate::act) use sink::said;
pub(in crate::act) use worker::Chance;

/// Most bytes that a receiver takes of an incident's key: PagerDuty's `dedup_key`.
const KEY_BYTES_MAX: usize = 255;

/// Most bytes of a page; usual ones take about 1 KiB. Details give way where it would be larger,
/// then the ends of its texts.
const PAGE_BYTES_MAX: usize = 4 << 10;

/// One thing that is told of an incident, or of a change to this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Tells this page from every other one; the same however often it is sent.
    pub id: String,
    /// The incident, by a name that is the same from its first page to its last, and after a
    /// restart. At most 255 bytes.
    pub incident: String,
    /// What it tells.
    pub news: Update,
    /// How urgent the incident is.
    pub severity: Severity,
    /// What, where, since when, how fast, what will happen and what was done, in a sentence of at
    /// most 1,024 characters.
    pub summary: String,
    /// This host's name.
    pub host: String,
    /// Who it is about: a process, an address.
    pub component: String,
    /// What that belongs to: its cgroup; empty where unknown.
    pub group: String,
    /// What kind of incident, as `leak of memory`.
    pub class: String,
    /// When the incident was raised, in milliseconds since 1970.
    pub raised_at_ms: u64,
    /// When this was told, likewise.
    pub at_ms: u64,
    /// Figures and evidence, by name.
    pub details: Map<String, Value>,
}

/// Most characters of a name in a page.
const NAME_CHARS_MAX: usize = 256;

/// What a page tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// There is an incident.
    Raised,
    /// It is more or less urgent, it is something else than it seemed, or something else is done
    /// about it.
    Updated,
    /// It is over.
    Resolved,
    /// Something was changed on this host, or put back.
    Changed,
}

impl Notification {
    /// Approximate size in memory and on disk.
    pub fn bytes(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |json| json.len())
    }

    /// Makes it safe to show and to keep, whoever chose the names in it.
    fn bounded(mut self) -> Self {
        text::printable_details(&mut self.details);
        self.cut(message::CHARS_MAX, NAME_CHARS_MAX);
        if self.bytes() > PAGE_BYTES_MAX {
            self.details.clear();
        }
        if self.bytes() > PAGE_BYTES_MAX {
            // Four bytes a character, or all of them escaped.
            self.cut(message::CHARS_MAX / 4, NAME_CHARS_MAX / 4);
        }
        self
    }

    fn cut(&mut self, summary_chars: usize, name_chars: usize) {
        self.summary = text::printable(&self.summary, summary_chars);
        for name in [&mut self.host, &mut self.component, &mut self.group] {
            *name = text::printable(name, name_chars);
        }
    }
}

impl Update {
    /// As it is printed and counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
            Self::Changed => "changed",
        }
    }
}

/// A time as RFC 3339 has it, which ends with the year 9999: what is kept on disk may say anything.
pub(in crate::act) fn timestamp(at_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(at).to_string()
}

/// A page in every receiver's form, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn bodies(page: &Notification) -> Vec<Vec<u8>> {
    let links = links::Links::default();
    let mut bodies = vec![
        sink::pagerduty::body(page, "key", &links),
        sink::slack::body(page, &links),
        sink::webhook::body(page),
    ];
    bodies.extend(sink::alertmanager::body(page, &links));
    bodies
}

/// Words for a reply by each kind of receiver, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn fates(
    status: u16,
    retry_after: Option<std::time::Duration>,
    body: &[u8],
) -> Vec<String> {
    use sink::{Delivery, Sink, SinkFormat};
    let secret = || crate::net::secret::SecretSource::new("/no/such").expect("it is a path");
    let url = || "http://127.0.0.1/".to_owned();
    let forms = [
        SinkFormat::PagerDuty { url: url(), routing_key: secret() },
        SinkFormat::Alertmanager { url: url() },
        SinkFormat::Slack { url: secret() },
        SinkFormat::Webhook { url: url(), keys: secret() },
    ];
    let fate = |form| Sink { form, links: links::Links::default() }.fate(status, retry_after, body);
    let said = forms.map(fate).map(|fate| match fate {
        Delivery::Taken => String::new(),
        Delivery::Unknown(said)
        | Delivery::Later(_, said)
        | Delivery::Refused(said)
        | Delivery::Closed(said) => said,
    });
    said.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page with these, and with nothing else.
    pub fn page(id: &str, incident: &str, news: Update) -> Notification {
        Notification {
            id: id.to_owned(),
            incident: incident.to_owned(),
            news,
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
