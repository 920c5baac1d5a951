//! Redaction of secrets in text of another host.
//!
//! A server may echo the secret that it was sent, in a reply or an error, whole or in part. A
//! [`Redactor`] knows the secrets of one call and masks them before the text is logged or stored.
//! Letter case does not matter; a secret in another encoding is not found.

use std::collections::HashSet;

use hyper::Uri;

use crate::sense::printable::is_printable;

/// Minimum length of a fragment of a secret that is masked: a reply may quote the secret in part.
const FRAGMENT_BYTES: usize = 8;

/// Minimum length of a secret. A shorter text is no secret and would occur in ordinary words.
const SECRET_BYTES_MIN: usize = 4;

/// Maximum length of a path segment of a URL that is not a secret. Longer ones may be tokens, as in
/// the URLs of many webhook receivers.
const PUBLIC_SEGMENT_BYTES_MAX: usize = 15;

/// Maximum length of a line of another host's text, in characters.
const LINE_CHARS_MAX: usize = 300;

/// Replacement of a secret.
const MASK: &[u8] = b"[secret]";

/// Secrets of one call.
#[derive(Debug, Default)]
pub struct Redactor {
    secrets: Vec<Vec<u8>>,
}

impl Redactor {
    /// Adds each line of a secret.
    pub fn secret(mut self, text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| line.len() >= SECRET_BYTES_MIN);
        self.secrets.extend(lines.map(|line| line.to_ascii_lowercase().into_bytes()));
        self
    }

    /// Adds the parts of a URL that may be secret: its query and the long segments of its path.
    pub fn url(self, url: &str) -> Self {
        let Ok(uri) = url.parse::<Uri>() else { return self.secret(url) };
        let segments =
            uri.path().split('/').filter(|segment| segment.len() > PUBLIC_SEGMENT_BYTES_MAX);
        segments.chain(uri.query()).fold(self, Self::secret)
    }

    /// Adds a URL that is a secret itself, except its host.
    pub fn secret_url(self, url: &str) -> Self {
        let Ok(uri) = url.parse::<Uri>() else { return self.secret(url) };
        match uri.path_and_query() {
            Some(path) => self.secret(path.as_str()),
            None => self,
        }
    }

    /// Replaces each secret and each fragment of one in `text`, in any letter case.
    pub fn mask(&self, text: &[u8]) -> Vec<u8> {
        let lowercase = text.to_ascii_lowercase();
        let mut is_secret = vec![false; text.len()];
        for secret in &self.secrets {
            let size = secret.len().min(FRAGMENT_BYTES);
            let fragments: HashSet<_> = secret.windows(size).collect();
            for (at, window) in lowercase.windows(size).enumerate() {
                if fragments.contains(window) {
                    is_secret[at..at + size].fill(true);
                }
            }
        }
        let mut masked = Vec::with_capacity(text.len());
        for (at, byte) in text.iter().enumerate() {
            match is_secret[at] {
                false => masked.push(*byte),
                true if at == 0 || !is_secret[at - 1] => masked.extend_from_slice(MASK),
                true => {}
            }
        }
        masked
    }

    /// Does the same for a string.
    pub fn mask_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask(text.as_bytes())).into_owned()
    }

    /// Makes text of another host one printable line of bounded length, without secrets.
    pub fn line(&self, text: &str) -> String {
        let masked = self.mask_text(text.trim());
        let shown = masked.chars().take(LINE_CHARS_MAX);
        shown.map(|c| if is_printable(c) { c } else { ' ' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_secret_is_masked_in_whole_and_in_part() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let redactor = Redactor::default()
            .secret(&format!("{key}\nR0uT1ngK3y"))
            .url("https://lb.internal/drain/8c0d1ab2f7e94c55?token=s3cr3t-of-lb&n=1")
            .secret_url("https://hooks.internal/")
            .secret_url("https://hooks.internal/services/T0A1B2C3D/B4E5F6G7H/abcdefgh");
        for (text, masked) in [
            ("no such key: R0uT1ngK3y.", "no such key: [secret]."),
            ("key R0UT1NGK3Y, cut off: r0uT1ngK", "key [secret], cut off: [secret]"),
            (
                r#"{"url":"\/services\/T0A1B2C3D\/B4E5F6G7H"}"#,
                r#"{"url":"\[secret]\[secret]\[secret]"}"#,
            ),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw is wrong", "[secret] is wrong"),
            (
                "POST /drain/8c0d1ab2f7e94c55?token=s3cr3t-of-lb HTTP",
                "POST /drain/[secret]?[secret] HTTP",
            ),
            (
                "lb.internal and hooks.internal are down, draining",
                "lb.internal and hooks.internal are down, draining",
            ),
            ("", ""),
            ("a/b", "a/b"),
        ] {
            assert_eq!(redactor.mask_text(text), masked, "{text}");
        }
        assert_eq!(redactor.mask(b"\xff\xffR0uT1ngK3y\xff"), b"\xff\xff[secret]\xff");
    }

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        let redactor = Redactor::default().secret("R0uT1ngK3y");
        assert_eq!(redactor.line("a\nb\u{1b}[31m\u{202e} R0uT1ngK3y\n"), "a b [31m  [secret]");
        assert_eq!(redactor.line(&"é".repeat(1_000)).chars().count(), 300);
    }
}
