//! The configuration: its options, their defaults, and the mistakes in a file.
//!
//! An option is one declaration in `options.rs`, from which its field, its default, parsing, hints
//! and the generated `configs/spillway.toml` follow. All mistakes are reported at once, in file
//! order: a host that is restarted once per typo is not watched meanwhile.
//!
//! Refused: unknown options and tables, numbers without units, values outside their range, and
//! combinations that cannot work. Nothing here exits the process or reads the environment.

mod choice;
mod did_you_mean;
mod error;
mod kind;
mod network;
mod option;
mod options;
mod parse;
mod pattern;
mod reload;
mod service;
mod template;
mod units;
mod url;
mod validate;
mod value;

use std::{io, path::Path};

use nix::unistd::geteuid;

use crate::os::trusted::{self, FileRules, PathRules, Untrusted};

pub use choice::{Choice, CounterForm, FleetBackend, Mode, Reach};
pub use error::{ConfigErrors, ConfigProblem};
pub use network::{Network, host_name};
pub use options::{
    ActConfig, AgentCheckConfig, AlertmanagerConfig, Config, DecideConfig, DetectConfig,
    DrainConfig, ExportConfig, FleetConfig, KubernetesConfig, LeakConfig, LimitConfig, OtlpConfig,
    OverloadConfig, PageConfig, PageWebhookConfig, PagerDutyConfig, RecordConfig, SenseConfig,
    ServeConfig, SlackConfig,
};
pub use parse::parse;
pub use pattern::Pattern;
pub use reload::Reload;
pub use service::ServicePattern;
pub use template::commented_defaults;
pub use validate::notices;

/// Maximum size of a configuration: some 70 times the generated file, so a larger file is a wrong
/// path.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the configuration in the file at `path`.
///
/// # Errors
///
/// Returns every mistake, in file order; or the one reason why the file cannot be read (missing,
/// unreadable, not a regular file, larger than 1 MiB, not UTF-8; for root also a file that another
/// user can change).
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    match read(path) {
        Ok(bytes) => parse_bytes(&bytes, &file),
        Err(problem) => Err(ConfigErrors::new(&file, vec![problem])),
    }
}

/// Reads the file at `path`, at most [`FILE_BYTES_MAX`].
fn read(path: &Path) -> Result<Vec<u8>, ConfigProblem> {
    let unreadable = |error: io::Error| {
        if let Some(untrusted) = Untrusted::of(&error) {
            let (message, hint) = untrusted.parts(path);
            return ConfigProblem {
                line: None,
                message: format!("is refused: {message}"),
                hint: hint.to_owned(),
            };
        }
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "`spillway check-config --print-defaults` prints a file to start from"
            }
            io::ErrorKind::PermissionDenied => {
                "the user that spillway runs as must be able to read it"
            }
            io::ErrorKind::IsADirectory => "give a file in it, such as spillway.toml",
            _ => "give a regular file",
        };
        ConfigProblem {
            line: None,
            message: format!("cannot be read: {error}"),
            hint: hint.to_owned(),
        }
    };
    // A user who can write the file controls root's actions. A user who runs the agent without
    // root's rights gains nothing by it.
    let checks_owners = geteuid().is_root();
    let on_path = PathRules { checks_owners, ..PathRules::NAMED };
    let rules = FileRules { checks_owners, ..FileRules::public(FILE_BYTES_MAX) };
    trusted::read(path, on_path, rules).map_err(unreadable)
}

/// Parses bytes that may not be UTF-8; see [`parse()`].
fn parse_bytes(bytes: &[u8], file: &str) -> Result<Config, ConfigErrors> {
    let error = match str::from_utf8(bytes) {
        Ok(text) => return parse(text, file),
        Err(error) => error,
    };
    let (text, rest) = bytes.split_at(error.valid_up_to());
    let problem = ConfigProblem {
        line: Some(1 + text.iter().filter(|byte| **byte == b'\n').count()),
        message: format!("byte 0x{:02x} is not UTF-8", rest.first().copied().unwrap_or_default()),
        hint: "save the file as UTF-8 text".to_owned(),
    };
    Err(ConfigErrors::new(file, vec![problem]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_are_reported_with_their_line() {
        let errors = parse_bytes(b"mode = \"observe\"\n# \xff\n", "x.toml").unwrap_err();
        assert_eq!(
            errors.to_string(),
            "x.toml:2: byte 0xff is not UTF-8\n  hint: save the file as UTF-8 text"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
            if let Err(errors) = parse_bytes(&bytes, "x.toml") {
                prop_assert!(errors.problems().iter().all(|problem| problem.line.is_some_and(|line| line <= lines)));
            }
        }
    }
}
