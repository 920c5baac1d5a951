//! Opens files that nobody but root and the agent's own user can have put there, or can change.
//!
//! A path is walked from `/`, one directory at a time, each opened below the one before it and never through a link, and each is judged by
//! its own descriptor, so that nothing can be exchanged between the look and the use. (`openat2` would open a path in one step, but not
//! judge the directories on it.) The rule:
//!
//! - Every directory belongs to root or to the agent's user. Nobody else may write it, unless it has the sticky bit, as /tmp has: then
//!   others may add names to it, but not replace the next one on the path, which has to belong to root or the agent's user as well.
//! - A symbolic link is refused in the path of a state directory. In that of a configuration or a secret it is followed where root or the
//!   agent's user made it, in a directory as above: Kubernetes mounts both as links.
//! - The file is a regular one of bounded size, of root's or the agent's user, and others have none of the permissions that its kind forbids.
//!   It is opened without blocking, and nothing but a regular file is opened at all.
//!
//! A descriptor that this process was started with (`/dev/stdin`, `/proc/self/fd/3`) is trusted as its parent is, and may be a pipe.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::geteuid,
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

/// Links that are followed on one path; the kernel follows 40.
const LINKS_MAX: u32 = 16;

/// Longest wait for the next bytes of a pipe.
const PIPE_WAITS_MS: u16 = 5_000;

/// Opens a directory, or anything at all, only to look at it.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Permissions to write of others than the owner.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A file or directory that is refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{} {why}\n  hint: {hint}", path.display())]
pub struct Untrusted {
    path: PathBuf,
    why: String,
    hint: String,
}

/// Rules for the path to a file.
#[derive(Debug, Clone, Copy)]
pub struct PathRules {
    /// Whether links that root or the agent's user made are followed.
    pub follows_links: bool,
    /// Whether owners and permissions are checked.
    pub checks_owners: bool,
}

/// Rules for a file itself.
#[derive(Debug, Clone, Copy)]
pub struct FileRules {
    /// Largest size.
    pub bytes_max: u64,
    /// Permissions that it must not have.
    pub refused_mode: u32,
    /// Whether owner and permissions are checked.
    pub checks_owners: bool,
    /// Whether it must have one name only.
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
    /// [`Untrusted`] if it is not a regular file of the right owner, permissions and size.
    pub fn check(self, stat: &Stat, path: &Path) -> io::Result<()> {
        is_regular(stat, path)?;
        if self.checks_owners {
            owner(stat, path)?;
            if stat.st_mode & self.refused_mode != 0 {
                let found = stat.st_mode & 0o777;
                let wanted = found & !self.refused_mode;
                let who = if stat.st_mode & self.refused_mode & 0o004 != 0 { "read" } else { "change" };
                return refuse(
                    path,
                    format!("has mode {found:04o}: others than its owner may {who} it"),
                    format!("chmod {wanted:04o} {}", path.display()),
                );
            }
        }
        if self.has_one_name && stat.st_nlink > 1 {
            let why = format!("has {} hard links: it may be another file under this name", stat.st_nlink);
            return refuse(path, why, format!("look at it, and remove {}", path.display()));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if bytes > self.bytes_max { too_large(path, self.bytes_max) } else { Ok(()) }
    }
}

/// Opens the directory at an absolute path, to read it and as the base of its files; makes those that are not there if `makes`.
///
/// # Errors
///
/// [`Untrusted`] if somebody else may change it, or it is reached through a link.
pub fn open_directory(path: &Path, rules: PathRules, makes: bool) -> io::Result<OwnedFd> {
    let mut walk = Walk::from_root(rules)?;
    walk.go(path, makes)?;
    readable(&walk.dir)
}

/// Opens a directory again that was opened only to look at it.
fn readable(dir: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory of a directory that is open, as one in which others may not write.
///
/// # Errors
///
/// [`Untrusted`] if others may, or it is a link.
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
/// [`Untrusted`].
pub fn check_private(dir: &OwnedFd, path: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(dir)?;
    owner(&stat, path)?;
    if stat.st_mode & OTHERS_WRITE == 0 { Ok(()) } else { writable(&stat, path) }
}

/// Reads a file, all of it.
///
/// # Errors
///
/// [`Untrusted`] if it is refused; otherwise why it cannot be read.
pub fn read(path: &Path, on_path: PathRules, rules: FileRules) -> io::Result<Vec<u8>> {
    if inherited(path) {
        return read_inherited(path, rules);
    }
    let mut walk = Walk::from_root(on_path)?;
    let name = walk.locate(&std::path::absolute(path)?)?;
    let file = open_below(walk.dir.as_fd(), &name, OFlags::RDONLY, rules, path)?;
    read_to_end(&file, rules.bytes_max, path)
}

/// Opens a file of a directory that is open; with [`OFlags::CREATE`] it is made for its owner alone.
///
/// # Errors
///
/// As of [`read`]. `path` is where it is, for messages.
pub fn open_below(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags, rules: FileRules, path: &Path) -> io::Result<File> {
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
/// As of [`read`].
pub fn read_to_end(file: &File, bytes_max: u64, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { too_large(path, bytes_max) } else { Ok(bytes) }
}

/// Whether a path names a descriptor that this process was started with.
fn inherited(path: &Path) -> bool {
    let number = |directory: &str| path.strip_prefix(directory).ok().and_then(Path::to_str);
    path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"].iter().any(|fds| number(fds).is_some_and(|text| text.parse::<u32>().is_ok()))
}

fn read_inherited(path: &Path, rules: FileRules) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // The kernel's own link, to what was handed over.
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        FileRules { has_one_name: false, ..rules }.check(&stat, path)?;
        return read_to_end(&file, rules.bytes_max, path);
    }
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match (&file).read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut awaited = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                if poll(&mut awaited, PollTimeout::from(PIPE_WAITS_MS))? == 0 {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing comes out of this pipe"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > rules.bytes_max {
            return too_large(path, rules.bytes_max);
        }
    }
}

/// A directory on the way, and where that is.
struct Walk {
    rules: PathRules,
    dir: OwnedFd,
    path: PathBuf,
    links_left: u32,
}

impl Walk {
    fn from_root(rules: PathRules) -> io::Result<Self> {
        let dir = rustix::fs::open("/", LOOK | OFlags::DIRECTORY, Mode::empty())?;
        let walk = Self { rules, dir, path: PathBuf::from("/"), links_left: LINKS_MAX };
        walk.check_here()?;
        Ok(walk)
    }

    /// Goes to the directory at an absolute path.
    fn go(&mut self, path: &Path, makes: bool) -> io::Result<()> {
        let mut pending = names(path);
        while let Some(name) = pending.pop() {
            self.enter(&name, &mut pending, makes)?;
        }
        Ok(())
    }

    /// Goes to the directory that a file is in, and gives the file's name there.
    fn locate(&mut self, path: &Path) -> io::Result<OsString> {
        let mut pending = names(path);
        loop {
            let Some(name) = pending.pop() else { return Err(Errno::ISDIR.into()) };
            if pending.is_empty() && name != ".." && !self.is_link(&name)? {
                return Ok(name);
            }
            self.enter(&name, &mut pending, false)?;
        }
    }

    /// Whether this is a link that may be followed.
    fn is_link(&self, name: &OsStr) -> io::Result<bool> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.rules.follows_links && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn enter(&mut self, name: &OsStr, pending: &mut Vec<OsString>, makes: bool) -> io::Result<()> {
        let found = match rustix::fs::openat(&self.dir, name, LOOK, Mode::empty()) {
            Err(Errno::NOENT) if makes => match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                _ => rustix::fs::openat(&self.dir, name, LOOK, Mode::empty())?,
            },
            found => found?,
        };
        let stat = rustix::fs::fstat(&found)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                match name == ".." {
                    true => _ = self.path.pop(),
                    false => self.path.push(name),
                }
                self.dir = found;
                self.check_here()
            }
            FileType::Symlink => self.follow(&found, &stat, name, pending),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn follow(&mut self, link: &OwnedFd, stat: &Stat, name: &OsStr, pending: &mut Vec<OsString>) -> io::Result<()> {
        let path = self.path.join(name);
        if !self.rules.follows_links {
            return linked(&path);
        }
        if self.rules.checks_owners {
            owner(stat, &path)?;
        }
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            let links_left = self.links_left;
            *self = Self { links_left, ..Self::from_root(self.rules)? };
        }
        pending.extend(names(&target));
        Ok(())
    }

    fn check_here(&self) -> io::Result<()> {
        if !self.rules.checks_owners {
            return Ok(());
        }
        let stat = rustix::fs::fstat(&self.dir)?;
        owner(&stat, &self.path)?;
        if stat.st_mode & OTHERS_WRITE != 0 && stat.st_mode & STICKY == 0 {
            writable(&stat, &self.path)
        } else {
            Ok(())
        }
    }
}

/// The names on a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.rev().map(|part| part.as_os_str().to_owned()).collect()
}

fn owner(stat: &Stat, path: &Path) -> io::Result<()> {
    let own = geteuid().as_raw();
    if stat.st_uid == 0 || stat.st_uid == own {
        return Ok(());
    }
    let ours = if own == 0 { "root".to_owned() } else { format!("root and user {own}") };
    let why = format!("belongs to user {}, and only {ours} may have it", stat.st_uid);
    refuse(path, why, format!("chown {own} {}, once you know who made it", path.display()))
}

fn is_regular(stat: &Stat, path: &Path) -> io::Result<()> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    refuse(path, format!("is {kind}, and has to be a regular file"), "put a regular file there, or none".to_owned())
}

fn linked<T>(path: &Path) -> io::Result<T> {
    refuse(path, "is a symbolic link, which is not followed".to_owned(), "name what it points to".to_owned())
}

fn writable<T>(stat: &Stat, path: &Path) -> io::Result<T> {
    let why = format!("has mode {:04o}: others than its owner may write in it", stat.st_mode & 0o7777);
    refuse(path, why, format!("chmod go-w {}", path.display()))
}

fn too_large<T>(path: &Path, bytes_max: u64) -> io::Result<T> {
    refuse(path, format!("is larger than {bytes_max} bytes"), "is this the right file?".to_owned())
}

fn refuse<T>(path: &Path, why: String, hint: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, Untrusted { path: path.to_owned(), why, hint }))
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

#[cfg(test)]
mod tests;
