//! Text that others chose, made safe to show: process names, cgroup paths, addresses, and reasons
//! that quote them.

use serde_json::{Map, Value};

/// Most characters of one detail of a page.
const DETAIL_CHARS_MAX: usize = 512;

/// Shown in place of a character that a terminal or a chat would act on.
const REPLACEMENT: char = '\u{fffd}';

/// Replaces characters that control a terminal, break a line, hide themselves or change the
/// direction of what follows, and cuts what is longer than this many characters.
pub fn printable(text: &str, chars_max: usize) -> String {
    let mut shown: String =
        text.chars().take(chars_max).map(|c| if is_unsafe(c) { REPLACEMENT } else { c }).collect();
    if text.chars().nth(chars_max).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Makes every text among the details of a page printable.
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

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_a_chat_acts_on_is_replaced_and_text_is_cut_by_characters() {
        let hostile = "a\x1b[31m\nb\0\u{202e}c\u{200b}d";
        assert_eq!(printable(hostile, 100), "a\u{fffd}[31m\u{fffd}b\u{fffd}\u{fffd}c\u{fffd}d");
        let long = printable(&"é".repeat(2_000), 1_024);
        assert_eq!((long.chars().count(), long.ends_with('…')), (1_024, true));
        assert_eq!(printable("héllo: [::]:80", 14), "héllo: [::]:80");
    }

    #[test]
    fn details_are_made_printable_however_deep_they_are() {
        let mut details = Map::new();
        details.insert("names".to_owned(), serde_json::json!([{"comm": "a\nb"}, 7]));
        printable_details(&mut details);
        assert_eq!(details["names"], serde_json::json!([{"comm": "a\u{fffd}b"}, 7]));
    }
}
