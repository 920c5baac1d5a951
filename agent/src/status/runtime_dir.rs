//! Directory of the status socket: `/run/spillway`, which systemd makes for the unit
//! (`RuntimeDirectory=`), or a directory in it for an agent with another state directory, so that
//! several agents run side by side and a command finds its own from the configuration alone. Where
//! that cannot be made, as in a container with a read-only root or by another user than root, the
//! state directory takes its place.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use rustix::fs::{Mode, fchmod, fstat};

use crate::{
    config::RecordConfig,
    os::trusted::{self, PathRules},
};

/// Directory of all status sockets.
pub const RUNTIME_DIR: &str = "/run/spillway";

/// Name of the socket.
const SOCKET: &str = "status.sock";

/// Access for its owner, and for its group to go through to the socket.
const DIR_MODE: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP);

/// Bytes of the state directory's hash in the name of its runtime directory.
const NAME_BYTES: usize = 8;

/// Returns the path of the status socket of the agent with this state directory.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    runtime_dir(state_dir).join(SOCKET)
}

/// Returns the path of the status socket if the runtime directory cannot be made.
pub fn fallback_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

/// Returns the runtime directory of the agent with this state directory.
pub fn runtime_dir(state_dir: &Path) -> PathBuf {
    let base = PathBuf::from(RUNTIME_DIR);
    if state_dir == RecordConfig::default().state_dir {
        return base;
    }
    let hash = digest(&SHA256, state_dir.as_os_str().as_bytes());
    let mut name = String::new();
    for byte in &hash.as_ref()[..NAME_BYTES] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    base.join(name)
}

/// An open runtime directory.
pub struct RuntimeDir {
    /// The directory.
    pub dir: OwnedFd,
    /// Group that it belongs to.
    pub group: u32,
    /// Set if this agent made it.
    pub is_own: bool,
    /// Path of the socket in it.
    pub socket: PathBuf,
}

impl RuntimeDir {
    /// Opens the runtime directory of the agent with this state directory, and makes it if it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be made, or others can write to it.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = runtime_dir(state_dir);
        // Made in steps of its own, to get its mode.
        let (base, _) = open(Path::new(RUNTIME_DIR))?;
        let (dir, is_own) =
            if path == Path::new(RUNTIME_DIR) { (base, false) } else { open(&path)? };
        trusted::check_private(&dir, &path)?;
        Ok(Self { group: fstat(&dir)?.st_gid, dir, is_own, socket: path.join(SOCKET) })
    }

    /// Opens the state directory in place of the runtime directory.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not exist, or others can write to it.
    pub fn fallback(state_dir: &Path) -> io::Result<Self> {
        let dir = trusted::open_directory(state_dir, PathRules::STATE, false)?;
        trusted::check_private(&dir, state_dir)?;
        let socket = fallback_path(state_dir);
        Ok(Self { group: fstat(&dir)?.st_gid, dir, is_own: false, socket })
    }
}

/// Removes the sockets that killed agents left in directories of their own.
pub fn sweep() {
    let found = fs::read_dir(RUNTIME_DIR).into_iter().flatten().flatten();
    let dirs = found.map(|entry| entry.path()).filter(|dir| dir.join(SOCKET).exists());
    for dir in dirs {
        let Ok(lock) = File::open(&dir) else { continue };
        // Whoever serves a socket has locked its directory.
        if lock.try_lock().is_ok() && fs::remove_file(dir.join(SOCKET)).is_ok() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Opens a directory. Returns whether it was made.
fn open(path: &Path) -> io::Result<(OwnedFd, bool)> {
    match trusted::open_directory(path, PathRules::STATE, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = trusted::open_directory(path, PathRules::STATE, true)?;
            fchmod(&made, DIR_MODE)?;
            Ok((made, true))
        }
        found => Ok((found?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_is_derived_from_the_state_directory() {
        let default = socket_path(Path::new("/var/lib/spillway"));
        assert_eq!(default, Path::new("/run/spillway/status.sock"));
        let [one, other] = ["/tmp/a", "/tmp/b"].map(|dir| socket_path(Path::new(dir)));
        assert_ne!(one, other);
        assert_eq!(one, Path::new("/run/spillway/d9b741ea3d4d24a6/status.sock"));
        let long = socket_path(Path::new(&format!("/{}", "x/".repeat(2_000))));
        assert!(long.as_os_str().len() < 108, "{}", long.display());
    }
}
