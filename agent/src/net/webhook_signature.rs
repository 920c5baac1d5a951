//! Signatures of Standard Webhooks 1.0, by which a receiver knows who sent something, and that
//! nobody changed it.
//!
//! Source:
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//! What is signed is the identity, the time and the body, with every key there is: while one is
//! being replaced either is known to the receiver. It refuses a file of keys in which one is none.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::hmac;

/// Prefix of a key in text.
const PREFIX: &str = "whsec_";

/// Bytes that a key may have: what the specification says.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Keys, the newest first.
pub struct SigningKeys(Vec<hmac::Key>);

/// Why a file holds no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It is empty.
    #[error(
        "there is no key in it\n  hint: a key is `whsec_` and 24 to 64 random bytes in base64, one \
        a line"
    )]
    Empty,
    /// A line of it is none. What it says is a secret.
    #[error("line {0} is no key\n  hint: a key is `whsec_` and 24 to 64 random bytes in base64")]
    Line(usize),
}

impl SigningKeys {
    /// Reads keys, one a line.
    ///
    /// # Errors
    ///
    /// Returns an error that names the line that is no key.
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

    /// The headers that a request has beside its body. `unix_secs` is now.
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

    /// The example of the specification's reference libraries.
    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_example_of_the_specification_is_signed_as_it_says() {
        let keys = SigningKeys::read(KEY).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let headers = keys.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(headers[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs_and_bad_line_is_named_without_content() {
        let two = SigningKeys::read(&format!("{KEY}\n\n  {KEY}\n")).unwrap();
        assert_eq!(two.headers("a", 1, b"")[2].1.matches("v1,").count(), 2);
        assert_eq!(SigningKeys::read("\n").err(), Some(SigningKeyError::Empty));
        for wrong in ["secret", "whsec_", "whsec_AAAA", "whsec_%%%"] {
            let error = SigningKeys::read(&format!("{KEY}\n{wrong}")).err();
            assert_eq!(error, Some(SigningKeyError::Line(2)), "{wrong}");
        }
    }
}
