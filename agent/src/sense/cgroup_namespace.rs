//! Paths of cgroups as seen from a cgroup namespace of the agent's own, in which a container
//! runtime starts it.
//!
//! The kernel shows every path in `/proc/PID/cgroup` relative to the reader's namespace, with `..`
//! for each step out of it, while the host's file system, mounted into the container, starts at
//! the real root. The place of the namespace in it is found once, by the directory whose
//! `cgroup.procs` lists the agent: that needs no capability, unlike joining the host's namespace.
//! Failure: paths stay as they are shown, and do not match a directory. Cost: one walk at the
//! start, in a container only.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Inode number of the host's cgroup namespace (`PROC_CGROUP_INIT_INO` in the kernel).
const HOSTS_NAMESPACE: u64 = 0xEFFF_FFFB;

/// Maximum number of directories that are searched for the agent: ten times those of a large host.
const SEARCHED_MAX: usize = 50_000;

/// Roots by mount point: several parts of the agent ask, and it never changes its namespace.
static FOUND: Mutex<BTreeMap<PathBuf, NamespaceRoot>> = Mutex::new(BTreeMap::new());

/// Root of this process's cgroup namespace, as a path from the hierarchy's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRoot(PathBuf);

impl Default for NamespaceRoot {
    /// Returns the root of the host's namespace.
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl NamespaceRoot {
    /// Finds the root in the hierarchy that is mounted at `mount`, where `shown` is this process's
    /// path according to `/proc/self/cgroup`.
    pub fn find(mount: &Path, shown: Option<PathBuf>) -> Self {
        let is_hosts =
            fs::metadata("/proc/self/ns/cgroup").is_ok_and(|ns| ns.ino() == HOSTS_NAMESPACE);
        if is_hosts {
            return Self::default();
        }
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        let find = || {
            let own = directory_of(mount, std::process::id())?;
            root_of(&own, &shown?).map(Self)
        };
        found.entry(mount.to_owned()).or_insert_with(|| find().unwrap_or_default()).clone()
    }

    /// Returns a path from the hierarchy's root, of one that is relative to this namespace.
    pub fn absolute(&self, shown: PathBuf) -> PathBuf {
        if self.0 == Path::new("/") {
            return shown;
        }
        let mut path = self.0.clone();
        for component in shown.components() {
            match component {
                Component::ParentDir => drop(path.pop()),
                Component::Normal(name) => path.push(name),
                _ => {}
            }
        }
        path
    }
}

/// Returns the namespace's root from the path of a process in it: as the file system has it, and
/// as the namespace shows it.
fn root_of(real: &Path, shown: &Path) -> Option<PathBuf> {
    let below = shown.strip_prefix("/").ok()?;
    if !real.ends_with(below) {
        return None;
    }
    real.ancestors().nth(below.components().count()).map(Path::to_owned)
}

/// Returns the cgroup of a process, as a path from the root of the hierarchy at `mount`. Searches
/// level by level: a container is at most a few levels deep.
fn directory_of(mount: &Path, pid: u32) -> Option<PathBuf> {
    let has_process = |directory: &Path| {
        let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        procs.lines().any(|line| line.parse() == Ok(pid))
    };
    let mut level = vec![mount.to_owned()];
    let mut searched = 0;
    while !level.is_empty() && searched < SEARCHED_MAX {
        searched += level.len();
        if let Some(found) = level.iter().find(|directory| has_process(directory)) {
            return Some(Path::new("/").join(found.strip_prefix(mount).ok()?));
        }
        let entries = level.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
        let directories = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|file_type| file_type.is_dir()));
        level = directories.map(|entry| entry.path()).collect();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope";

    fn absolute(root: &str, shown: &str) -> String {
        NamespaceRoot(PathBuf::from(root)).absolute(PathBuf::from(shown)).display().to_string()
    }

    #[test]
    fn paths_out_of_a_containers_namespace_begin_at_the_hosts_root() {
        for (shown, expected) in [
            ("/", POD),
            ("/worker", &format!("{POD}/worker")),
            ("/../cri-containerd-b.scope", &POD.replace("d-a", "d-b")),
            ("/../../../system.slice/api.service", "/system.slice/api.service"),
            ("/../../..", "/"),
            // No name is `..`, and no path leads out of the root.
            ("/../../../../../x", "/x"),
        ] {
            assert_eq!(absolute(POD, shown), *expected, "{shown}");
        }
        assert_eq!(absolute("/", "/system.slice/api.service"), "/system.slice/api.service");
    }

    #[test]
    fn root_is_known_only_if_both_paths_agree() {
        let root = |real: &str, shown: &str| root_of(Path::new(real), Path::new(shown));
        assert_eq!(root(POD, "/"), Some(PathBuf::from(POD)));
        assert_eq!(root(&format!("{POD}/init"), "/init"), Some(PathBuf::from(POD)));
        assert_eq!(root(POD, "/../elsewhere"), None);
        assert_eq!(root(POD, "elsewhere"), None);
    }
}
