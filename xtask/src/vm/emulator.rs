//! The emulator that boots other kernels: the machine's own, or Debian's in the cache.

use std::process::Command;

use crate::deb_cache::{Unpacked, command};
use crate::workspace::on_path;

const PROGRAM: &str = "qemu-system-x86_64";

const EMULATOR: Unpacked = Unpacked {
    name: "emulator",
    what: "QEMU",
    why: "to boot other kernels",
    packages: &["qemu-system-x86"],
    suite: None,
    programs: &[("usr/bin/qemu-system-x86_64", "--version", 0)],
    files: &[],
    may_be_installed: false,
};

/// Returns true if an emulator is available.
pub fn is_there() -> anyhow::Result<bool> {
    Ok(on_path(PROGRAM).is_some() || EMULATOR.is_there()?)
}

/// Provides an emulator, and returns the command that runs it.
pub fn provide() -> anyhow::Result<Command> {
    match on_path(PROGRAM) {
        Some(program) => Ok(Command::new(program)),
        None => Ok(command(&EMULATOR.provide()?, EMULATOR.programs[0].0)),
    }
}
