//! A directory that is certain to be on a cgroup file system, so that nothing else is ever read or
//! written in its place.
//!
//! The path may come from a file (the journal), so it is walked without following links, and the
//! directory and each file are checked by their descriptors. Only root can mount a cgroup file
//! system or mount something over one of its files.

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

/// Maximum number of bytes that are read from a file. `memory.stat` has a few thousand.
const BYTES_MAX: u64 = 1 << 20;

/// Version of cgroups, by the type of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all controllers.
    V2,
}

/// The directory of a cgroup.
#[derive(Debug)]
pub struct CgroupDir {
    dir: OwnedFd,
    version: CgroupVersion,
}

impl CgroupDir {
    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not exist, its path contains a link, or it is not on a cgroup
    /// file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let rules = PathRules { follows_links: false, checks_owners: false };
        let dir = trusted::open_directory(path, rules, false)?;
        let version = version_of(&dir)?;
        Ok(Self { dir, version })
    }

    /// Version of cgroups.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// Inode number, which differs from that of a later cgroup with the same path.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not give it.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.dir)?.st_ino)
    }

    /// Reads a file in the directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist or cannot be read.
    pub fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open_file(file, OFlags::RDONLY)?.take(BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes a file in the directory, in one system call.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist or the kernel rejects the value.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        self.open_file(file, OFlags::WRONLY)?.write_all(value.as_bytes())
    }

    fn open_file(&self, file: &str, flags: OFlags) -> io::Result<File> {
        if file.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{file:?} is a path, not the name of a file in a cgroup"),
            ));
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, file, flags, Mode::empty())?);
        // Root may have mounted another file over it.
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
            "it is not on a cgroup file system, so it is not used",
        )),
    }
}
/// Returns whether the file system at `mount` is read-only for this process; false if unknown.
pub fn is_read_only(mount: &Path) -> bool {
    statvfs(mount).is_ok_and(|status| status.flags().contains(FsFlags::ST_RDONLY))
}
