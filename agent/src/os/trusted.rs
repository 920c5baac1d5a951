//! Opens files that only root and the agent's user can have created or can change.
//!
//! A path is walked from `/`, one directory at a time, each opened relative to the one before it
//! and never through a link, and each is checked by its own descriptor, so that nothing can be
//! replaced between the check and the use. (`openat2` would open a path in one step, but not check
//! the directories on it.) The rules:
//!
//! - Every directory belongs to root or to the agent's user. No other user can write to it, unless
//!   it has the sticky bit, as `/tmp` has: others can then add names to it, but not replace the
//!   next one on the path, which has to belong to root or the agent's user as well.
//! - A symbolic link is refused in the path of a state directory. In the path of a configuration or
//!   a secret it is followed if root or the agent's user created it, in a directory as above:
//!   Kubernetes mounts both as links.
//! - The file is a regular one of bounded size that belongs to root or the agent's user, and others
//!   have none of the permissions that its kind forbids. It is opened without blocking; a file of
//!   another type is not opened at all.
//!
//! A descriptor that this process was started with (`/dev/stdin`, `/proc/self/fd/3`) is trusted as
//! much as the parent process, and may be a pipe.

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

use inherited::{is_inherited, read_inherited};
use refusal::{check_owner, check_regular, refuse, refuse_large, refuse_link, refuse_writable};
use walk::{INSPECT, Walk};

pub use refusal::{Untrusted, reason};

/// Write permissions of users other than the owner.
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
    /// Maximum size.
    pub bytes_max: u64,
    /// Permissions that are refused.
    pub refused_mode: u32,
    /// Set if owner and permissions are checked.
    pub checks_owners: bool,
    /// Set if hard links are refused.
    pub has_one_name: bool,
}

impl PathRules {
    /// Rules for the state directory.
    pub const STATE: Self = Self { follows_links: false, checks_owners: true };
    /// Rules for a file that an operator names.
    pub const NAMED: Self = Self { follows_links: true, checks_owners: true };
}

impl FileRules {
    /// Rules for a file in the state directory.
    pub const fn state(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: OTHERS_WRITE, checks_owners: true, has_one_name: true }
    }

    /// Rules for a secret, which others must not read and its group must not write.
    pub const fn secret(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: 0o027, checks_owners: true, has_one_name: false }
    }

    /// Rules for a file that anyone may read and only its owner may write.
    pub const fn public(bytes_max: u64) -> Self {
        Self { bytes_max, refused_mode: OTHERS_WRITE, checks_owners: true, has_one_name: false }
    }

    /// Checks an open file.
    ///
    /// # Errors
    ///
    /// Returns [`Untrusted`] if it is not a regular file of the right owner, permissions and size.
    pub fn check(self, stat: &Stat, path: &Path) -> io::Result<()> {
        check_regular(stat, path)?;
        if self.checks_owners {
            check_owner(stat, path)?;
            if stat.st_mode & self.refused_mode != 0 {
                let found = stat.st_mode & 0o777;
                let wanted = found & !self.refused_mode;
                let verb =
                    if stat.st_mode & self.refused_mode & 0o004 != 0 { "read" } else { "change" };
                return refuse(
                    path,
                    format!("has mode {found:04o}: users other than its owner can {verb} it"),
                    format!("chmod {wanted:04o} {}", path.display()),
                );
            }
        }
        if self.has_one_name && stat.st_nlink > 1 {
            let why =
                format!("has {} hard links: it may be another file under this name", stat.st_nlink);
            return refuse(path, why, format!("examine it, and remove {}", path.display()));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if bytes > self.bytes_max { refuse_large(path, self.bytes_max) } else { Ok(()) }
    }
}

/// Opens the directory at an absolute path, to read it and to open files in it. Creates the missing
/// directories on the path if `create` is set.
///
/// # Errors
///
/// Returns [`Untrusted`] if another user can change it, or its path contains a refused link.
pub fn open_directory(path: &Path, rules: PathRules, create: bool) -> io::Result<OwnedFd> {
    let mut walk = Walk::from_root(rules)?;
    walk.go(path, create)?;
    reopen_readable(&walk.dir)
}

/// Opens a directory for reading that was opened only for inspection.
fn reopen_readable(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens a directory in an open directory.
///
/// # Errors
///
/// Returns [`Untrusted`] if other users can write to it, or it is a link.
pub fn open_directory_below(dir: BorrowedFd<'_>, name: &str, path: &Path) -> io::Result<OwnedFd> {
    let found = rustix::fs::openat(dir, name, INSPECT, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Directory => check_private(&found, path)?,
        FileType::Symlink => return refuse_link(path),
        _ => return Err(Errno::NOTDIR.into()),
    }
    reopen_readable(&found)
}

/// Refuses a directory in which other users can create or replace names, even if it is sticky.
///
/// # Errors
///
/// Returns [`Untrusted`] if it is refused.
pub fn check_private(dir: &OwnedFd, path: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    check_owner(&stat, path)?;
    if stat.st_mode & OTHERS_WRITE == 0 { Ok(()) } else { refuse_writable(&stat, path) }
}

/// Reads a complete file.
///
/// # Errors
///
/// Returns [`Untrusted`] if it is refused, and another error if it cannot be read.
pub fn read(path: &Path, on_path: PathRules, rules: FileRules) -> io::Result<Vec<u8>> {
    if is_inherited(path) {
        return read_inherited(path, rules);
    }
    let mut walk = Walk::from_root(on_path)?;
    let name = walk.locate(&std::path::absolute(path)?)?;
    let file = open_below(walk.dir.as_fd(), &name, OFlags::RDONLY, rules, path)?;
    read_to_end(&file, rules.bytes_max, path)
}

/// Opens a file in an open directory. With [`OFlags::CREATE`] it is created for its owner alone.
/// `path` is its path, for messages.
///
/// # Errors
///
/// Returns the errors of [`read`].
pub fn open_below(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
    rules: FileRules,
    path: &Path,
) -> io::Result<File> {
    // Merely opening a device can have an effect.
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => check_regular(&stat, path)?,
        Err(Errno::NOENT) if flags.contains(OFlags::CREATE) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    rules.check(&rustix::fs::fstat(&file)?, path)?;
    Ok(file)
}

/// Reads an open file of at most `bytes_max` bytes, whatever size its metadata give.
///
/// # Errors
///
/// Returns the errors of [`read`].
pub fn read_to_end(file: &File, bytes_max: u64, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { refuse_large(path, bytes_max) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
