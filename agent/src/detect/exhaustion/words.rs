//! Resources in words: names, consequences, advice, and what distinguishes one from another.
//!
//! The rule is one for all; a resource says how much it may fluctuate by nature, who is at stake,
//! and what a person can do.

use crate::{
    detect::Severity,
    sense::CountedResource,
    units::{Count, Frequency, Size},
};

/// Properties of a resource.
pub(super) struct Words {
    /// Name in a sentence, such as `disk space`.
    pub(super) noun: &'static str,
    /// Consequence of its end.
    pub(super) end: &'static str,
    /// Advice: an imperative without a full stop.
    pub(super) advice: &'static str,
    /// Set if it follows the load by nature, as connections do and bytes on a disk do not.
    pub(super) is_load: bool,
    /// Highest severity of a claim.
    pub(super) most: Severity,
}

/// Growth of a count without a limit from which it is worth a claim. Guesses.
pub(super) const UNLIMITED_GROWTH_MIN: f64 = 2_000.0;
pub(super) const UNLIMITED_GROWTH_BYTES_MIN: f64 = 512.0 * 1_048_576.0;

/// Returns the words about a resource.
pub(super) fn words(resource: &CountedResource) -> Words {
    use CountedResource as R;
    use Severity::{Critical, Info, Warning};
    let (noun, end, advice, is_load, most) = match resource {
        R::DiskBytes => (
            "disk space",
            "writes to it fail",
            "delete or move what is not needed there, or enlarge it; a deleted file that a process \
             still holds is freed when that process is restarted",
            false,
            Critical,
        ),
        R::DiskInodes => (
            "inodes",
            "no file can be created on it",
            "delete small files that are not needed there, and find out what creates them",
            false,
            Critical,
        ),
        R::TmpfsBytes => (
            "space in memory",
            "writes to it fail",
            "delete what is not needed there: it is held in memory until then",
            false,
            Critical,
        ),
        R::Pids => (
            "processes and threads",
            "no process or thread can be started",
            "stop what starts them, or raise the limit if it needs so many",
            true,
            Critical,
        ),
        R::UserProcesses => (
            "processes",
            "the user can start no more",
            "stop what starts them, or raise its RLIMIT_NPROC (LimitNPROC= in a unit)",
            true,
            Critical,
        ),
        R::Zombies => (
            "zombies",
            "no process can be started",
            "restart their parent, which does not wait for them",
            false,
            Critical,
        ),
        R::OpenFiles => (
            "open files",
            "no file or connection can be opened",
            "restart what opens them, or raise fs.file-max",
            true,
            Critical,
        ),
        R::InotifyWatches => (
            "inotify watches",
            "programs miss changes of files",
            "restart what adds them, or raise fs.inotify.max_user_watches",
            true,
            Warning,
        ),
        R::InotifyInstances => (
            "inotify instances",
            "programs that watch files fail to start",
            "restart what creates them, or raise fs.inotify.max_user_instances",
            true,
            Warning,
        ),
        R::OrphanSockets => (
            "orphaned TCP sockets",
            "the kernel resets connections that close",
            "find clients that vanish without closing, or raise net.ipv4.tcp_max_orphans",
            true,
            Warning,
        ),
        R::TimeWaitSockets => (
            "TCP sockets in TIME_WAIT",
            "the kernel ends them early",
            "reuse connections, or raise net.ipv4.tcp_max_tw_buckets",
            true,
            Warning,
        ),
        R::TcpMemoryBytes => (
            "memory for TCP sockets",
            "the kernel drops data of connections",
            "find the process whose connections are not read, or raise net.ipv4.tcp_mem",
            true,
            Critical,
        ),
        R::LocalPorts => (
            "local ports",
            "new connects to it fail",
            "reuse connections, or widen net.ipv4.ip_local_port_range",
            true,
            Critical,
        ),
        R::Conntrack => (
            "tracked connections",
            "the kernel drops new connections",
            "find who opens them, shorten net.netfilter.nf_conntrack_tcp_timeout_established, or \
             raise net.netfilter.nf_conntrack_max",
            true,
            Critical,
        ),
        R::DyingCgroups => (
            "removed cgroups that still hold memory",
            "the kernel spends ever more memory and time on them",
            "run `echo 1 > /proc/sys/vm/drop_caches` in a quiet hour, which frees the page cache \
             that they hold, and find out what creates so many",
            false,
            Warning,
        ),
        R::SharedMemorySegments => (
            "System V shared memory segments",
            "programs that need one fail",
            "list them with `ipcs -m`, and remove those of dead programs with `ipcrm`",
            false,
            Critical,
        ),
        R::SemaphoreSets => (
            "System V semaphore sets",
            "programs that need one fail to start",
            "list them with `ipcs -s`, and remove those of dead programs with `ipcrm`",
            false,
            Critical,
        ),
        R::MessageQueues => (
            "System V message queues",
            "programs that need one fail",
            "list them with `ipcs -q`, and remove those of dead programs with `ipcrm`",
            false,
            Critical,
        ),
        R::Keys => (
            "keys in the kernel",
            "no container or login session can be started",
            "find out what adds keys with `cat /proc/keys`, or raise kernel.keys.maxkeys",
            false,
            Critical,
        ),
        R::BpfMaps => (
            "BPF maps",
            "they take ever more memory",
            "find out what loads them with `bpftool map`",
            false,
            Warning,
        ),
        R::LoopDevices => (
            "loop devices",
            "no image can be mounted",
            "detach those that are not needed with `losetup -d`",
            false,
            Warning,
        ),
        R::Ptys => (
            "pseudo-terminals",
            "nobody can log in over SSH",
            "end the sessions that are not needed, or raise kernel.pty.max",
            true,
            Critical,
        ),
        R::SwapBytes => (
            "swap space",
            "the kernel kills processes sooner when memory is short",
            "find what grows, or add memory",
            true,
            Info,
        ),
        R::SlabBytes => (
            "memory of kernel objects",
            "the host runs out of memory",
            "look at `slabtop -s c` for what grows, and reboot in a quiet hour if it is the kernel",
            false,
            Critical,
        ),
        R::PageTableBytes => (
            "memory of page tables",
            "the host runs out of memory",
            "restart the process with the largest VmPTE in /proc/PID/status",
            false,
            Critical,
        ),
        R::VmallocBytes | R::PercpuBytes => (
            "memory of the kernel",
            "the host runs out of memory",
            "find out which driver or BPF program takes it, and reboot in a quiet hour",
            false,
            Critical,
        ),
        R::Restarts => (
            "restarts",
            "it serves nobody while it restarts",
            "read its log for why it ends",
            false,
            Warning,
        ),
        R::Other(_) => {
            ("a limited resource", "it can no longer be used", "find what uses it", true, Critical)
        }
    };
    Words { noun, end, advice, is_load, most }
}

/// Name of a resource of a subject, such as `disk space of /var`.
pub(crate) fn resource_of(resource: &CountedResource, subject: &str) -> String {
    let noun = match resource {
        CountedResource::Other(name) => name,
        known => words(known).noun,
    };
    match subject {
        "" | "host" => format!("{noun} of the host"),
        subject => format!("{noun} of {subject}"),
    }
}

/// A number of a resource, with its unit.
pub(super) fn amount(resource: &CountedResource, number: f64) -> String {
    if resource.is_bytes() {
        Size(number).to_string()
    } else {
        Count(number.max(0.0) as u64).to_string()
    }
}

/// A rate of a resource, with its unit.
pub(super) fn rate(resource: &CountedResource, per_sec: f64) -> String {
    if !resource.is_bytes() {
        return Frequency(per_sec).to_string();
    }
    // Slow growth reads better by the hour.
    if per_sec >= 10_240.0 {
        format!("{}/s", Size(per_sec))
    } else {
        format!("{}/h", Size(per_sec * 3_600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_rates_carry_their_units() {
        let (disk, zombies) = (CountedResource::DiskBytes, CountedResource::Zombies);
        assert_eq!(amount(&disk, 1_048_576.0), "1.0 MiB");
        assert_eq!(amount(&zombies, 1_024.9), "1,024");
        assert_eq!(
            (rate(&disk, 1_024.0), rate(&disk, 20_480.0)),
            ("3.5 MiB/h".into(), "20.0 KiB/s".into())
        );
        assert_eq!(rate(&zombies, 0.05), "3/min");
    }

    #[test]
    fn subjects_read_well() {
        assert_eq!(resource_of(&CountedResource::DiskBytes, "/var"), "disk space of /var");
        assert_eq!(resource_of(&CountedResource::Ptys, "host"), "pseudo-terminals of the host");
        let other = CountedResource::named("widgets");
        assert_eq!(resource_of(&other, "a"), "widgets of a");
    }
}
