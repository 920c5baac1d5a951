//! A lock on a file in a state directory, which the kernel releases however its holder ends.

use std::{
    fs::{File, TryLockError},
    io,
};

use rustix::fs::OFlags;

use super::StateDir;

/// Maximum size of a lock file, which is empty.
const BYTES_MAX: u64 = 1 << 10;

/// Locks a file until it is dropped, and creates it if it does not exist.
///
/// # Errors
///
/// Returns [`io::ErrorKind::WouldBlock`] if another agent has locked it, and another error if that
/// is not known.
pub fn lock_exclusive(dir: &StateDir, name: &str) -> io::Result<File> {
    let lock = dir.open_file(name, OFlags::RDWR | OFlags::CREATE, BYTES_MAX)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another agent has locked it"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
