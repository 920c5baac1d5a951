//! The switch that pauses all actions: a file, so that it works even if nothing else responds.
//!
//! Executors check it just before they act; `spillway pause` and `touch` do the same. It prevents
//! new actions. Changes made before stay until they are undone, which is always allowed. Any file
//! of the name counts, even a link or a pipe, because it is never opened.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::os::StateDir;

const NAME: &str = "paused";

/// The switch.
#[derive(Debug, Clone)]
pub struct Pause {
    state_dir: PathBuf,
    path: PathBuf,
}

impl Pause {
    /// Names the file below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), path: state_dir.join(NAME) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether actions are paused. If unknown, they are: no action is better than one that
    /// an operator may have stopped.
    pub fn is_on(&self) -> bool {
        StateDir::open(&self.state_dir)
            .and_then(|dir| dir.map_or(Ok(false), |dir| dir.holds(NAME)))
            .unwrap_or(true)
    }

    /// Pauses all actions.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be created.
    pub fn turn_on(&self) -> io::Result<()> {
        let dir = StateDir::create(&self.state_dir)?;
        if dir.holds(NAME)? {
            return Ok(());
        }
        match dir.open_file(NAME, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Enables all actions; does nothing if they are enabled.
    ///
    /// # Errors
    ///
    /// Returns an error if the file may still exist.
    pub fn turn_off(&self) -> io::Result<()> {
        StateDir::open(&self.state_dir)?.map_or(Ok(()), |dir| dir.remove(NAME))
    }
}
