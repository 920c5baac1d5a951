//! A directory that only root and the agent's user can write to, with its files opened relative to
//! its descriptor.
//!
//! It is opened for each use rather than once: if it were removed and created again, the agent
//! would otherwise use another directory than `spillway pause`. Within one use no path is resolved
//! again. Whatever [`super::trusted`] refuses is refused, and so is a directory that other users
//! can write to, sticky or not: a name that they add (a pipe called `paused`) would count.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, fstatvfs},
    io::Errno,
};

use super::trusted::{self, FileRules, PathRules};

/// An open state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl StateDir {
    /// Opens a directory; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        match Self::at(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens a directory. Creates it, accessible to the agent's user alone, if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused or cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::at(path, true)
    }

    fn at(path: &Path, create: bool) -> io::Result<Self> {
        let dir = trusted::open_directory(path, PathRules::STATE, create)?;
        trusted::check_private(&dir, path)?;
        Ok(Self { path: path.to_owned(), dir })
    }

    /// Opens a directory in it; `None` if it does not exist. Creates it first if `create` is set.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused, or cannot be created or opened.
    pub fn below(&self, name: &str, create: bool) -> io::Result<Option<Self>> {
        if create {
            match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                _ => {}
            }
        }
        let path = self.path(name);
        match trusted::open_directory_below(self.dir.as_fd(), name, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            dir => Ok(Some(Self { path, dir: dir? })),
        }
    }

    /// Path of a file in it, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file in it.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused or cannot be opened.
    pub fn open_file(&self, name: &str, flags: OFlags, bytes_max: u64) -> io::Result<File> {
        trusted::open_below(
            self.dir.as_fd(),
            OsStr::new(name),
            flags,
            FileRules::state(bytes_max),
            &self.path(name),
        )
    }

    /// Reads a file in it; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused, is larger than `bytes_max`, or cannot be read.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        match self.open_file(name, OFlags::RDONLY, bytes_max) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => trusted::read_to_end(&file?, bytes_max, &self.path(name)).map(Some),
        }
    }

    /// Returns whether a name exists in it.
    ///
    /// # Errors
    ///
    /// Returns an error if that cannot be determined.
    pub fn holds(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file, if it exists.
    ///
    /// # Errors
    ///
    /// Returns an error if it still exists.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Names in it, sorted.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory cannot be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let name = String::from_utf8_lossy(entry?.file_name().to_bytes()).into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Space on its file system that the agent's user may take, in bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the file system does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let file_system = fstatvfs(&self.dir)?;
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    /// Syncs its names to disk.
    ///
    /// # Errors
    ///
    /// Returns an error if they may be lost in a crash.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }
}
