//! The cgroup that charges a process's memory, its hard limit, and the memory charged against that.
//!
//! BPF identifies a cgroup by its kernel id. The first process seen with an id provides its path,
//! through `/proc/PID/cgroup`, and the directory's inode number confirms that the path belongs to
//! the id; if the process moved in between, the path is read again at the next scan. Limits are
//! read again every [`LIMIT_SCANS`] scans, and so are charges: once for all cgroups under one
//! limit.

use std::{
    collections::hash_map::Entry,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt as _};
use procfs::process::MountInfo;

use super::{ProcessId, cgroup_namespace::NamespaceRoot, printable::printable_path, proc_files};
use crate::spare_room;

/// Number of scans for which a limit, and the charge against it, are cached. At the default
/// interval that is ten seconds, so that a limit set by an operator counts in the next forecast.
/// Costs one file read a cgroup, and one more a limit.
const LIMIT_SCANS: u32 = 10;

/// Value of `memory.limit_in_bytes` from which there is no limit: without one it is the largest
/// page-aligned `long`.
pub(super) const V1_UNLIMITED_BYTES: u64 = 1 << 62;

/// Inode number of a hierarchy's root directory.
const ROOT_INODE: u64 = 1;

/// Child of a shared cgroup into which the action `limit` moves a leaking process.
pub const LEAK_CHILD: &str = "spillway-leak";

/// Child into which it moves the other processes, if they cannot stay.
pub const REST_CHILD: &str = "spillway-rest";

/// The hierarchy that charges memory on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// The memory controller is mounted on its own, as version 1.
    V1 {
        /// Mount point.
        mount: PathBuf,
        /// Root of the agent's cgroup namespace in it.
        root: NamespaceRoot,
    },
    /// The unified hierarchy.
    V2 {
        /// Mount point.
        mount: PathBuf,
        /// Root of the agent's cgroup namespace in it.
        root: NamespaceRoot,
    },
    /// No cgroup file system is mounted.
    None,
}

/// A hard limit on memory, and the charge against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardLimit {
    /// `memory.max`, or `memory.limit_in_bytes` in version 1.
    pub max_bytes: u64,
    /// Anonymous and shared memory of all processes under it, up to `LIMIT_SCANS` scans old;
    /// `None` if it cannot be read. Page cache is charged too, but the kernel reclaims it before it
    /// kills.
    pub charged_bytes: Option<u64>,
}

/// Paths and limits of the cgroups in use. Holds as many entries as there are cgroups with
/// processes.
#[derive(Debug)]
pub struct CgroupPaths {
    hierarchy: Hierarchy,
    known: HashMap<u64, KnownCgroup>,
    /// Cgroups by process: without BPF the id of a cgroup is unknown.
    of_processes: HashMap<ProcessId, KnownCgroup>,
    charges: Charges,
}

#[derive(Debug)]
struct KnownCgroup {
    path: PathBuf,
    /// Path in facts, see [`reported_path`].
    reported: Arc<str>,
    holder: Option<Holder>,
    age: Age,
}

/// The cgroup with the lowest limit, among one and its ancestors.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    max_bytes: u64,
    directory: PathBuf,
    /// Inode number, which distinguishes it from an earlier one with the same path.
    id: u64,
}

/// Charge against each limit in use, by the id of its holder.
#[derive(Debug, Default)]
struct Charges(HashMap<u64, Charge>);

#[derive(Debug)]
struct Charge {
    bytes: Option<u64>,
    age: Age,
}

/// Age of a cached value, and whether it is still in use.
#[derive(Debug)]
struct Age {
    scans_until_read: u32,
    seen: bool,
}

impl Hierarchy {
    /// Detects the hierarchy from the mounts. On a host with both, version 1 has the memory
    /// controller.
    pub fn detect() -> Self {
        let is_v1 = |mount: &MountInfo| {
            mount.fs_type == "cgroup" && mount.super_options.contains_key("memory")
        };
        let v1 = mounted(is_v1).map(|mount| Self::V1 { mount, root: NamespaceRoot::default() });
        v1.map_or_else(Self::unified, Self::in_own_namespace)
    }

    /// Returns the unified hierarchy, which has the pressure files on hosts with both;
    /// [`Hierarchy::None`] if it is not mounted.
    pub fn unified() -> Self {
        let v2 = mounted(|mount| mount.fs_type == "cgroup2");
        let v2 = v2.map(|mount| Self::V2 { mount, root: NamespaceRoot::default() });
        v2.map_or(Self::None, Self::in_own_namespace)
    }

    /// Finds the root of the agent's namespace in the hierarchy.
    fn in_own_namespace(mut self) -> Self {
        let shown = self.shown_path_of(std::process::id());
        match &mut self {
            Self::V1 { mount, root } | Self::V2 { mount, root } => {
                *root = NamespaceRoot::find(mount, shown);
            }
            Self::None => {}
        }
        self
    }

    /// Returns whether a version-1 controller charges memory.
    pub fn is_v1(&self) -> bool {
        matches!(self, Self::V1 { .. })
    }

    /// Returns the mount point.
    pub fn mount(&self) -> Option<&Path> {
        match self {
            Self::V1 { mount, .. } | Self::V2 { mount, .. } => Some(mount),
            Self::None => None,
        }
    }

    /// Reads the cgroup of a process, as a path from the hierarchy's root in the kernel's bytes;
    /// `None` if the process has ended.
    pub fn path_of(&self, pid: u32) -> Option<PathBuf> {
        let (Self::V1 { root, .. } | Self::V2 { root, .. }) = self else { return None };
        self.shown_path_of(pid).map(|shown| root.absolute(shown))
    }

    /// Reads the path as the agent's namespace shows it.
    fn shown_path_of(&self, pid: u32) -> Option<PathBuf> {
        let is_memory = |controllers: &[u8]| {
            controllers.split(|&byte| byte == b',').any(|name| name == b"memory")
        };
        let path = match self {
            Self::V1 { .. } => proc_files::cgroup_of(pid, |_, controllers| is_memory(controllers)),
            Self::V2 { .. } => proc_files::cgroup_of(pid, |number, _| number == b"0"),
            Self::None => None,
        };
        path.map(|path| PathBuf::from(OsString::from_vec(path)))
    }

    /// Returns the lowest hard limit of a cgroup and its ancestors; of equal ones the outermost,
    /// against which the most is charged. The limit files are read one by one because version 1's
    /// `memory.stat`, which has the lowest, sums over all CPUs at each read.
    fn holder(&self, path: &Path) -> Option<Holder> {
        let (mount, file) = match self {
            Self::V1 { mount, .. } => (mount, "memory.limit_in_bytes"),
            Self::V2 { mount, .. } => (mount, "memory.max"),
            Self::None => return None,
        };
        let path = below(mount, path);
        let (max_bytes, directory) = path
            .ancestors()
            .take_while(|directory| directory.starts_with(mount))
            .filter_map(|directory| {
                let max_bytes =
                    fs::read_to_string(directory.join(file)).ok()?.trim().parse::<u64>().ok()?;
                Some((max_bytes, directory))
            })
            .filter(|&(max_bytes, _)| max_bytes < V1_UNLIMITED_BYTES)
            .reduce(|least, outer| if outer.0 <= least.0 { outer } else { least })?;
        // A cgroup that has been removed since has no limit.
        let id = fs::metadata(directory).ok()?.ino();
        Some(Holder { max_bytes, directory: directory.to_owned(), id })
    }

    /// Reads the anonymous and shared memory charged to a cgroup and those below it. Cost: 6 µs if
    /// little has happened since the last read, because the kernel sums the changes: 0.1 ms after a
    /// second in which one cgroup below it touched 8 MiB, 0.3 ms if a hundred did, on two CPUs with
    /// Linux 6.18 and version 1.
    fn charged_bytes(&self, directory: &Path) -> Option<u64> {
        let keys = match self {
            // Keys without `total_` exclude the cgroups below it.
            Self::V1 { .. } => ["total_rss", "total_shmem"],
            Self::V2 { .. } => ["anon", "shmem"],
            Self::None => return None,
        };
        sum_of(&fs::read_to_string(directory.join("memory.stat")).ok()?, keys)
    }
}

/// Sums two lines of `memory.stat`; `None` unless both are present.
pub(super) fn sum_of(stat: &str, keys: [&str; 2]) -> Option<u64> {
    let [one, other] = keys.map(|key| value(stat, key));
    one?.checked_add(other?)
}

impl CgroupPaths {
    /// Creates an empty cache.
    pub fn new(hierarchy: Hierarchy) -> Self {
        Self {
            hierarchy,
            known: HashMap::new(),
            of_processes: HashMap::new(),
            charges: Charges::default(),
        }
    }

    /// Returns path and limit of the cgroup with kernel id `id`, of which `pid` is a member.
    pub fn get(&mut self, id: u64, pid: u32) -> (Arc<str>, Option<HardLimit>) {
        if let Some(known) = self.known.get_mut(&id) {
            if known.age.is_due() {
                known.holder = self.hierarchy.holder(&known.path);
            }
            return (
                known.reported.clone(),
                self.charges.limit(&self.hierarchy, known.holder.as_ref()),
            );
        }
        let known = KnownCgroup::new(&self.hierarchy, self.path_of(pid), id);
        let found =
            (known.reported.clone(), self.charges.limit(&self.hierarchy, known.holder.as_ref()));
        if self.is_id_of(id, &known.path) {
            self.known.insert(id, known);
        }
        found
    }

    /// Returns path and limit of a process's cgroup, cached for `LIMIT_SCANS` scans.
    pub fn of_process_cached(&mut self, id: ProcessId) -> (Arc<str>, Option<HardLimit>) {
        if let Some(known) = self.of_processes.get_mut(&id)
            && !known.age.is_due()
        {
            return (
                known.reported.clone(),
                self.charges.limit(&self.hierarchy, known.holder.as_ref()),
            );
        }
        let known = KnownCgroup::new(&self.hierarchy, self.path_of(id.pid), u64::from(id.pid));
        let found =
            (known.reported.clone(), self.charges.limit(&self.hierarchy, known.holder.as_ref()));
        self.of_processes.insert(id, known);
        found
    }

    /// Reads the path of a process's cgroup; that of the root if it cannot be read.
    pub fn of_process(&self, pid: u32) -> Arc<str> {
        reported_path(&self.path_of(pid))
    }

    fn path_of(&self, pid: u32) -> PathBuf {
        self.hierarchy.path_of(pid).unwrap_or_else(|| PathBuf::from("/"))
    }

    /// Ends a scan: drops cgroups without processes, and ages the rest.
    pub fn end_scan(&mut self) {
        self.known.retain(|_, known| known.age.end_scan());
        self.of_processes.retain(|_, known| known.age.end_scan());
        self.charges.end_scan();
        spare_room::of_map(&mut self.known);
        spare_room::of_map(&mut self.of_processes);
    }

    fn is_id_of(&self, id: u64, path: &Path) -> bool {
        let Some(mount) = self.hierarchy.mount() else { return false };
        fs::metadata(below(mount, path)).is_ok_and(|directory| directory.ino() == id)
    }
}

impl KnownCgroup {
    fn new(hierarchy: &Hierarchy, path: PathBuf, key: u64) -> Self {
        let (reported, holder) = (reported_path(&path), hierarchy.holder(&path));
        Self { path, reported, holder, age: Age::new(key) }
    }
}

impl Charges {
    /// Returns a limit with the charge against it.
    fn limit(&mut self, hierarchy: &Hierarchy, holder: Option<&Holder>) -> Option<HardLimit> {
        let Holder { max_bytes, directory, id } = holder?;
        let charge = match self.0.entry(*id) {
            Entry::Occupied(charge) => {
                let charge = charge.into_mut();
                if charge.age.is_due() {
                    charge.bytes = hierarchy.charged_bytes(directory);
                }
                charge
            }
            Entry::Vacant(charge) => charge
                .insert(Charge { bytes: hierarchy.charged_bytes(directory), age: Age::new(*id) }),
        };
        Some(HardLimit { max_bytes: *max_bytes, charged_bytes: charge.bytes })
    }

    fn end_scan(&mut self) {
        self.0.retain(|_, charge| charge.age.end_scan());
    }
}

impl Age {
    /// Creates the age of a value that was just read. Later reads are spread over scans by `key`:
    /// ids and pids are dense, so the spread is even.
    fn new(key: u64) -> Self {
        Self { scans_until_read: 1 + (key % u64::from(LIMIT_SCANS)) as u32, seen: true }
    }

    /// Marks the value as in use, and returns whether it must be read now.
    fn is_due(&mut self) -> bool {
        self.seen = true;
        let due = self.scans_until_read == 0;
        if due {
            self.scans_until_read = LIMIT_SCANS;
        }
        due
    }

    /// Ends a scan; returns whether the value was in use in it.
    fn end_scan(&mut self) -> bool {
        self.scans_until_read = self.scans_until_read.saturating_sub(1);
        std::mem::take(&mut self.seen)
    }
}

/// Returns the path of a cgroup in facts, made printable. Children that Spillway created for a
/// limit are reported as their parent: a process that was moved still belongs to the same service,
/// claim and limit.
fn reported_path(path: &Path) -> Arc<str> {
    let is_ours = |name: &OsStr| name == LEAK_CHILD || name == REST_CHILD;
    let parent = path
        .parent()
        .filter(|parent| path.file_name().is_some_and(is_ours) && *parent != Path::new("/"));
    printable_path(parent.unwrap_or(path))
}

/// Returns the mount point of such a file system, of several the first that starts at the
/// hierarchy's root: a container runtime also mounts the container's own part, out of which nothing
/// is seen.
fn mounted(is_wanted: impl Fn(&MountInfo) -> bool) -> Option<PathBuf> {
    let mounts = proc_files::mounts().unwrap_or_default().into_iter().filter(is_wanted);
    let mut points: Vec<_> = mounts.map(|mount| mount.mount_point).collect();
    let is_whole = |point: &PathBuf| fs::metadata(point).is_ok_and(|root| root.ino() == ROOT_INODE);
    let whole = points.iter().position(is_whole);
    (!points.is_empty()).then(|| points.swap_remove(whole.unwrap_or(0)))
}

/// Returns the mount point of the hierarchy whose pids controller limits processes; `None` without
/// one.
pub(super) fn pids_mount() -> Option<PathBuf> {
    let is_v1 =
        |mount: &MountInfo| mount.fs_type == "cgroup" && mount.super_options.contains_key("pids");
    mounted(is_v1).or_else(|| mounted(|mount| mount.fs_type == "cgroup2"))
}

fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns the number in the line of a file that begins with `key` and a blank.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A directory that looks like a hierarchy of version 1.
    struct Tree(PathBuf);

    impl Tree {
        fn make(name: &str) -> Self {
            let mount = std::env::temp_dir()
                .join(format!("spillway-cgroups-{name}-{}", std::process::id()));
            fs::create_dir_all(&mount).unwrap();
            Self(mount)
        }

        fn hierarchy(&self) -> Hierarchy {
            Hierarchy::V1 { mount: self.0.clone(), root: NamespaceRoot::default() }
        }

        fn set(&self, path: &str, max_bytes: u64, rss_bytes: u64) {
            let directory = below(&self.0, Path::new(path));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("memory.limit_in_bytes"), format!("{max_bytes}\n")).unwrap();
            let stat = format!(
                "cache 7\nrss 7\ntotal_cache 999999999\ntotal_rss {rss_bytes}\ntotal_shmem 4096\n"
            );
            fs::write(directory.join("memory.stat"), stat).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_complete_lines_with_numbers_are_summed() {
        let v2 = ["anon", "shmem"];
        assert_eq!(sum_of("anon 8192\nfile 1\nshmem 4096\nanon_thp 5\n", v2), Some(12_288));
        assert_eq!(sum_of("anon_thp 5\nshmem_thp 6\nshmem 0\nanon 1", v2), Some(1));
        assert_eq!(
            sum_of("rss 1\nshmem 2\ntotal_rss 4\ntotal_shmem 8\n", ["total_rss", "total_shmem"]),
            Some(12)
        );
        for text in [
            "",
            "anon 1\n",
            "shmem 1\n",
            "anon_thp 1\nshmem 1\n",
            "anon\nshmem 1\n",
            "anon -1\nshmem 1\n",
            "anon many\nshmem 1\n",
            "anon 1 2\nshmem 1\n",
            "anon 99999999999999999999\nshmem 1\n",
            "anon 18446744073709551615\nshmem 1\n",
            "\0\u{fffd}",
        ] {
            assert_eq!(sum_of(text, v2), None, "{text:?}");
        }
    }

    #[test]
    fn children_created_for_a_limit_are_reported_as_parent() {
        let reported = |path: &str| reported_path(Path::new(path)).to_string();
        assert_eq!(reported("/a/spillway-leak"), "/a");
        assert_eq!(reported("/a/b.service/spillway-rest"), "/a/b.service");
        for path in [
            "/",
            "/a",
            "/spillway-leak",
            "/a/spillway-leak/theirs",
            "/a/spillway-leaks",
            "/a/my-spillway-leak",
        ] {
            assert_eq!(reported(path), path);
        }
    }

    #[test]
    fn lowest_limit_counts_and_of_equal_ones_the_outermost() {
        let tree = Tree::make("least");
        tree.set("/", V1_UNLIMITED_BYTES + MIB, 0);
        tree.set("/a", 64 * MIB, 0);
        tree.set("/a/b", 64 * MIB, 0);
        tree.set("/a/b/c", 128 * MIB, 0);
        tree.set("/a/b/d", 32 * MIB, 0);
        let holder = |path: &str| {
            tree.hierarchy()
                .holder(Path::new(path))
                .map(|holder| (holder.max_bytes, holder.directory))
        };
        assert_eq!(holder("/"), None);
        assert_eq!(holder("/a/b/c"), Some((64 * MIB, tree.0.join("a"))));
        assert_eq!(holder("/a/b/d"), Some((32 * MIB, tree.0.join("a/b/d"))));
    }

    #[test]
    fn charge_is_read_once_a_limit_and_again_after_ten_scans() {
        let tree = Tree::make("charge");
        tree.set("/a", 64 * MIB, MIB);
        tree.set("/a/b", 128 * MIB, 5 * MIB);
        let hierarchy = tree.hierarchy();
        let holders = ["/a", "/a/b"].map(|path| hierarchy.holder(Path::new(path)).unwrap());
        let mut charges = Charges::default();
        let mut charged = || {
            holders
                .each_ref()
                .map(|holder| charges.limit(&hierarchy, Some(holder)).unwrap().charged_bytes)
        };
        assert_eq!(charged(), [Some(MIB + 4096); 2]);
        tree.set("/a", 64 * MIB, 2 * MIB);
        assert_eq!(charged(), [Some(MIB + 4096); 2]);
        let mut read_after = None;
        for scan in 1..=LIMIT_SCANS {
            charges.end_scan();
            let limit = charges.limit(&hierarchy, Some(&holders[1])).unwrap();
            assert_eq!(limit.max_bytes, 64 * MIB);
            if limit.charged_bytes == Some(2 * MIB + 4096) {
                read_after.get_or_insert(scan);
            }
        }
        assert!(read_after.is_some());
        // A charge that cannot be read becomes unknown when it is due.
        fs::remove_file(tree.0.join("a/memory.stat")).unwrap();
        let unknown = (0..LIMIT_SCANS).any(|_| {
            charges.end_scan();
            charges.limit(&hierarchy, Some(&holders[0])).unwrap().charged_bytes.is_none()
        });
        assert!(unknown);
        charges.end_scan();
        charges.end_scan();
        assert!(charges.0.is_empty(), "a limit without processes is dropped");
    }
}
