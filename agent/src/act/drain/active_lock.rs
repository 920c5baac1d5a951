//! Standing by while another agent with the same state directory drains: two that requested drains
//! would take back each other's grants.
//!
//! Meanwhile load balancers get the state that the other agent has on disk, and the operator's
//! override, so that it does not matter which agent they ask. Once the other agent has ended, this
//! one continues from that state. Failure: an agent that cannot create the lock does not stand by;
//! it cannot save any state there either, and drains nothing.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    operator_override::OverrideFile,
    readiness::{DrainView, ReadinessCell},
    state_file::StateFile,
};
use crate::os::{StateDir, file_lock::lock_exclusive};

const LOCK: &str = "drain.lock";

/// View of another agent that holds the lock.
#[derive(Clone)]
pub struct ActiveLock {
    state_dir: PathBuf,
    store: StateFile,
    word_file: OverrideFile,
    readiness: Arc<ReadinessCell>,
}

impl ActiveLock {
    /// Returns the lock of the agents that save their state below `state_dir`.
    pub fn below(state_dir: &Path, readiness: Arc<ReadinessCell>) -> Self {
        let (store, word_file) = (StateFile::below(state_dir), OverrideFile::below(state_dir));
        Self { state_dir: state_dir.to_owned(), store, word_file, readiness }
    }

    /// Takes the lock if the state directory exists; returns `None` if it does not.
    ///
    /// # Errors
    ///
    /// Returns an error if another agent holds it.
    pub fn claim(&self) -> io::Result<Option<File>> {
        // Without state to save, no directory is created.
        if self.state_dir.is_dir() { self.claim_first() } else { Ok(None) }
    }

    /// Takes the lock, and creates the state directory if needed; returns `None` if the lock cannot
    /// be created.
    ///
    /// # Errors
    ///
    /// Returns an error if another agent holds it.
    pub fn claim_first(&self) -> io::Result<Option<File>> {
        match StateDir::create(&self.state_dir).and_then(|dir| lock_exclusive(&dir, LOCK)) {
            Ok(claim) => Ok(Some(claim)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                // The obstacle prevents writes too, and is reported at the first of them.
                tracing::debug!(%error, "{} cannot be locked", self.state_dir.join(LOCK).display());
                Ok(None)
            }
        }
    }

    /// Gives load balancers the state of the other agent.
    pub fn follow(&self) {
        let kept = self.store.peek();
        let view = kept.map_or_else(DrainView::default, |kept| DrainView {
            phase: kept.phase,
            since_ms: Some(kept.since_ms),
            is_out: kept.is_out,
            why: kept.cause.map(|cause| cause.why),
            ..DrainView::default()
        });
        // The other agent reports an override that cannot be read.
        let operator = self.word_file.read().unwrap_or_default();
        self.readiness.note(DrainView { operator, ..view });
    }
}
