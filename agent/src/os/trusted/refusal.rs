//! Refusals: what is wrong with a file or directory, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

/// A file or directory that is refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{} {why}\n  hint: {hint}", path.display())]
pub struct Untrusted {
    path: PathBuf,
    why: String,
    hint: String,
}

pub(super) fn owner(stat: &Stat, path: &Path) -> io::Result<()> {
    let own = geteuid().as_raw();
    if stat.st_uid == 0 || stat.st_uid == own {
        return Ok(());
    }
    let ours = if own == 0 { "root".to_owned() } else { format!("root and user {own}") };
    let why = format!("belongs to user {}, and only {ours} may have it", stat.st_uid);
    refuse(path, why, format!("chown {own} {}, once you know who made it", path.display()))
}

pub(super) fn is_regular(stat: &Stat, path: &Path) -> io::Result<()> {
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

pub(super) fn linked<T>(path: &Path) -> io::Result<T> {
    refuse(
        path,
        "is a symbolic link, which is not followed".to_owned(),
        "name what it points to".to_owned(),
    )
}

pub(super) fn writable<T>(stat: &Stat, path: &Path) -> io::Result<T> {
    let why =
        format!("has mode {:04o}: others than its owner may write in it", stat.st_mode & 0o7777);
    refuse(path, why, format!("chmod go-w {}", path.display()))
}

pub(super) fn too_large<T>(path: &Path, bytes_max: u64) -> io::Result<T> {
    refuse(path, format!("is larger than {bytes_max} bytes"), "is this the right file?".to_owned())
}

pub(super) fn refuse<T>(path: &Path, why: String, hint: String) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        Untrusted { path: path.to_owned(), why, hint },
    ))
}

impl Untrusted {
    /// The refusal that an error stands for, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The reason, which names the path unless that is `path`, and a hint.
    pub fn parts(&self, path: &Path) -> (String, &str) {
        let why = if self.path == path {
            format!("it {}", self.why)
        } else {
            format!("{} {}", self.path.display(), self.why)
        };
        (why, &self.hint)
    }
}

/// An error in a sentence that begins with "`path`: ", and does not name it again.
pub fn reason(error: &io::Error, path: &Path) -> String {
    Untrusted::of(error).map_or_else(
        || error.to_string(),
        |untrusted| {
            let (why, hint) = untrusted.parts(path);
            format!("{why}\n  hint: {hint}")
        },
    )
}
