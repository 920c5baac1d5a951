//! Waits where another agent keeps where this node is: two that asked on its behalf would take back
//! what the other was granted.
//!
//! Meanwhile balancers are told what that one has on disk, and what an operator says, so that it
//! does not matter whom they ask. Once it has ended, however it did, this one goes on where it was.
//! Failure: what cannot be locked is not waited for; whoever cannot keep anything there drains
//! nothing.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    operator_override::OverrideFile, readiness::ReadinessCell, state_file::StateFile,
    state_machine::DrainPhase,
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
    /// Of the agents that keep where they are below `state_dir`.
    pub fn below(state_dir: &Path, readiness: Arc<ReadinessCell>) -> Self {
        let (store, word_file) = (StateFile::below(state_dir), OverrideFile::below(state_dir));
        Self { state_dir: state_dir.to_owned(), store, word_file, readiness }
    }

    /// Tries to be the one that keeps it, where anything was ever kept.
    ///
    /// # Errors
    ///
    /// Returns an error if another agent holds it.
    pub fn claim(&self) -> io::Result<Option<File>> {
        // Who has nothing to keep makes no directory for it.
        if self.state_dir.is_dir() { self.claim_first() } else { Ok(None) }
    }

    /// Tries to be the one that keeps it, now that there is something to keep; `None` where nobody
    /// can be.
    ///
    /// # Errors
    ///
    /// Returns an error if another agent holds it.
    pub fn claim_first(&self) -> io::Result<Option<File>> {
        match StateDir::create(&self.state_dir).and_then(|dir| lock_exclusive(&dir, LOCK)) {
            Ok(claim) => Ok(Some(claim)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                // What keeps it from being locked keeps it from being written, which is told when
                // that is tried.
                tracing::debug!(%error, "{} cannot be locked", self.state_dir.join(LOCK).display());
                Ok(None)
            }
        }
    }

    /// Tells balancers what the other one does.
    pub fn follow(&self) {
        let kept = self.store.peek();
        let (phase, is_out) =
            kept.map_or((DrainPhase::Healthy, false), |kept| (kept.phase, kept.is_out));
        // What cannot be read the other one tells of.
        self.readiness.note(phase, is_out, self.word_file.read().unwrap_or_default());
    }
}
