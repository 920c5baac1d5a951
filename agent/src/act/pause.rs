//! The switch that stops every action: a file, so that it can be thrown when nothing else answers.
//!
//! Whoever acts looks at it just before; `spillway pause` and `touch` do the same. It stops what is
//! new. What was changed stays until it is put back, which is always allowed. Whatever has the name
//! counts, a link or a pipe as well; it is never opened.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::os::StateDir;

const NAME: &str = "paused";

/// The file.
#[derive(Debug, Clone)]
pub struct Pause {
    state_dir: PathBuf,
    path: PathBuf,
}

impl Pause {
    /// The one below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), path: state_dir.join(NAME) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there. Where that cannot be told it is: no action is better than one that
    /// somebody may have stopped.
    pub fn is_on(&self) -> bool {
        StateDir::open(&self.state_dir)
            .and_then(|dir| dir.map_or(Ok(false), |dir| dir.holds(NAME)))
            .unwrap_or(true)
    }

    /// Puts it there.
    ///
    /// # Errors
    ///
    /// Returns an error if that is not possible.
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

    /// Takes it away; nothing where it is not there.
    ///
    /// # Errors
    ///
    /// Returns an error if it is still there.
    pub fn turn_off(&self) -> io::Result<()> {
        StateDir::open(&self.state_dir)?.map_or(Ok(()), |dir| dir.remove(NAME))
    }
}
