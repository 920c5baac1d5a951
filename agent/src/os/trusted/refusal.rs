//! Refusals of files and directories: the fault, and a hint.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

/// A file or directory that is refused, with the reason.
#[derive(Debug, thiserror::Error)]
#[error("{} {why}\n  hint: {hint}", path.display())]
pub struct Untrusted {
    path: PathBuf,
    why: String,
    hint: String,
}

pub(super) fn check_owner(stat: &Stat, path: &Path) -> io::Result<()> {
    let own = geteuid().as_raw();
    if stat.st_uid == 0 || stat.st_uid == own {
        return Ok(());
    }
    let trusted = if own == 0 { "root".to_owned() } else { format!("root or user {own}") };
    let why = format!("belongs to user {}, and has to belong to {trusted}", stat.st_uid);
    refuse(path, why, format!("chown {own} {}, once it is clear who created it", path.display()))
}

pub(super) fn check_regular(stat: &Stat, path: &Path) -> io::Result<()> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    refuse(
        path,
        format!("is {kind}, and has to be a regular file"),
        "put a regular file there, or none".to_owned(),
    )
}

pub(super) fn refuse_link<T>(path: &Path) -> io::Result<T> {
    refuse(
        path,
        "is a symbolic link, which is not followed".to_owned(),
        "use the path that it points to".to_owned(),
    )
}

pub(super) fn refuse_writable<T>(stat: &Stat, path: &Path) -> io::Result<T> {
    let mode = stat.st_mode & 0o7777;
    let why = format!("has mode {mode:04o}: users other than its owner can write to it");
    refuse(path, why, format!("chmod go-w {}", path.display()))
}

pub(super) fn refuse_large<T>(path: &Path, bytes_max: u64) -> io::Result<T> {
    refuse(path, format!("is larger than {bytes_max} bytes"), "is this the right file?".to_owned())
}

pub(super) fn refuse<T>(path: &Path, why: String, hint: String) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        Untrusted { path: path.to_owned(), why, hint },
    ))
}

impl Untrusted {
    /// Refusal that an error contains, if any.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns the reason, which names the refused path unless it is `path`, and the hint.
    pub fn parts(&self, path: &Path) -> (String, &str) {
        let why = if self.path == path {
            format!("it {}", self.why)
        } else {
            format!("{} {}", self.path.display(), self.why)
        };
        (why, &self.hint)
    }
}

/// Returns the reason of an error, for a message that begins with `path`.
pub fn reason(error: &io::Error, path: &Path) -> String {
    Untrusted::of(error).map_or_else(
        || error.to_string(),
        |untrusted| {
            let (why, hint) = untrusted.parts(path);
            format!("{why}\n  hint: {hint}")
        },
    )
}
