//! Ctrl-C, SIGTERM and SIGHUP set a flag that every wait checks.
//!
//! A handler that exits would skip the guards that stop processes and remove cgroups. Therefore no
//! handler exits: waits return [`Interrupted`], the guards run on the way out, and `main` turns the
//! error into exit code 130. Children run in their own process groups, so that Ctrl-C on a terminal
//! reaches only this process.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Error of a wait that a signal ended.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Installs the handlers that set the flag.
pub fn install() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&STOPPED))
            .with_context(|| format!("no handler for signal {signal}"))?;
    }
    Ok(())
}

/// Checks for a stop signal.
///
/// # Errors
///
/// Returns [`Interrupted`] once a stop signal has arrived.
pub fn check() -> anyhow::Result<()> {
    if stopped() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Returns true once a stop signal has arrived.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
