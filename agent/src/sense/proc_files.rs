//! Files of `/proc` that contain names, read as bytes.
//!
//! A process chooses its name, its cgroup's and its mounts' from any bytes. A reader that expects
//! UTF-8 fails on such a name, and then does not see the process, or any mount: a way to hide. So
//! these files are read here, not by the crate procfs.

use std::{fs, io, sync::Arc};

use procfs::process::MountInfo;

use super::printable::printable;
use crate::os::capabilities::{self, Capability};

/// Reads the name of a process, made printable; `None` if the process has ended.
pub fn comm_of(pid: u32) -> Option<Arc<str>> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(printable(comm.strip_suffix(b"\n").unwrap_or(&comm)))
}

/// Returns whether the agent is root but lacks CAP_SYS_PTRACE, without which files, namespaces and
/// programs of other users' processes are hidden. Another user expects no more, and some sandboxes
/// hide their pid 1 even from root with every capability.
pub fn is_root_without_ptrace() -> bool {
    nix::unistd::geteuid().is_root()
        && capabilities::has(Capability::SysPtrace).is_ok_and(|has| !has)
}

/// Fields of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name, made printable.
    pub comm: Arc<str>,
    /// Parent's pid.
    pub ppid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Threads.
    pub threads: u64,
    /// Processor time that all its threads took, in clock ticks.
    pub ran_ticks: u64,
    /// Set if it has memory of its own, unlike a kernel thread.
    pub has_memory: bool,
}

/// Reads [`Stat`] of a process; `None` if the process has ended.
pub fn stat_of(pid: u32) -> Option<Stat> {
    stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `/proc/PID/stat`. A name may contain parentheses and blanks, so it ends at the last
/// parenthesis.
pub fn stat(text: &[u8]) -> Option<Stat> {
    let start = text.iter().position(|&byte| byte == b'(')? + 1;
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let comm = printable(text.get(start..end)?);
    // The first field after the name is the third.
    let fields: Vec<&str> =
        str::from_utf8(&text[end + 1..]).ok()?.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let has_memory = number(23)? != 0 || number(24)? != 0;
    Some(Stat {
        comm,
        ppid: u32::try_from(number(4)?).ok()?,
        threads: number(20)?,
        start_ticks: number(22)?,
        ran_ticks: number(14)?.saturating_add(number(15)?),
        has_memory,
    })
}

/// Memory of a process from `/proc/PID/status`, in bytes. A missing value is zero, or `None` for
/// data and stack and for the peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident anonymous memory.
    pub anon_bytes: u64,
    /// Resident file mappings.
    pub file_bytes: u64,
    /// Resident shared memory.
    pub shmem_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
    /// Private writable mappings, the stack included.
    pub data_bytes: Option<u64>,
    /// Highest resident memory so far.
    pub peak_rss_bytes: Option<u64>,
}

/// Reads the [`Memory`] of a process; `None` if the process has ended.
pub fn memory_of(pid: u32) -> Option<Memory> {
    Some(memory(&fs::read(format!("/proc/{pid}/status")).ok()?))
}

/// Parses the lines of `/proc/PID/status` that [`Memory`] needs. Its first line is the process's
/// name, in which the kernel escapes line breaks.
pub fn memory(text: &[u8]) -> Memory {
    let bytes = |key: &str| {
        let line =
            text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes()));
        let number = str::from_utf8(line?)
            .ok()?
            .trim()
            .strip_suffix("kB")?
            .trim_end()
            .parse::<u64>()
            .ok()?;
        number.checked_mul(1024)
    };
    Memory {
        anon_bytes: bytes("RssAnon:").unwrap_or(0),
        file_bytes: bytes("RssFile:").unwrap_or(0),
        shmem_bytes: bytes("RssShmem:").unwrap_or(0),
        swap_bytes: bytes("VmSwap:").unwrap_or(0),
        // Two parts of what `statm` calls `data`, which would be one more file to read.
        data_bytes: bytes("VmData:")
            .zip(bytes("VmStk:"))
            .and_then(|(data, stack)| data.checked_add(stack)),
        peak_rss_bytes: bytes("VmHWM:"),
    }
}

/// Reads the path of a process's cgroup in one hierarchy, in the kernel's bytes.
pub fn cgroup_of(pid: u32, is_ours: impl Fn(&[u8], &[u8]) -> bool) -> Option<Vec<u8>> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup_in(&text, is_ours).map(<[u8]>::to_vec)
}

/// Returns the path in the first line of `/proc/PID/cgroup` whose hierarchy number and controllers
/// are wanted. A path may contain colons.
pub fn cgroup_in(text: &[u8], is_ours: impl Fn(&[u8], &[u8]) -> bool) -> Option<&[u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        (is_ours(number, controllers) && path.first() == Some(&b'/')).then_some(path)
    })
}

/// Reads the mounts that this process sees. One that cannot be parsed is left out: users choose the
/// names of their mounts, such as those of FUSE.
///
/// # Errors
///
/// Returns an error if there is no `/proc`.
pub fn mounts() -> io::Result<Vec<MountInfo>> {
    Ok(mounts_in(&fs::read("/proc/self/mountinfo")?))
}

/// Parses the mounts in `/proc/PID/mountinfo`.
pub fn mounts_in(text: &[u8]) -> Vec<MountInfo> {
    let lines = text.split(|&byte| byte == b'\n').map(String::from_utf8_lossy);
    lines.filter_map(|line| MountInfo::from_line(&line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_hides_a_process() {
        let rest = b" S 7 1 1 0 -1 4194304 100 0 0 0 1 1 0 0 20 0 3 0 4711 8192000 300 \
            18446744073709551615";
        for (name, shown) in [
            (&b"api"[..], "api"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"a) R 1 (b", "a) R 1 (b"),
            (b"\x1b]0;pwned\x07", "\\x1b]0;pwned\\x07"),
            (b"", ""),
        ] {
            let text = [b"812 (", name, b")", rest].concat();
            let expected = Stat {
                comm: Arc::from(shown),
                ppid: 7,
                start_ticks: 4_711,
                ran_ticks: 2,
                threads: 3,
                has_memory: true,
            };
            assert_eq!(stat(&text), Some(expected));
        }
        for text in [&b""[..], b"1 (a", b"1 (a)", b")(", b"1 (a) S 1 2"] {
            assert_eq!(stat(text), None);
        }
        let read = memory(
            b"Name:\t\xff\nVmHWM:\t 20 kB\nRssAnon:\t    8 kB\nRssFile:\t 4 kB\nVmData:\t 12 kB\n\
            VmStk:\t 132 kB\n",
        );
        let expected = Memory {
            anon_bytes: 8_192,
            file_bytes: 4_096,
            data_bytes: Some(144 << 10),
            peak_rss_bytes: Some(20 << 10),
            ..Memory::default()
        };
        assert_eq!(read, expected);
        assert_eq!(memory(b"RssAnon:\t 18446744073709551615 kB\nVmData: 1"), Memory::default());
    }

    #[test]
    fn own_process_is_read_as_by_procfs() {
        let process = procfs::process::Process::myself().unwrap();
        let (theirs, ours) = (process.stat().unwrap(), stat_of(std::process::id()).unwrap());
        assert_eq!((&*ours.comm, u64::from(ours.ppid)), (theirs.comm.as_str(), theirs.ppid as u64));
        assert_eq!((ours.start_ticks, ours.has_memory), (theirs.starttime, true));
        assert!(memory_of(std::process::id()).unwrap().anon_bytes > 0);
        assert_eq!(mounts().unwrap().len(), process.mountinfo().unwrap().into_iter().count());
    }

    #[test]
    fn cgroup_path_may_contain_any_byte_but_a_line_break() {
        let text = b"13:memory,x:/v1/a:b\n1:name=systemd:/x\n0::/v2/\x1b\xff:\n";
        assert_eq!(cgroup_in(text, |number, _| number == b"0"), Some(&b"/v2/\x1b\xff:"[..]));
        let is_memory = |_: &[u8], controllers: &[u8]| {
            controllers.split(|&byte| byte == b',').any(|it| it == b"memory")
        };
        assert_eq!(cgroup_in(text, is_memory), Some(&b"/v1/a:b"[..]));
        for text in [&b""[..], b"0:", b"0::", b"0::a", b"1:a:/b"] {
            assert_eq!(cgroup_in(text, |number, _| number == b"0"), None);
        }
    }

    #[test]
    fn oddly_named_mount_hides_no_other() {
        let fuse = b"90 1 0:50 / /home/u/\xff\\040x rw,nosuid - fuse.sshfs \xff rw,user_id=1000\n";
        let cgroup =
            b"31 24 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,memory_recursiveprot\n";
        let mounts = mounts_in(&[&fuse[..], b"nonsense\n", cgroup].concat());
        assert_eq!(
            mounts.iter().map(|mount| mount.fs_type.as_str()).collect::<Vec<_>>(),
            ["fuse.sshfs", "cgroup2"]
        );
    }
}
