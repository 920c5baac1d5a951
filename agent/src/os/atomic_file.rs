//! Atomic replacement of a file in a state directory: the new file is written beside the old one,
//! synced and renamed, and the directory synced, so that a crash leaves either the old or the new.

use std::io::{self, Write as _};

use rustix::{
    fs::{OFlags, RenameFlags, renameat, renameat_with},
    io::Errno,
};

use super::StateDir;

/// Suffix of a file that was being written when the agent died. Nothing has been done because of
/// it.
pub const UNFINISHED: &str = ".new";

/// Maximum number of names that are tried for a file that is set aside.
const ASIDE_MAX: u32 = 100;

/// Condition under which a file is put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// None.
    Any,
    /// No file has the name, so none is replaced.
    Absent,
    /// A file has the name: one that was removed in the meantime is not created again.
    Present,
}

/// Writes a file named `stem` and `ending`, and replaces an existing one. While it is written, its
/// name is `stem` and [`UNFINISHED`].
///
/// # Errors
///
/// Returns an error if the file may be missing after a crash; [`io::ErrorKind::AlreadyExists`] or
/// [`io::ErrorKind::NotFound`] if `before` does not hold.
pub fn replace(
    dir: &StateDir,
    stem: &str,
    ending: &str,
    bytes: &[u8],
    before: Before,
) -> io::Result<()> {
    let (name, unfinished) = (format!("{stem}{ending}"), format!("{stem}{UNFINISHED}"));
    // Left over from a crash, or put there by someone.
    dir.remove(&unfinished)?;
    let mut file =
        dir.open_file(&unfinished, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, u64::MAX)?;
    let placed = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| place(dir, &unfinished, &name, before));
    if placed.is_err() {
        let _ = dir.remove(&unfinished);
    }
    placed?;
    dir.sync()
}

fn place(dir: &StateDir, new: &str, name: &str, before: Before) -> io::Result<()> {
    let fd = dir.dir();
    let renamed = match before {
        Before::Any => renameat(fd, new, fd, name),
        Before::Absent => renameat_with(fd, new, fd, name, RenameFlags::NOREPLACE),
        // In one step: between two, someone might remove the old file.
        Before::Present => renameat_with(fd, new, fd, name, RenameFlags::EXCHANGE),
    };
    match renamed {
        Ok(()) if before == Before::Present => dir.remove(new),
        // The file system does not support the flag.
        Err(Errno::INVAL | Errno::NOSYS) if before != Before::Any => {
            match (dir.holds(name)?, before) {
                (true, Before::Absent) => Err(Errno::EXIST.into()),
                (false, Before::Present) => Err(Errno::NOENT.into()),
                _ => Ok(renameat(fd, new, fd, name)?),
            }
        }
        renamed => Ok(renamed?),
    }
}

/// Renames a file to `name` and `ending`, and a number if that is taken, so that it is not read
/// again and a person can examine it. Returns the new name.
///
/// # Errors
///
/// Returns an error if the file still has its old name.
pub fn set_aside(dir: &StateDir, name: &str, ending: &str) -> io::Result<String> {
    let number = |nth| if nth == 1 { String::new() } else { format!("-{nth}") };
    for aside in (1..=ASIDE_MAX).map(|nth| format!("{name}{ending}{}", number(nth))) {
        if !dir.holds(&aside)? {
            place(dir, name, &aside, Before::Absent)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other(format!(
        "cannot set {name} aside: {ASIDE_MAX} files {name}{ending}… exist already\n  hint: examine \
         them, and remove them"
    )))
}
