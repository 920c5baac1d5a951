//! Headers of requests, as an operator writes them to a file: one per line, `NAME: VALUE`.

use hyper::header::{HeaderName, HeaderValue};

/// Reads headers from the text of a file. Values are secrets, and marked so.
///
/// # Errors
///
/// Returns an error that names the line, and does not quote it, if a line is no header.
pub fn header_lines(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(at, line)| header(line).ok_or_else(|| wrong(at + 1))).collect()
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok().filter(|value| !value.is_empty())?;
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
}

fn wrong(line: usize) -> String {
    format!("line {line} is no header\n  hint: write one per line, such as \"api-key: KEY\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_line_by_line() {
        let read = header_lines("Api-Key: k3y:with colon\n\n  dd-otlp-source : me \n").unwrap();
        let read: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, read[0].1.as_bytes()), ("api-key", &b"k3y:with colon"[..]));
        assert_eq!((read[1].0, read[1].1.as_bytes()), ("dd-otlp-source", &b"me"[..]));
        assert!(read.iter().all(|(_, value)| value.is_sensitive()));
    }

    #[test]
    fn line_that_is_no_header_is_named_and_not_quoted() {
        for text in ["a: b\ns3cret", "a: b\ns3 cret: x", "a: b\ns3cret:", "a: b\ns3cret: \u{1}"] {
            let why = header_lines(text).unwrap_err();
            assert!(why.starts_with("line 2 is no header") && !why.contains("s3cret"), "{why}");
        }
    }
}
