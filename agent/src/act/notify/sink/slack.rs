//! Slack's incoming webhooks, and what speaks like them: a text.
//!
//! Source: <https://api.slack.com/messaging/webhooks>. Whoever knows the address may write, so the
//! address is a secret.

use serde_json::json;

use crate::act::notify::{Notification, Update, links::Links};

/// The message.
pub fn body(page: &Notification, links: &Links) -> Vec<u8> {
    let severity = page.severity.name();
    let mark = match page.news {
        Update::Resolved => "Resolved".to_owned(),
        Update::Changed => "Changed".to_owned(),
        Update::Raised => capitalised(severity),
        Update::Updated => format!("Update, {severity}"),
    };
    let runbook =
        links.runbook.as_ref().map(|href| format!(" <{href}|Runbook>")).unwrap_or_default();
    json!({"text": format!("*{mark}* {}{runbook}", escaped(&page.summary))})
        .to_string()
        .into_bytes()
}

fn capitalised(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// Takes from a text what a chat would act on, because names in it are chosen by whoever runs a
/// process.
///
/// Three characters are Slack's own:
/// <https://api.slack.com/reference/surfaces/formatting#escaping>; without them there is no link
/// and no `<!channel>`. What speaks like Slack (Mattermost, Rocket.Chat, Discord) knows `@channel`
/// and Markdown's links and emphasis too, and has no escape for them that Slack would not show:
/// those characters are replaced by ones that look like them, and a link by its parts.
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
    use serde_json::Map;

    use super::*;
    use crate::decide::Severity;

    fn text(news: Update, severity: Severity, summary: &str) -> String {
        let [id, incident, host, component, group, class] = [(); 6].map(|()| String::new());
        let (summary, details) = (summary.to_owned(), Map::new());
        let (raised_at_ms, at_ms) = (0, 0);
        let page = Notification {
            id,
            incident,
            news,
            severity,
            summary,
            host,
            component,
            group,
            class,
            raised_at_ms,
            at_ms,
            details,
        };
        let body: serde_json::Value =
            serde_json::from_slice(&body(&page, &Links::default())).unwrap();
        body["text"].as_str().unwrap().to_owned()
    }

    #[test]
    fn an_update_is_marked_as_one() {
        assert_eq!(text(Update::Raised, Severity::Critical, "a"), "*Critical* a");
        assert_eq!(text(Update::Updated, Severity::Warning, "a"), "*Update, warning* a");
        assert_eq!(text(Update::Resolved, Severity::Critical, "a"), "*Resolved* a");
    }

    #[test]
    fn a_name_is_no_markup() {
        let hostile =
            "<!channel> @all *Resolved* [x](http://evil) <http://evil|x> `&amp;` ~a~ (pid 1)";
        let shown = "&lt;!channel&gt; ＠all ∗Resolved∗ [x] (http://evil) &lt;http://evil|x&gt; '&amp;amp;' ∼a∼ (pid 1)";
        assert_eq!(text(Update::Raised, Severity::Warning, hostile), format!("*Warning* {shown}"));
    }
}
