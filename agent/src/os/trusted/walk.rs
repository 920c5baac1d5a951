//! Walk along the path to a file: one directory at a time, each checked by its own descriptor.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    OTHERS_WRITE, PathRules, STICKY,
    refusal::{check_owner, refuse_link, refuse_writable},
};

/// Maximum number of links that are followed on one path; the kernel follows 40.
const LINKS_MAX: u32 = 16;

/// Flags that open a file of any type for inspection only.
pub(super) const INSPECT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory that the walk has reached.
pub(super) struct Walk {
    rules: PathRules,
    pub(super) dir: OwnedFd,
    path: PathBuf,
    links_left: u32,
}

impl Walk {
    pub(super) fn from_root(rules: PathRules) -> io::Result<Self> {
        let dir = rustix::fs::open("/", INSPECT | OFlags::DIRECTORY, Mode::empty())?;
        let walk = Self { rules, dir, path: PathBuf::from("/"), links_left: LINKS_MAX };
        walk.check_here()?;
        Ok(walk)
    }

    /// Goes to the directory at an absolute path.
    pub(super) fn go(&mut self, path: &Path, create: bool) -> io::Result<()> {
        let mut pending = names(path);
        while let Some(name) = pending.pop() {
            self.enter(&name, &mut pending, create)?;
        }
        Ok(())
    }

    /// Goes to the directory that contains a file, and returns the file's name in it.
    pub(super) fn locate(&mut self, path: &Path) -> io::Result<OsString> {
        let mut pending = names(path);
        loop {
            let Some(name) = pending.pop() else { return Err(Errno::ISDIR.into()) };
            if pending.is_empty() && name != ".." && !self.is_link(&name)? {
                return Ok(name);
            }
            self.enter(&name, &mut pending, false)?;
        }
    }

    /// Returns whether the name is a link that is followed.
    fn is_link(&self, name: &OsStr) -> io::Result<bool> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.rules.follows_links && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn enter(&mut self, name: &OsStr, pending: &mut Vec<OsString>, create: bool) -> io::Result<()> {
        let found = match rustix::fs::openat(&self.dir, name, INSPECT, Mode::empty()) {
            Err(Errno::NOENT) if create => match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                _ => rustix::fs::openat(&self.dir, name, INSPECT, Mode::empty())?,
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

    fn follow(
        &mut self,
        link: &OwnedFd,
        stat: &Stat,
        name: &OsStr,
        pending: &mut Vec<OsString>,
    ) -> io::Result<()> {
        let path = self.path.join(name);
        if !self.rules.follows_links {
            return refuse_link(&path);
        }
        if self.rules.checks_owners {
            check_owner(stat, &path)?;
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
        check_owner(&stat, &self.path)?;
        if stat.st_mode & OTHERS_WRITE != 0 && stat.st_mode & STICKY == 0 {
            refuse_writable(&stat, &self.path)
        } else {
            Ok(())
        }
    }
}

/// Returns the names on a path, last one first.
pub(super) fn names(path: &Path) -> Vec<OsString> {
    let names = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.rev().map(|part| part.as_os_str().to_owned()).collect()
}
