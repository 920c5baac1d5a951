//! Signals: SIGINT, SIGTERM and SIGQUIT stop the agent, SIGHUP reloads the configuration.
//!
//! The handlers are set before anything on the host is changed, so that no signal can kill an agent
//! that has something to restore.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes at the first signal to stop.
///
/// # Errors
///
/// Returns an error if a handler cannot be set.
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

/// Requests to reload the configuration.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Sets the handler.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be set.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next request. Signals that arrive before it is called are one request.
    pub async fn received(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime delivers no more signals.
            std::future::pending().await
        }
    }
}
