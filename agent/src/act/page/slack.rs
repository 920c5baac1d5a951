//! Slack's incoming webhooks, and what speaks like them: a text.
//!
//! Source: <https://api.slack.com/messaging/webhooks>. Whoever knows the address may write, so the address is a secret.

use serde_json::json;

use super::{News, Page, links::Links};
use crate::decide::Severity;

/// The message.
pub fn body(page: &Page, links: &Links) -> Vec<u8> {
    let mark = match (page.news, page.severity) {
        (News::Resolved, _) => "Resolved",
        (News::Changed, _) => "Changed",
        (_, Severity::Critical) => "Critical",
        (_, Severity::Warning) => "Warning",
        (_, Severity::Info) => "Info",
    };
    // Three characters are Slack's own: https://api.slack.com/reference/surfaces/formatting#escaping
    let text = page.summary.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let runbook = links.runbook.as_ref().map(|href| format!(" <{href}|Runbook>")).unwrap_or_default();
    json!({"text": format!("*{mark}* {text}{runbook}")}).to_string().into_bytes()
}
