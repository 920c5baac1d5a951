//! A lock on a file of a state directory, which the kernel takes back however its holder ends.

use std::{
    fs::{File, TryLockError},
    io,
};

use rustix::fs::OFlags;

use super::StateDir;

/// Largest lock file: it is empty.
const BYTES_MAX: u64 = 1 << 10;

/// Locks a file, made if it is not there; nobody else has it until it is dropped.
///
/// # Errors
///
/// Returns [`io::ErrorKind::WouldBlock`] if another agent has it; otherwise why that is not known.
pub fn lock_exclusive(dir: &StateDir, name: &str) -> io::Result<File> {
    let lock = dir.open_file(name, OFlags::RDWR | OFlags::CREATE, BYTES_MAX)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another agent acts by it"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
