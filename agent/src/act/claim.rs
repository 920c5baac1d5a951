//! What one agent has and no other: by a lock on a file, which the kernel takes back however the agent ends.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Locks the file at `path`, made with its directory where it is not there; nobody else has it until it is dropped.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] where another agent has it; anything else where that cannot be told.
pub fn claim(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::WouldBlock, "another agent acts by it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
