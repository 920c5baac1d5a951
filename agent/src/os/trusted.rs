//! Opens files that nobody but root and the agent's own user can have put there, or can change.
//!
//! A path is walked from `/`, one directory at a time, each opened below the one before it and
//! never through a link, and each is judged by its own descriptor, so that nothing can be exchanged
//! between the look and the use. (`openat2` would open a path in one step, but not judge the
//! directories on it.) The rule:
//!
//! - Every directory belongs to root or to the agent's user. Nobody else may write it, unless it
//!   has the sticky bit, as /tmp has: then others may add names to it, but not replace the next one
//!   on the path, which has to belong to root or the agent's user as well.
//! - A symbolic link is refused in the path of a state directory. In that of a configuration or a
//!   secret it is followed where root or the agent's user made it, in a directory as above:
//!   Kubernetes mounts both as links.
//! - The file is a regular one of bounded size, of root's or the agent's user, and others have none
//!   of the permissions that its kind forbids. It is opened without blocking, and nothing but a
//!   regular file is opened at all.
//!
//! A descriptor that this process was started with (`/dev/stdin`, `/proc/self/fd/3`) is trusted as
//! its parent is, and may be a pipe.

mod inherited;
mod refusal;
mod walk;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use inherited::{inherited, read_inherited};
use refusal::{is_regular, linked, owner, refuse, too_large, writable};
use walk::{LOOK, Walk};

pub use refusal::{Untrusted, reason};

/// Permissions to write of others than the owner.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Rules for the path to a file.
#[derive(Debug, Clone, Copy)]
pub struct PathRules {
    /// Set if links that root or the agent's user made are followed.
    pub follows_links: bool,
    /// Set if owners and permissions are checked.
    pub checks_owners: bool,
}

/// Rules for a file itself.
#[derive(Debug, Clone, Copy)]
pub struct FileRules {
    /// Largest size.
    pub bytes_max: u64,
    /// Permissions that it must not have.
    pub refused_mode: u32,
    /// Set if owner and permissions are checked.
    pub checks_owners: bool,
    /// Set if it must have one name only.
    pub has_one_name: bool,
}

impl PathRules {
    /// Those of the state directory.
    pub const STATE: Self = Self { follows_links: false, checks_owners: true };
    /// Those of a file that an operator names.
    pub const NAMED: Self = Self { follows_links: true, checks_owners: true };
}

impl FileRules {
    /// Those of a file in the state directory, of at most this size.
    pub const fn state(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: OTHERS_WRITE, checks_owners: true, has_one_name: true }
    }

    /// Those of a secret, which others must not read and a group must not write.
    pub const fn secret(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: 0o027, checks_owners: true, has_one_name: false }
    }

    /// Those of a file that everybody may read, and only its owner write.
    pub const fn public(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: OTHERS_WRITE, checks_owners: true, has_one_name: false }
    }

    /// Checks a file that is open.
    ///
    /// # Errors
    ///
    /// Returns [`Untrusted`] if it is not a regular file of the right owner, permissions and size.
    pub fn check(self, stat: &Stat, path: &Path) -> io::Result<()> {
        is_regular(stat, path)?;
        if self.checks_owners {
            owner(stat, path)?;
            if stat.st_mode & self.refused_mode != 0 {
                let found = stat.st_mode & 0o777;
                let wanted = found & !self.refused_mode;
                let who =
                    if stat.st_mode & self.refused_mode & 0o004 != 0 { "read" } else { "change" };
                return refuse(
                    path,
                    format!("has mode {found:04o}: others than its owner may {who} it"),
                    format!("chmod {wanted:04o} {}", path.display()),
                );
            }
        }
        if self.has_one_name && stat.st_nlink > 1 {
            let why =
                format!("has {} hard links: it may be another file under this name", stat.st_nlink);
            return refuse(path, why, format!("look at it, and remove {}", path.display()));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if bytes > self.bytes_max { too_large(path, self.bytes_max) } else { Ok(()) }
    }
}

/// Opens the directory at an absolute path, to read it and as the base of its files; makes those
/// that are not there if `makes`.
///
/// # Errors
///
/// Returns [`Untrusted`] if somebody else may change it, or it is reached through a link.
pub fn open_directory(path: &Path, rules: PathRules, makes: bool) -> io::Result<OwnedFd> {
    let mut walk = Walk::from_root(rules)?;
    walk.go(path, makes)?;
    readable(&walk.dir)
}

/// Opens a directory again that was opened only to look at it.
fn readable(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a directory of a directory that is open, as one in which others may not write.
///
/// # Errors
///
/// Returns [`Untrusted`] if others may, or it is a link.
pub fn open_directory_below(dir: BorrowedFd<'_>, name: &str, path: &Path) -> io::Result<OwnedFd> {
    let looked = rustix::fs::openat(dir, name, LOOK, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&looked)?.st_mode) {
        FileType::Directory => check_private(&looked, path)?,
        FileType::Symlink => return linked(path),
        _ => return Err(Errno::NOTDIR.into()),
    }
    readable(&looked)
}

/// Refuses a directory in which others may make or replace names, even if it is sticky.
///
/// # Errors
///
/// Returns [`Untrusted`] if it is refused.
pub fn check_private(dir: &OwnedFd, path: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    owner(&stat, path)?;
    if stat.st_mode & OTHERS_WRITE == 0 { Ok(()) } else { writable(&stat, path) }
}

/// Reads a file, all of it.
///
/// # Errors
///
/// Returns [`Untrusted`] if it is refused; otherwise why it cannot be read.
pub fn read(path: &Path, on_path: PathRules, rules: FileRules) -> io::Result<Vec<u8>> {
    if inherited(path) {
        return read_inherited(path, rules);
    }
    let mut walk = Walk::from_root(on_path)?;
    let name = walk.locate(&std::path::absolute(path)?)?;
    let file = open_below(walk.dir.as_fd(), &name, OFlags::RDONLY, rules, path)?;
    read_to_end(&file, rules.bytes_max, path)
}

/// Opens a file of a directory that is open; with [`OFlags::CREATE`] it is made for its owner
/// alone.
///
/// # Errors
///
/// Returns an error as [`read`] does. `path` is where it is, for messages.
pub fn open_below(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
    rules: FileRules,
    path: &Path,
) -> io::Result<File> {
    // To open a device may already do something.
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => is_regular(&stat, path)?,
        Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    rules.check(&rustix::fs::fstat(&file)?, path)?;
    Ok(file)
}

/// Reads an open file of at most `bytes_max`, however large it says that it is.
///
/// # Errors
///
/// Returns an error as [`read`] does.
pub fn read_to_end(file: &File, bytes_max: u64, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { too_large(path, bytes_max) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
