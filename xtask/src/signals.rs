//! Ctrl-C, SIGTERM and SIGHUP become a flag that every wait looks at.
//!
//! A handler that exits would skip the guards that stop processes and remove cgroups. So nothing
//! exits in a handler: waits return [`Interrupted`], the guards run on the way out, and `main`
//! turns it into exit code 130. Children run in process groups of their own, so that Ctrl-C on a
//! terminal reaches this process alone.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// The error of a wait that a signal ended.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Turns the stopping signals into the flag, from now on.
pub fn install() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&STOPPED))
            .with_context(|| format!("no handler for signal {signal}"))?;
    }
    Ok(())
}

/// Fails with [`Interrupted`] once a stopping signal has come.
pub fn check() -> anyhow::Result<()> {
    if stopped() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Whether a stopping signal has come.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
