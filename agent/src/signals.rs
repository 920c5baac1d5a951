//! Signals: SIGINT, SIGTERM and SIGQUIT stop, SIGHUP has the configuration read again.
//!
//! Their handlers are set before anything is changed on the host, so that no signal ends an agent
//! that has something to put back.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::signal::unix::{SignalKind, signal};

/// Completes at the first signal to stop.
///
/// # Errors
///
/// If a handler cannot be set.
pub fn stopped() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

/// Requests to read the configuration again.
#[derive(Debug)]
pub struct Hangup(Arc<AtomicBool>);

impl Hangup {
    /// Sets the handler. Several signals between two looks are one request.
    ///
    /// # Errors
    ///
    /// If it cannot be set.
    pub fn listen() -> io::Result<Self> {
        let mut hangup = signal(SignalKind::hangup())?;
        let is_due = Arc::new(AtomicBool::new(false));
        let shared = is_due.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                shared.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self(is_due))
    }

    /// Tells if there was a request since the last call.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
