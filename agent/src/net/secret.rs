//! Sources of secrets: a file or a systemd credential (`LoadCredential=`).
//!
//! The configuration names a secret and never contains it. It is read each time it is needed, so
//! that it can be replaced while the agent runs, and never printed; [`super::redact`] masks it in
//! the text of other hosts. A file that other users may read or change is refused ([`trusted`]).

use std::{env, fmt, path::PathBuf};

use crate::os::trusted::{self, FileRules, PathRules};

/// Prefix of a systemd credential in the configuration.
const CREDENTIAL: &str = "credential:";

/// Variable with the directory of the credentials, set by systemd.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Maximum size of a secret. A larger file is some other file.
const BYTES_MAX: u64 = 64 << 10;

/// Source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// File.
    File(PathBuf),
    /// Name of a credential in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl SecretSource {
    /// Parses an absolute path or `credential:NAME`.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is neither. It continues a sentence that begins with the
    /// option's name, and does not quote the text, which may be the secret itself.
    pub fn new(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(CREDENTIAL) {
            return match name {
                "" | "." | ".." => Err("has no name after credential:".to_owned()),
                _ if name.contains('/') => Err("names a credential with a / in it".to_owned()),
                _ => Ok(Self::Credential(name.to_owned())),
            };
        }
        match text.starts_with('/') {
            true => Ok(Self::File(text.into())),
            false => Err("is neither an absolute path nor a credential".to_owned()),
        }
    }

    /// Returns whether this is a credential and this process has no credentials: it cannot be
    /// checked outside the service.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Credential(_)) && env::var_os(CREDENTIALS_DIRECTORY).is_none()
    }

    /// Reads the secret, without surrounding white space.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is missing, not protected, too large, empty or not UTF-8.
    pub fn read(&self) -> Result<String, String> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Credential(name) => {
                let directory = env::var_os(CREDENTIALS_DIRECTORY).ok_or_else(|| {
                    format!(
                        "{self}: {CREDENTIALS_DIRECTORY} is not set, so systemd passed no \
                         credentials\n  hint: add LoadCredential={name}:PATH to the unit"
                    )
                })?;
                PathBuf::from(directory).join(name)
            }
        };
        let wrong = |why: String| format!("{self}: {why}");
        let bytes = trusted::read(&path, PathRules::NAMED, FileRules::secret(BYTES_MAX))
            .map_err(|error| wrong(trusted::reason(&error, &path)))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| wrong("not UTF-8 text\n  hint: write the secret as text".to_owned()))?;
        match text.trim() {
            "" => Err(wrong("the file is empty\n  hint: write the secret to it".to_owned())),
            text => Ok(text.to_owned()),
        }
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
    fn secret_is_read_from_a_protected_file_only() {
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
        assert!(secret.read().unwrap_err().contains(": the file is empty\n  hint: "));
        fs::write(&path, b"\xff").unwrap();
        assert!(secret.read().unwrap_err().contains(": not UTF-8 text\n  hint: "));
        fs::remove_file(&path).unwrap();
        assert!(secret.read().unwrap_err().starts_with(&format!("{}: ", path.display())));
    }

    #[test]
    fn text_that_names_no_secret_is_refused() {
        for text in ["", "key", "./key", "credential:", "credential:../a", "credential:.."] {
            assert!(SecretSource::new(text).is_err(), "{text}");
        }
        assert_eq!(
            SecretSource::new("credential:pagerduty").unwrap().to_string(),
            "credential:pagerduty"
        );
    }
}
