//! Text chosen by others, made safe to show: process names, cgroup paths, addresses, reasons that
//! quote them, and replies of receivers.

use serde_json::{Map, Value};

use crate::sense::printable::is_printable;

/// Maximum length of one detail of a notification, in characters.
const DETAIL_CHARS_MAX: usize = 512;

/// Maximum length of what is shown of a reply, in characters: a line of a log.
const REPLY_CHARS_MAX: usize = 200;

/// Character in place of one that a terminal or a chat would act on.
const REPLACEMENT: char = '\u{fffd}';

/// Replaces characters that control a terminal, break a line, are invisible or reverse the text
/// that follows, and cuts the text to a number of characters.
pub fn printable(text: &str, chars_max: usize) -> String {
    let shown = text.chars().take(chars_max);
    let mut shown: String = shown.map(|c| if is_printable(c) { c } else { REPLACEMENT }).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Makes every text in the details of a notification printable.
pub fn printable_details(details: &mut Map<String, Value>) {
    details.values_mut().for_each(printable_value);
}

fn printable_value(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text, DETAIL_CHARS_MAX),
        Value::Array(values) => values.iter_mut().for_each(printable_value),
        Value::Object(fields) => printable_details(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Formats an HTTP status and the first line of the body, short enough for a log.
pub fn reply_text(status: u16, body: &[u8]) -> String {
    // Four bytes a character at most, and some white space before them.
    let text = String::from_utf8_lossy(&body[..body.len().min(5 * REPLY_CHARS_MAX)]);
    let line = text.trim().lines().next().unwrap_or_default();
    if line.is_empty() {
        return format!("HTTP {status}");
    }
    format!("HTTP {status}: {}", printable(line, REPLY_CHARS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_replaced_and_long_text_is_cut() {
        let hostile = "a\x1b[31m\nb\0\u{202e}c\u{200b}d";
        assert_eq!(printable(hostile, 100), "a\u{fffd}[31m\u{fffd}b\u{fffd}\u{fffd}c\u{fffd}d");
        let long = printable(&"é".repeat(2_000), 1_024);
        assert_eq!((long.chars().count(), long.ends_with('…')), (1_024, true));
        assert_eq!(printable("héllo: [::]:80", 14), "héllo: [::]:80");
    }

    #[test]
    fn nested_details_are_made_printable() {
        let mut details = Map::new();
        details.insert("names".to_owned(), serde_json::json!([{"comm": "a\nb"}, 7]));
        printable_details(&mut details);
        assert_eq!(details["names"], serde_json::json!([{"comm": "a\u{fffd}b"}, 7]));
    }

    #[test]
    fn a_reply_is_shown_as_one_safe_line() {
        let long = "x".repeat(10_000);
        let shown = reply_text(500, format!(" \n{long}").as_bytes());
        assert_eq!(shown.chars().count(), "HTTP 500: ".len() + REPLY_CHARS_MAX);
        assert_eq!(reply_text(503, b"\x1b[31mred\nmore"), "HTTP 503: \u{fffd}[31mred");
        assert_eq!(reply_text(503, "a\u{202e}b".as_bytes()), "HTTP 503: a\u{fffd}b");
        assert_eq!(reply_text(503, b"\n"), "HTTP 503");
    }
}
