//! Replaces a file of a state directory as a whole: written beside, synced, renamed, and the
//! directory synced, so that a crash leaves the old one or the new one.

use std::io::{self, Write as _};

use rustix::{
    fs::{OFlags, RenameFlags, renameat, renameat_with},
    io::Errno,
};

use super::StateDir;

/// Ending of a file that was being written when the agent died. Nothing was done on its account
/// yet.
pub const UNFINISHED: &str = ".new";

/// Names that are tried for a file that is set aside.
const ASIDE_MAX: u32 = 100;

/// State that the name has to be in beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Whichever it is.
    Any,
    /// Nothing has it: what is there is not replaced.
    Absent,
    /// A file has it: what was removed meanwhile stays so.
    Present,
}

/// Puts a file in place of what has its name. Of `stem` and `ending` the name is made, and that of
/// the file before it is in place of `stem` and [`UNFINISHED`].
///
/// # Errors
///
/// Returns an error if it may not be there after a crash; [`io::ErrorKind::AlreadyExists`] and
/// [`io::ErrorKind::NotFound`] if it was not as `before` says.
pub fn replace(
    dir: &StateDir,
    stem: &str,
    ending: &str,
    bytes: &[u8],
    before: Before,
) -> io::Result<()> {
    let (name, unfinished) = (format!("{stem}{ending}"), format!("{stem}{UNFINISHED}"));
    // One that is left from a crash, or was put there.
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
        // In one step: in between somebody might remove what is there.
        Before::Present => renameat_with(fd, new, fd, name, RenameFlags::EXCHANGE),
    };
    match renamed {
        Ok(()) if before == Before::Present => dir.remove(new),
        // A file system that cannot.
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

/// Gives a file another name, which is `name` and `ending` and a number if others have that: so it
/// is not read again, and stays for a person to look at. Gives the name.
///
/// # Errors
///
/// Returns an error if it still has its old name.
pub fn set_aside(dir: &StateDir, name: &str, ending: &str) -> io::Result<String> {
    let number = |nth| if nth == 1 { String::new() } else { format!("-{nth}") };
    for aside in (1..=ASIDE_MAX).map(|nth| format!("{name}{ending}{}", number(nth))) {
        if !dir.holds(&aside)? {
            place(dir, name, &aside, Before::Absent)?;
            return Ok(aside);
        }
    }
    Err(io::Error::other(format!(
        "{ASIDE_MAX} files {name}{ending}… are there already\n  hint: look at them, and remove them"
    )))
}
