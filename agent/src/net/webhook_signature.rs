//! Signatures of Standard Webhooks 1.0, with which a receiver verifies the sender and the content
//! of a request.
//!
//! Source:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//! The id, the time and the body are signed with every key, so that a key can be replaced: during
//! the change the receiver knows either the old or the new one. A file with an invalid key is
//! refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// Prefix of a key in text.
const PREFIX: &str = "whsec_";

/// Length of a key, from the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Keys, the newest first.
pub struct SigningKeys(Vec<hmac::Key>);

/// Error in a file of keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// The file is empty.
    #[error(
        "the file has no key\n  hint: a key is `whsec_` and 24 to 64 random bytes in base64, one \
         per line"
    )]
    Empty,
    /// A line is not a key. Its text may be a secret, so it is not quoted.
    #[error("line {0} is not a key\n  hint: a key is `whsec_` and 24 to 64 random bytes in base64")]
    Line(usize),
}

impl SigningKeys {
    /// Parses keys, one per line.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no key, or names the line that is not one.
    pub fn read(text: &str) -> Result<Self, SigningKeyError> {
        let lines = text
            .lines()
            .enumerate()
            .map(|(nth, line)| (nth + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty());
        let key = |(nth, line): (usize, &str)| {
            let bytes = line.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
            let bytes = bytes
                .filter(|bytes| KEY_BYTES.contains(&bytes.len()))
                .ok_or(SigningKeyError::Line(nth))?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        let keys = lines.map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(SigningKeyError::Empty) } else { Ok(Self(keys)) }
    }

    /// Returns the headers that sign a request. `unix_secs` is the current time.
    pub fn headers(&self, id: &str, unix_secs: u64, body: &[u8]) -> [(&'static str, String); 3] {
        let signed = [id.as_bytes(), b".", unix_secs.to_string().as_bytes(), b".", body].concat();
        let signature =
            |key: &hmac::Key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed)));
        let signatures: Vec<_> = self.0.iter().map(signature).collect();
        [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", unix_secs.to_string()),
            ("webhook-signature", signatures.join(" ")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Example of the specification's reference libraries.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn example_of_the_specification_gets_its_signature() {
        let keys = SigningKeys::read(KEY).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let headers = keys.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(headers[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_signs_and_invalid_line_is_named_not_quoted() {
        let two = SigningKeys::read(&format!("{KEY}\n\n  {KEY}\n")).unwrap();
        assert_eq!(two.headers("a", 1, b"")[2].1.matches("v1,").count(), 2);
        assert_eq!(SigningKeys::read("\n").err(), Some(SigningKeyError::Empty));
        for wrong in ["secret", "whsec_", "whsec_AAAA", "whsec_%%%"] {
            let error = SigningKeys::read(&format!("{KEY}\n{wrong}")).err();
            assert_eq!(error, Some(SigningKeyError::Line(2)), "{wrong}");
        }
    }
}
