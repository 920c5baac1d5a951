//! The switch that stops every action: a file, so that it can be thrown when nothing else answers.
//!
//! Whoever acts looks at it just before; `spillway pause` and `touch` do the same. It stops what is new. What was changed stays
//! until it is put back, which is always allowed.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The file.
#[derive(Debug, Clone)]
pub struct Pause {
    path: PathBuf,
}

impl Pause {
    /// The one below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { path: state_dir.join("paused") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there. Where that cannot be told it is: no action is better than one that somebody may have stopped.
    pub fn is_on(&self) -> bool {
        fs::exists(&self.path).unwrap_or(true)
    }

    /// Puts it there.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn turn_on(&self) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path).map(drop)
    }

    /// Takes it away; nothing where it is not there.
    ///
    /// # Errors
    ///
    /// Where it is still there.
    pub fn turn_off(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
