//! Which cgroup charges a process's memory, and what its hard limit is.
//!
//! BPF tells a cgroup by its kernel id. The first process seen with an id gives it a path, through `/proc/PID/cgroup`,
//! and the directory's inode number proves that the path is that id's: a process that moved in between proves nothing
//! and is asked again at the next scan. Limits are read again every [`LIMIT_SCANS`] scans.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt as _};
use procfs::process::Process;

use super::ProcessId;

/// How many scans a limit is believed. At the default interval ten seconds, so that a limit set by an operator counts
/// in the next forecast, at a file read a cgroup.
const LIMIT_SCANS: u32 = 10;

/// `memory.limit_in_bytes` without a limit is the largest page-aligned `long`; anything near it is none.
const V1_UNLIMITED_BYTES: u64 = 1 << 62;

/// The hierarchy that charges memory on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// The memory controller is mounted on its own, as version 1.
    V1 {
        /// Where.
        mount: PathBuf,
    },
    /// The unified hierarchy.
    V2 {
        /// Where.
        mount: PathBuf,
    },
    /// No cgroup file system is mounted.
    None,
}

/// Paths and limits of the cgroups in use. Holds as many entries as there are cgroups with processes.
#[derive(Debug)]
pub struct CgroupPaths {
    hierarchy: Hierarchy,
    known: HashMap<u64, Known>,
    /// Without BPF a cgroup's id is not known: then each process keeps its own.
    of_processes: HashMap<ProcessId, Known>,
    root: Arc<str>,
}

#[derive(Debug)]
struct Known {
    path: Arc<str>,
    memory_max_bytes: Option<u64>,
    scans_until_read: u32,
    seen: bool,
}

impl Hierarchy {
    /// Looks at what is mounted. A host with both has its memory controller where version 1 is.
    pub fn detect() -> Self {
        let Ok(mounts) = Process::myself().and_then(|process| process.mountinfo()) else { return Self::None };
        let mut found = Self::None;
        for mount in mounts {
            let fs_type = mount.fs_type.as_str();
            if fs_type == "cgroup" && mount.super_options.contains_key("memory") {
                return Self::V1 { mount: mount.mount_point };
            }
            if fs_type == "cgroup2" && found == Self::None {
                found = Self::V2 { mount: mount.mount_point };
            }
        }
        found
    }

    /// Whether memory is charged by a version-1 controller.
    pub fn is_v1(&self) -> bool {
        matches!(self, Self::V1 { .. })
    }

    fn mount(&self) -> Option<&Path> {
        match self {
            Self::V1 { mount } | Self::V2 { mount } => Some(mount),
            Self::None => None,
        }
    }

    /// The cgroup of a process, as a path from the hierarchy's root; `None` where the process is gone.
    fn path_of(&self, pid: u32) -> Option<String> {
        let groups = Process::new(pid as i32).and_then(|process| process.cgroups()).ok()?;
        groups.into_iter().find_map(|group| {
            let ours = match self {
                Self::V1 { .. } => group.controllers.iter().any(|controller| controller == "memory"),
                Self::V2 { .. } => group.hierarchy == 0,
                Self::None => false,
            };
            ours.then_some(group.pathname)
        })
    }

    /// The nearest hard limit that holds for a cgroup: its own or an ancestor's, whichever is least. The limit files are
    /// read one by one because version 1's `memory.stat`, which knows the least, sums over all CPUs at each read.
    fn memory_max_bytes(&self, path: &str) -> Option<u64> {
        let (mount, file) = match self {
            Self::V1 { mount } => (mount, "memory.limit_in_bytes"),
            Self::V2 { mount } => (mount, "memory.max"),
            Self::None => return None,
        };
        below(mount, path)
            .ancestors()
            .take_while(|directory| directory.starts_with(mount))
            .filter_map(|directory| fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok())
            .filter(|&bytes| bytes < V1_UNLIMITED_BYTES)
            .min()
    }
}

impl CgroupPaths {
    /// Nothing known yet.
    pub fn new(hierarchy: Hierarchy) -> Self {
        Self { hierarchy, known: HashMap::new(), of_processes: HashMap::new(), root: Arc::from("/") }
    }

    /// Path and limit of the cgroup with kernel id `id`, of which `pid` is a member.
    pub fn get(&mut self, id: u64, pid: u32) -> (Arc<str>, Option<u64>) {
        if let Some(known) = self.known.get_mut(&id) {
            known.seen = true;
            if known.scans_until_read == 0 {
                known.scans_until_read = LIMIT_SCANS;
                known.memory_max_bytes = self.hierarchy.memory_max_bytes(&known.path);
            }
            return (known.path.clone(), known.memory_max_bytes);
        }
        let (path, memory_max_bytes) = self.of_process(pid);
        if self.is_id_of(id, &path) {
            self.known.insert(id, Known::new(path.clone(), memory_max_bytes, id));
        }
        (path, memory_max_bytes)
    }

    /// Path and limit of a process's cgroup, believed for [`LIMIT_SCANS`] scans.
    pub fn of_process_kept(&mut self, id: ProcessId) -> (Arc<str>, Option<u64>) {
        if let Some(known) = self.of_processes.get_mut(&id)
            && known.scans_until_read > 0
        {
            known.seen = true;
            return (known.path.clone(), known.memory_max_bytes);
        }
        let (path, memory_max_bytes) = self.of_process(id.pid);
        self.of_processes.insert(id, Known::new(path.clone(), memory_max_bytes, u64::from(id.pid)));
        (path, memory_max_bytes)
    }

    /// Path and limit of a process's cgroup, read now; the root's where it cannot be read.
    pub fn of_process(&self, pid: u32) -> (Arc<str>, Option<u64>) {
        match self.hierarchy.path_of(pid) {
            Some(path) if path != "/" => {
                let limit = self.hierarchy.memory_max_bytes(&path);
                (Arc::from(path), limit)
            }
            _ => (self.root.clone(), self.hierarchy.memory_max_bytes("/")),
        }
    }

    /// Ends a scan: forgets what no process was seen in, and lets the rest age.
    pub fn end_scan(&mut self) {
        self.known.retain(|_, known| known.age());
        self.of_processes.retain(|_, known| known.age());
    }

    fn is_id_of(&self, id: u64, path: &str) -> bool {
        let Some(mount) = self.hierarchy.mount() else { return false };
        fs::metadata(below(mount, path)).is_ok_and(|directory| directory.ino() == id)
    }
}

impl Known {
    /// Later reads are spread over scans: ids and pids are dense, so `key` makes an even spread.
    fn new(path: Arc<str>, memory_max_bytes: Option<u64>, key: u64) -> Self {
        let scans_until_read = 1 + (key % u64::from(LIMIT_SCANS)) as u32;
        Self { path, memory_max_bytes, scans_until_read, seen: true }
    }

    /// Ends a scan; says whether it was seen in it.
    fn age(&mut self) -> bool {
        self.scans_until_read = self.scans_until_read.saturating_sub(1);
        std::mem::take(&mut self.seen)
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}
