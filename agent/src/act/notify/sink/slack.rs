//! Slack's incoming webhooks, and services that take the same messages.
//!
//! Source: <https://api.slack.com/messaging/webhooks>. Anyone who knows the address can post, so
//! the address is a secret.

use bytes::Bytes;
use serde_json::json;

use super::{Delivery, Links, OutgoingRequest, SecretError, Sink, SinkReply};
use crate::{
    act::notify::{Notification, Update},
    config::PageConfig,
    net::{redact::Redactor, secret::SecretSource},
};

/// An incoming webhook.
#[derive(Debug)]
pub struct Slack {
    /// Its address.
    url: SecretSource,
    links: Links,
}

impl Slack {
    /// Makes the sink if `act.page.slack.url_file` is set.
    pub fn from_config(page: &PageConfig, links: &Links) -> Option<Box<dyn Sink>> {
        let url = page.slack.url_file.clone()?;
        Some(Box::new(Self { url, links: links.clone() }))
    }
}

impl Sink for Slack {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn encode(&self, notification: &Notification) -> Bytes {
        let severity = notification.severity.name();
        let label = match notification.update {
            Update::Resolved => "Resolved".to_owned(),
            Update::Changed => "Changed".to_owned(),
            Update::Raised => capitalized(severity),
            Update::Updated => format!("Update, {severity}"),
        };
        let runbook = self.links.runbook.as_ref();
        let runbook = runbook.map(|href| format!(" <{href}|Runbook>")).unwrap_or_default();
        let text = format!("*{label}* {}{runbook}", escaped(&notification.summary));
        json!({"text": text}).to_string().into()
    }

    fn request(
        &self,
        _notification: &Notification,
        body: Bytes,
        _unix_secs: u64,
    ) -> Result<OutgoingRequest, SecretError> {
        let url = self.url.read().map_err(SecretError)?;
        let redactor = Redactor::default().secret_url(&url);
        Ok(OutgoingRequest::json(url, body, redactor))
    }

    fn classify(&self, reply: &SinkReply<'_>) -> Delivery {
        reply.classify(reply.status == 200 && reply.body.trim_ascii() == b"ok")
    }
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// Escapes markup in a text, because names in it are chosen by the owners of processes.
///
/// Slack escapes three characters:
/// <https://api.slack.com/reference/surfaces/formatting#escaping>; without them there is no link
/// and no `<!channel>`. Other services that take such messages (Mattermost, Rocket.Chat, Discord)
/// also act on `@channel` and on Markdown links and emphasis, and have no escape for them that
/// Slack would not show: those characters are replaced by similar ones, and a link is taken apart.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' => escaped.push('\u{ff20}'),
            '*' => escaped.push('\u{2217}'),
            '~' => escaped.push('\u{223c}'),
            '`' => escaped.push('\''),
            '(' if escaped.ends_with(']') => escaped.push_str(" ("),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{act::notify::tests::notification, decide::Severity};

    fn text(update: Update, severity: Severity, summary: &str) -> String {
        let slack = Slack { url: SecretSource::new("/no/such").unwrap(), links: Links::default() };
        let summary = summary.to_owned();
        let notification = Notification { severity, summary, ..notification("", "", update) };
        let body: serde_json::Value = serde_json::from_slice(&slack.encode(&notification)).unwrap();
        body["text"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_message_begins_with_the_kind_of_update() {
        assert_eq!(text(Update::Raised, Severity::Critical, "a"), "*Critical* a");
        assert_eq!(text(Update::Updated, Severity::Warning, "a"), "*Update, warning* a");
        assert_eq!(text(Update::Resolved, Severity::Critical, "a"), "*Resolved* a");
    }

    #[test]
    fn markup_in_a_name_has_no_effect() {
        let hostile =
            "<!channel> @all *Resolved* [x](http://evil) <http://evil|x> `&amp;` ~a~ (pid 1)";
        let shown = "&lt;!channel&gt; ＠all ∗Resolved∗ [x] (http://evil) \
                     &lt;http://evil|x&gt; '&amp;amp;' ∼a∼ (pid 1)";
        assert_eq!(text(Update::Raised, Severity::Warning, hostile), format!("*Warning* {shown}"));
    }
}
