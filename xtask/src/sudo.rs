//! Root privileges for other users: sudo, which prompts only on a terminal.

use std::io::IsTerminal as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::workspace::{is_root, on_path};
use crate::{child, signals};

/// Prepares sudo to run without a prompt: it prompts here, in the foreground, or not at all. `what`
/// is the command that needs root.
pub fn authenticate(what: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    if on_path("sudo").is_none() {
        bail!(
            "`{what}` needs root, but there is no sudo\n  hint: run it as root, then repeat \
            this"
        );
    }
    if child::output_of(Command::new("sudo").args(["-n", "true"])).is_some() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!(
            "`{what}` needs root: sudo needs a password, but there is no terminal\n  hint: \
            run `sudo -v` first"
        );
    }
    let status = Command::new("sudo")
        .arg("-v")
        .stdin(Stdio::inherit())
        .status()
        .context("sudo could not be started")?;
    signals::check()?;
    if !status.success() {
        bail!(
            "sudo was refused, but `{what}` needs root\n  hint: run it as root, then repeat \
            this"
        );
    }
    Ok(())
}
