//! Bounded reads of the host's own files, also from within a container that shares the host's pids.
//!
//! The agent's own root directory is the host's, unless it runs in a container; then that of the
//! host's first process is, if the agent may look through it.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Bytes of a list of mounts that are read. A guess: some thousand mounts.
const MOUNTS_BYTES_MAX: u64 = 1 << 20;

/// Root directories that may be the host's.
const ROOTS: [&str; 2] = ["/proc/1/root/", "/"];

/// Returns the root directory that a process shares with this one or with the host's first; `None`
/// if it has another, as in a container. Needs no CAP_SYS_PTRACE, unlike `/proc/PID/root`.
pub(super) fn root_of(pid: u32) -> Option<&'static Path> {
    let its = root_mount(&pid.to_string())?;
    let shares = |of: &str| root_mount(of).as_ref() == Some(&its);
    let [first, own] = ROOTS.map(Path::new);
    if shares("self") { Some(own) } else { Some(first).filter(|_| shares("1")) }
}

/// Returns the device of the file system at a process's root directory, and the directory in it.
fn root_mount(process: &str) -> Option<[String; 2]> {
    let path = format!("/proc/{process}/mountinfo");
    root_mount_in(&String::from_utf8_lossy(&read_up_to(path.as_ref(), MOUNTS_BYTES_MAX)?))
}

/// Finds them in the text of a `mountinfo`. The last mount at a path is on top of the others.
fn root_mount_in(mounts: &str) -> Option<[String; 2]> {
    let of_line = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        (point == "/").then(|| [device.to_owned(), root.to_owned()])
    };
    mounts.lines().rev().find_map(of_line)
}

/// Returns the paths at which a file of the host may be.
pub(super) fn on_host(path: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let path = path.trim_start_matches('/').to_owned();
    ROOTS.iter().map(move |root| Path::new(root).join(&path))
}

/// Opens a file if it is a regular one. Anything else, such as a pipe, could block.
pub(super) fn open_regular(path: &Path) -> Option<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// Reads a regular file, at most so many bytes of it.
pub(super) fn read_up_to(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(bytes_max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_more_than_asked_for() {
        assert_eq!(read_up_to(Path::new("/proc/self/comm"), 2).map(|bytes| bytes.len()), Some(2));
        assert_eq!(read_up_to(Path::new("/dev/zero"), 2), None);
        assert_eq!(read_up_to(Path::new("/etc"), 2), None);
        let passwd = on_host("/etc/passwd").find_map(|path| read_up_to(&path, 1 << 20));
        assert_eq!(passwd, std::fs::read("/etc/passwd").ok());
    }

    #[test]
    fn own_root_is_shared_and_that_of_nobody_is_not() {
        assert!(root_of(std::process::id()).is_some());
        assert_eq!(root_of(u32::MAX), None);
        let mounts = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:5 / /proc rw - proc proc rw\n";
        assert_eq!(root_mount_in(mounts), Some(["8:1".to_owned(), "/".to_owned()]));
        let covered = format!("{mounts}99 20 0:44 / / rw - overlay overlay rw\n");
        assert_eq!(root_mount_in(&covered), Some(["0:44".to_owned(), "/".to_owned()]));
        assert_eq!(root_mount_in("20 1 8:1 /srv /home rw - ext4 x rw\n20 1"), None);
    }
}
