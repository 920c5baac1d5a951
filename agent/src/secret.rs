//! Secrets: named in the configuration, never in it, and read when they are needed.
//!
//! A secret is a file, or a credential that systemd hands to the service (`LoadCredential=`). What it says is never printed. It refuses a file that
//! everybody may read.

use std::{env, fmt, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

/// What a credential's name begins with in the configuration.
const CREDENTIAL: &str = "credential:";

/// More is no secret, but another file.
const BYTES_MAX: u64 = 64 << 10;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a credential of this name, below `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl Secret {
    /// Reads where one is: an absolute path, or `credential:NAME`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
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

    /// What it says, without the space around it.
    ///
    /// # Errors
    ///
    /// Why it cannot be had.
    pub fn read(&self) -> Result<String, String> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Credential(name) => {
                let directory = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!(
                        "{self}: systemd has handed over no credentials\n  hint: LoadCredential={name}:PATH in the unit"
                    )
                })?;
                PathBuf::from(directory).join(name)
            }
        };
        let wrong = |why: String| format!("{self}: {why}");
        let metadata = fs::metadata(&path).map_err(|error| wrong(error.to_string()))?;
        if metadata.mode() & 0o004 != 0 {
            return Err(wrong(format!("everybody may read it\n  hint: chmod 600 {}", path.display())));
        }
        if metadata.len() > BYTES_MAX {
            return Err(wrong(format!("it has {} bytes, more than any secret", metadata.len())));
        }
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        match text.trim() {
            "" => Err(wrong("it is empty".to_owned())),
            text => Ok(text.to_owned()),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "{CREDENTIAL}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_a_file_that_not_everybody_reads() {
        let path = env::temp_dir().join(format!("spillway-secret-{}", std::process::id()));
        let secret = Secret::new(path.to_str().unwrap()).unwrap();
        fs::write(&path, " key \n").unwrap();
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        assert!(secret.read().unwrap_err().contains("everybody may read it"));
        set(0o640);
        assert_eq!(secret.read(), Ok("key".to_owned()));
        fs::write(&path, "\n").unwrap();
        assert!(secret.read().unwrap_err().ends_with("it is empty"));
        fs::remove_file(&path).unwrap();
        assert!(secret.read().unwrap_err().starts_with(&format!("{}: ", path.display())));
    }

    #[test]
    fn what_names_no_secret_is_refused() {
        for text in ["", "key", "./key", "credential:", "credential:../a", "credential:.."] {
            assert!(Secret::new(text).is_err(), "{text}");
        }
        assert_eq!(Secret::new("credential:pagerduty").unwrap().to_string(), "credential:pagerduty");
    }
}
