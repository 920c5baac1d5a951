//! Secrets: named in the configuration, never in it, and read when they are needed.
//!
//! A secret is a file, or a credential that systemd hands to the service (`LoadCredential=`). What
//! it says is never printed, not even where somebody else says it: whoever is sent a secret may
//! send it back, and [`Hidden`] takes it out of what is told of his answer. It refuses a file that
//! others may read or change ([`trusted`]).

use std::{collections::HashSet, env, fmt, path::PathBuf};

use hyper::Uri;

use crate::os::trusted::{self, FileRules, PathRules};

/// Prefix of a systemd credential in the configuration.
const CREDENTIAL: &str = "credential:";

/// The directory of the credentials that systemd hands over.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// More is no secret, but another file.
const BYTES_MAX: u64 = 64 << 10;

/// Bytes of a secret that tell something of it, wherever they stand: an answer may quote it in
/// part.
const PART_BYTES: usize = 8;

/// What is shorter is no secret, and would be found in every sentence.
const SECRET_BYTES_MIN: usize = 4;

/// A part of an address's path that is longer may be what opens it: so have many who are told by
/// webhooks.
const NAME_BYTES_MAX: usize = 15;

/// Said in place of a secret.
const MASK: &[u8] = b"[secret]";

/// Secrets that one call knows.
#[derive(Debug, Default)]
pub struct Redactor {
    secrets: Vec<Vec<u8>>,
}

/// Source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a credential of this name, below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl SecretSource {
    /// Reads where one is: an absolute path, or `credential:NAME`.
    ///
    /// # Errors
    ///
    /// Returns an error if it is invalid.
    pub fn new(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(CREDENTIAL) {
            return match name {
                "" | "." | ".." => Err("names no credential".to_owned()),
                _ if name.contains('/') => Err("names a credential with a / in it".to_owned()),
                _ => Ok(Self::Credential(name.to_owned())),
            };
        }
        match text.starts_with('/') {
            true => Ok(Self::File(text.into())),
            false => Err("is neither an absolute path nor a credential".to_owned()),
        }
    }

    /// Tells if it is a credential, and this process was started without any.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Credential(_)) && env::var_os(CREDENTIALS).is_none()
    }

    /// Reads the secret, without surrounding white space.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn read(&self) -> Result<String, String> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Credential(name) => {
                let directory = env::var_os(CREDENTIALS).ok_or_else(|| {
                    format!(
                        "{self}: systemd has handed over no credentials\n  hint: \
                        LoadCredential={name}:PATH in the unit"
                    )
                })?;
                PathBuf::from(directory).join(name)
            }
        };
        let wrong = |why: String| format!("{self}: {why}");
        let bytes = trusted::read(&path, PathRules::NAMED, FileRules::secret(BYTES_MAX))
            .map_err(|error| wrong(trusted::reason(&error, &path)))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is not text".to_owned()))?;
        match text.trim() {
            "" => Err(wrong("it is empty".to_owned())),
            text => Ok(text.to_owned()),
        }
    }
}

impl Redactor {
    /// Hides each line of a secret.
    pub fn secret(mut self, text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| line.len() >= SECRET_BYTES_MIN);
        self.secrets.extend(lines.map(|line| line.to_ascii_lowercase().into_bytes()));
        self
    }

    /// Hides what an address may hold of secrets: what is asked for, and what is long in its path.
    pub fn address(self, url: &str) -> Self {
        let Ok(uri) = url.parse::<Uri>() else { return self.secret(url) };
        let names = uri.path().split('/').filter(|name| name.len() > NAME_BYTES_MAX);
        names.chain(uri.query()).fold(self, Self::secret)
    }

    /// Hides all of an address that is a secret, but for whom it names.
    pub fn secret_address(self, url: &str) -> Self {
        let Ok(uri) = url.parse::<Uri>() else { return self.secret(url) };
        uri.path_and_query()
            .map(|path| path.as_str().to_owned())
            .iter()
            .fold(self, |hidden, path| hidden.secret(path))
    }

    /// A text without any of it, however it is written in small and capital letters.
    pub fn mask(&self, text: &[u8]) -> Vec<u8> {
        let said = text.to_ascii_lowercase();
        let mut is_secret = vec![false; text.len()];
        for secret in &self.secrets {
            let size = secret.len().min(PART_BYTES);
            let parts: HashSet<_> = secret.windows(size).collect();
            for (at, part) in said.windows(size).enumerate() {
                if parts.contains(part) {
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

    /// The same of a sentence.
    pub fn mask_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.mask(text.as_bytes())).into_owned()
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "{CREDENTIAL}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_secret_is_a_file_that_not_everybody_reads() {
        let path = env::temp_dir().join(format!("spillway-secret-{}", std::process::id()));
        let secret = SecretSource::new(path.to_str().unwrap()).unwrap();
        fs::write(&path, " key \n").unwrap();
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        assert!(
            secret
                .read()
                .unwrap_err()
                .contains("users other than its owner can read it\n  hint: chmod 0640")
        );
        set(0o640);
        assert_eq!(secret.read(), Ok("key".to_owned()));
        fs::write(&path, "\n").unwrap();
        assert!(secret.read().unwrap_err().ends_with("it is empty"));
        fs::remove_file(&path).unwrap();
        assert!(secret.read().unwrap_err().starts_with(&format!("{}: ", path.display())));
    }

    #[test]
    fn a_secret_is_not_told_however_it_is_quoted() {
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let hidden = Redactor::default()
            .secret(&format!("{key}\nR0uT1ngK3y"))
            .address("https://lb.internal/drain/8c0d1ab2f7e94c55?token=s3cr3t-of-lb&n=1")
            .secret_address("https://hooks.internal/")
            .secret_address("https://hooks.internal/services/T0A1B2C3D/B4E5F6G7H/abcdefgh");
        let masked = |text: &str| hidden.mask_text(text);
        for (said, told) in [
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
            assert_eq!(masked(said), told, "{said}");
        }
        assert_eq!(hidden.mask(b"\xff\xffR0uT1ngK3y\xff"), b"\xff\xff[secret]\xff");
    }

    #[test]
    fn what_names_no_secret_is_refused() {
        for text in ["", "key", "./key", "credential:", "credential:../a", "credential:.."] {
            assert!(SecretSource::new(text).is_err(), "{text}");
        }
        assert_eq!(
            SecretSource::new("credential:pagerduty").unwrap().to_string(),
            "credential:pagerduty"
        );
    }
}
