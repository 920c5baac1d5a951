//! Lines of a stream in bounded memory: a line that is too long is skipped, not kept.

use std::io::{self, BufRead};

/// Maximum length of a line. The longest valid record, with a cgroup path of 4 KiB, has about
/// 5 KiB.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;

/// Result of reading a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineRead {
    /// The line is in the buffer, without its line end.
    Complete,
    /// The line is in the buffer; the stream ended before its line end.
    Unterminated,
    /// The line is longer than [`LINE_BYTES_MAX`], and was dropped.
    TooLong,
}

/// Reads the next line into `buffer`; `None` at the end of the stream.
///
/// # Errors
///
/// Returns an error if the stream fails. Interrupted reads are retried.
pub(super) fn read_line<R: BufRead>(
    input: &mut R,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<LineRead>> {
    buffer.clear();
    let (mut any, mut too_long) = (false, false);
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            let line = if too_long { LineRead::TooLong } else { LineRead::Unterminated };
            return Ok(any.then_some(line));
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let content = &chunk[..end.unwrap_or(chunk.len())];
        if too_long || buffer.len() + content.len() > LINE_BYTES_MAX {
            too_long = true;
            buffer.clear();
        } else {
            buffer.extend_from_slice(content);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            if buffer.last() == Some(&b'\r') {
                buffer.pop();
            }
            return Ok(Some(if too_long { LineRead::TooLong } else { LineRead::Complete }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn lines_are_complete_whatever_the_chunks() {
        for capacity in [1, 2, 3, 64] {
            let mut input = BufReader::with_capacity(capacity, &b"one\r\n\ntwo\nthree"[..]);
            let mut buffer = Vec::new();
            let mut lines = Vec::new();
            while let Some(line) = read_line(&mut input, &mut buffer).unwrap() {
                lines.push((line, String::from_utf8(buffer.clone()).unwrap()));
            }
            let complete = |text: &str| (LineRead::Complete, text.to_owned());
            let last = (LineRead::Unterminated, "three".to_owned());
            assert_eq!(lines, [complete("one"), complete(""), complete("two"), last]);
        }
    }

    #[test]
    fn long_line_is_dropped_and_the_next_one_read() {
        let mut text = vec![b'x'; 10 << 20];
        text.extend_from_slice(b"\nnext\n");
        let mut input = BufReader::new(&text[..]);
        let mut buffer = Vec::new();
        assert_eq!(read_line(&mut input, &mut buffer).unwrap(), Some(LineRead::TooLong));
        assert!(buffer.capacity() <= 2 * LINE_BYTES_MAX);
        assert_eq!(read_line(&mut input, &mut buffer).unwrap(), Some(LineRead::Complete));
        assert_eq!(buffer, b"next");
    }
}
