//! Network namespaces and sockets of processes, from `/proc`.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use netlink_sys::Socket;

use super::netlink::open_in;

/// One pass over /proc.
#[derive(Default)]
pub(super) struct ProcWalk {
    /// Network namespaces of processes, each with one process: the previous one may have ended.
    pub(super) seen: HashMap<u64, u32>,
    /// A socket in each new namespace.
    pub(super) opened: HashMap<u64, Socket>,
    /// Number of processes whose namespace is new and could not be entered.
    pub(super) not_entered: usize,
    /// Set if a process may not be read at all, which needs CAP_SYS_PTRACE.
    pub(super) is_hidden: bool,
    /// Inodes of the sockets that a process holds.
    pub(super) sockets: Vec<(u32, Vec<u64>)>,
}

impl ProcWalk {
    pub(super) fn make(known: &HashSet<u64>) -> Self {
        let mut walk = Self::default();
        let Ok(processes) = fs::read_dir("/proc") else { return walk };
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let path = process.path();
            let netns = fs::metadata(path.join("ns/net"));
            walk.is_hidden |=
                netns.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            if let Ok(netns) = netns {
                let inode = netns.ino();
                walk.seen.insert(inode, pid);
                if !known.contains(&inode)
                    && let Entry::Vacant(namespace) = walk.opened.entry(inode)
                {
                    match open_in(&path.join("ns/net")) {
                        Ok(socket) => drop(namespace.insert(socket)),
                        Err(_) => walk.not_entered += 1,
                    }
                }
            }
            let sockets = sockets_of(&path);
            if !sockets.is_empty() {
                walk.sockets.push((pid, sockets));
            }
        }
        walk
    }
}

fn sockets_of(process: &Path) -> Vec<u64> {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return Vec::new() };
    let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let inode = |target: PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(inode).collect()
}
