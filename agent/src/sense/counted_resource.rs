//! Resources of which a host has a limited number, by their names in traces and verdicts.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::printable::printable;

/// Maximum length in bytes of a name that this version does not know. The longest known one has 22.
const NAME_BYTES_MAX: usize = 64;

/// A resource that is counted against a limit. Beside each, its subject and its culprits, as far as
/// they are known. Counts of network and IPC namespaces are those of the agent's own.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
pub enum CountedResource {
    /// Bytes of a file system, without those that only root may take: the mount point; files.
    DiskBytes,
    /// Inodes of a file system: the mount point; directories.
    DiskInodes,
    /// Bytes of a file system in memory: the mount point; files.
    TmpfsBytes,
    /// Processes and threads that a cgroup (`pids.max`) or the host (`kernel.pid_max`,
    /// `kernel.threads-max`) may have: the cgroup, or the host; cgroups or programs.
    Pids,
    /// Processes of a user (`RLIMIT_NPROC`): the user; programs.
    UserProcesses,
    /// Processes that have ended and that their parent has not waited for: the host; parents.
    Zombies,
    /// Open files of the host (`fs.file-max`): the host; processes.
    OpenFiles,
    /// Watches of inotify (`fs.inotify.max_user_watches`): the user; processes.
    InotifyWatches,
    /// Instances of inotify (`fs.inotify.max_user_instances`): the user; processes.
    InotifyInstances,
    /// TCP sockets that no process holds any more (`net.ipv4.tcp_max_orphans`): the host.
    OrphanSockets,
    /// TCP sockets in TIME_WAIT (`net.ipv4.tcp_max_tw_buckets`): the host.
    TimeWaitSockets,
    /// Memory of TCP sockets (`net.ipv4.tcp_mem`): the host; processes.
    TcpMemoryBytes,
    /// Local ports to one destination (`net.ipv4.ip_local_port_range`): the destination; workloads.
    LocalPorts,
    /// Tracked connections (`net.netfilter.nf_conntrack_max`): the host; sources.
    Conntrack,
    /// Cgroups that were removed and still hold memory: the host.
    DyingCgroups,
    /// System V shared memory segments (`kernel.shmmni`): the host; owners.
    SharedMemorySegments,
    /// System V semaphore sets (`kernel.sem`): the host; owners.
    SemaphoreSets,
    /// System V message queues (`kernel.msgmni`): the host; owners.
    MessageQueues,
    /// Keys of a user (`kernel.keys.maxkeys`): the user.
    Keys,
    /// Maps of BPF: the host; processes.
    BpfMaps,
    /// Loop devices in use: the host; files.
    LoopDevices,
    /// Pseudo-terminals (`kernel.pty.max`): the host; processes.
    Ptys,
    /// Swap space: the host; processes.
    SwapBytes,
    /// Memory of the kernel's objects that it cannot reclaim: the host; caches.
    SlabBytes,
    /// Memory of page tables: the host; processes.
    PageTableBytes,
    /// Memory that the kernel has mapped for itself: the host.
    VmallocBytes,
    /// Memory that the kernel keeps for each CPU: the host.
    PercpuBytes,
    /// Restarts of a unit or a container: its name.
    Restarts,
    /// Resource that this version does not know, by the name in the trace.
    #[strum(default)]
    Other(Arc<str>),
}

impl CountedResource {
    /// Takes a name; one that this version does not know is kept, so that it is judged all the
    /// same.
    pub fn named(name: &str) -> Self {
        let name = printable(&name[..name.floor_char_boundary(NAME_BYTES_MAX)]);
        Self::from(&*name)
    }

    /// Name in metrics, of which there may not be arbitrarily many: `other` for a resource that
    /// this version does not know.
    pub fn metric_name(&self) -> &'static str {
        self.into()
    }

    /// Returns whether it is counted in bytes.
    pub fn is_bytes(&self) -> bool {
        match self {
            Self::Other(name) => name.ends_with("_bytes"),
            known => known.metric_name().ends_with("_bytes"),
        }
    }
}

impl Serialize for CountedResource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CountedResource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::named(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_the_resource_that_prints_them() {
        for (name, is_bytes) in [("disk_bytes", true), ("dying_cgroups", false), ("ptys", false)] {
            let resource = CountedResource::named(name);
            assert!(!matches!(resource, CountedResource::Other(_)), "{name}");
            assert_eq!((&*resource.to_string(), resource.is_bytes()), (name, is_bytes));
        }
        for (name, printed) in [("gpu_bytes", "gpu_bytes"), ("a\u{1b}b", "a\\x1bb"), ("", "")] {
            let resource = CountedResource::named(name);
            assert_eq!(resource, CountedResource::Other(Arc::from(printed)));
            assert_eq!(CountedResource::named(&resource.to_string()), resource);
        }
    }
}
