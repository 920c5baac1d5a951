//! A directory on a cgroup file system, whoever named it: nothing else is ever read or written in
//! its place.
//!
//! The path may come from a file (the journal), so it is walked without following links, and the
//! directory and each file are checked by their descriptors. Nobody but root can mount a cgroup
//! file system or put a link into one.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::sys::{
    statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs},
    statvfs::{FsFlags, statvfs},
};
use rustix::fs::{Mode, OFlags};

use super::trusted::{self, PathRules};

/// Most bytes that are read of a file. `memory.stat` has some thousands.
const BYTES_MAX: u64 = 1 << 20;

/// Controllers' version, which the file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy a controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// The directory of a cgroup.
#[derive(Debug)]
pub struct CgroupDir {
    dir: OwnedFd,
    version: CgroupVersion,
}

impl CgroupDir {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not there, is reached through a link, or is not on a cgroup file
    /// system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let rules = PathRules { follows_links: false, checks_owners: false };
        let dir = trusted::open_directory(path, rules, false)?;
        let version = version_of(&dir)?;
        Ok(Self { dir, version })
    }

    /// Version.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// Inode number, which tells it from one that has the same path later.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be looked at.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.dir)?.st_ino)
    }

    /// Reads a file of it.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not there, or cannot be read.
    pub fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open_file(file, OFlags::RDONLY)?.take(BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes a file of it, in one call.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not there, or the kernel does not take the value.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        self.open_file(file, OFlags::WRONLY)?.write_all(value.as_bytes())
    }

    fn open_file(&self, file: &str, flags: OFlags) -> io::Result<File> {
        if file.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{file:?} is not the name of a file"),
            ));
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, file, flags, Mode::empty())?);
        // Root may have mounted something over it.
        version_of(&file)?;
        Ok(file)
    }
}

fn version_of(fd: &impl AsFd) -> io::Result<CgroupVersion> {
    match fstatfs(fd)?.filesystem_type() {
        CGROUP_SUPER_MAGIC => Ok(CgroupVersion::V1),
        CGROUP2_SUPER_MAGIC => Ok(CgroupVersion::V2),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not on a cgroup file system, and is left alone",
        )),
    }
}
/// Returns whether the file system at `mount` is read-only for this process; false if unknown.
pub fn is_read_only(mount: &Path) -> bool {
    statvfs(mount).is_ok_and(|status| status.flags().contains(FsFlags::ST_RDONLY))
}
