//! Debian's packages: queries, and installation.
//!
//! Every installation is announced before it runs. Installations never remove a package.

use std::process::Command;

use crate::child::{self, OnInterrupt};
use crate::sudo::authenticate;
use crate::workspace::is_root;

/// Installs packages that apt-get knows. If one is unknown, nothing is installed, and the next
/// decision has to handle it.
pub fn install(packages: &[String]) -> anyhow::Result<()> {
    let missing: Vec<String> =
        packages.iter().filter(|package| !installed(package)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: will run `{}`", apt_line(&missing));
    let hint = "check the network and the package lists, or run the command above by hand";
    authenticate(&apt_line(&missing))?;
    child::quiet("apt-get update", &mut apt(&["update"]), hint, OnInterrupt::Finish)?;
    if let Some(unknown) = missing.iter().find(|package| !has_candidate(package)) {
        eprintln!("setup: this distribution has no package {unknown}");
        return Ok(());
    }
    let mut command = apt(&["install", "--yes", "--no-install-recommends", "--no-remove"]);
    command.args(&missing);
    child::quiet(
        &format!("apt-get install {}", missing.join(" ")),
        &mut command,
        hint,
        OnInterrupt::Finish,
    )
}

/// Returns the command that installs the packages by hand.
pub fn apt_line(packages: &[String]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install {}", packages.join(" "))
}

/// Returns an apt-get command, as root and without questions.
pub fn apt(arguments: &[&str]) -> Command {
    let mut command = if is_root() { Command::new("env") } else { Command::new("sudo") };
    if !is_root() {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
    command
}

/// Returns true if this package is installed.
pub fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    let state = child::output_of(query.args(["--show", "--showformat=${Status}", package]));
    state.is_some_and(|state| state.ends_with(" installed"))
}

/// Returns true if apt knows a version of this package that it can install.
pub fn has_candidate(package: &str) -> bool {
    let policy =
        child::output_of(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|candidate| candidate != "(none)")
}
