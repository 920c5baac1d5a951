//! Space and inodes of the file systems on local disks and in memory.
//!
//! A full disk stops databases, logs and the kubelet at once, and a file system without inodes does
//! so with space left. Every [`PERIOD_SECS`] one statfs a file system, as a user without privileges
//! meets its limit: the blocks that are kept for root count as neither free nor in use. The list of
//! mounts is read again only when the kernel says that it has changed. Cold start: none, the first
//! read is complete. Failure: one that cannot be read is absent; an error other than a lack of
//! permission is counted. Cost: 0.9 µs a mount and read; 80 µs for a list of 28 mounts, when it has
//! changed.
//!
//! A pass over open files names those who write, see `agent-ebpf/src/open_files.rs`. It is made
//! while a file system fills (see `filling.rs`), every [`LOOK_SECS`], and less often if it took
//! more than [`LOOK_SHARE_MAX`] of a core: 0.15 to 0.3 µs an open file, 0.9 µs one that is open for
//! writing or deleted. It has a probe and a pass of its own, because the one of
//! `process_resources.rs` is made every ten seconds, on hosts too of which no disk fills. In
//! between, and until the file system fills no longer, the culprits of the last pass are given
//! again. Their bytes are those that the kernel counts on disk, which lag behind by what it has not
//! yet written (30 s on ext4), or the length of the file where it keeps none in the inode (xfs,
//! overlay); a sparse file then looks larger than it is. Without BPF there are no culprits:
//! `/proc/PID/fd` takes three system calls a file.
//!
//! Seen are the mounts of the agent's own mount namespace. In a container these are its volumes:
//! with `configs/kubernetes/` the directories `/var/lib/spillway` and `/var/log` of the host, hence
//! the disks that these are on, by the paths in the container; another disk of the host (such as
//! one for `/var/lib/containerd`) and the host's tmpfs are not seen there. `/proc/1/root` would
//! show them, but takes CAP_SYS_PTRACE, which the agent does not have. Under `ProtectHome=` of the
//! systemd unit `/home` is covered, and not seen if it is a file system of its own. Not seen
//! anywhere are quotas of users and projects, thin pools that are fuller than the file systems on
//! them, and mounts below an automount point.

mod filling;
mod mounts;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::fd::AsFd as _,
    sync::Arc,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{AtFlags, CWD, StatVfs, StatxFlags, statvfs, statx},
    io::Errno,
};

use self::{filling::Filling, mounts::Mount};
use super::{
    CountFact, CountUser, CountedResource, Fact, Loss,
    open_files::Writers,
    pace::{ReadPeriod, SLACK_SECS},
    printable::printable_path,
    sensor::{Observations, Schedule, Sensor},
};
use crate::bpf::{Fallback, FallbackChain, Hook, Loader, Need, Probe, btf_offsets::members};

/// Time between two reads.
const PERIOD_SECS: f64 = 10.0;

/// List of mounts of the agent's mount namespace.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Bytes of that list that are read: some 10,000 mounts.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;

/// Shortest time between two looks for those who write, and the share of a core that these may
/// take: the next one waits longer if there are many open files.
const LOOK_SECS: f64 = 30.0;
const LOOK_SHARE_MAX: f64 = 0.000_3;

/// Reads how full the file systems are.
pub struct FileSystemSensor {
    list: File,
    file_systems: Vec<FileSystem>,
    is_listed: bool,
    period: ReadPeriod,
    writers: Option<Writers>,
    next_look: f64,
}

/// A file system, its name for people, and those who fill it.
struct FileSystem {
    mount: Mount,
    subject: Arc<str>,
    filling: Option<Filling>,
    culprits: Vec<CountUser>,
}

impl FileSystemSensor {
    /// `iter/task_file`, for open files.
    pub const OPEN_FILE_ITER: Hook = Hook::new("open_file_iter");

    /// Sources of open files.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::OpenFiles,
        fallbacks: &[Fallback::bpf(
            Self::OPEN_FILE_ITER,
            "iter/task_file",
            &[Need::Iterator("task_file")],
        )
        .reading(&[
            members::TASK_TGID,
            members::FILE_INODE,
            members::FILE_MODE,
            members::FILE_DENTRY,
            members::DENTRY_NAME,
            members::INODE_MODE,
            members::INODE_NUMBER,
            members::INODE_LINKS,
            members::INODE_SIZE,
            members::INODE_BLOCKS,
            members::INODE_SUPER,
            members::SUPER_DEVICE,
        ])],
    };

    /// Attaches the iterator, and opens the list of mounts; `None` if there is none to read.
    pub fn start(bpf: &mut Loader) -> Option<Self> {
        let iter =
            bpf.attach(&Self::PROBE, |context, _| context.iter("list_open_files", "task_file"));
        Some(Self {
            list: File::open(MOUNTS).ok()?,
            file_systems: Vec::new(),
            is_listed: false,
            period: ReadPeriod::every(PERIOD_SECS),
            writers: iter.map(Writers::new),
            next_look: f64::NEG_INFINITY,
        })
    }

    /// Reads the list of mounts if it has changed.
    fn list(&mut self) -> io::Result<()> {
        // The kernel reports a change once, so ask before the list is read.
        let mut poll_list = [PollFd::new(self.list.as_fd(), PollFlags::POLLPRI)];
        let has_changed = poll(&mut poll_list, PollTimeout::ZERO)? != 0;
        if self.is_listed && !has_changed {
            return Ok(());
        }
        self.is_listed = false;
        let mut text = Vec::new();
        self.list.rewind()?;
        (&self.list).take(MOUNTS_BYTES_MAX).read_to_end(&mut text)?;
        let mut known: HashMap<_, _> = self
            .file_systems
            .drain(..)
            .map(|one| ((one.mount.device, one.mount.point.clone()), one))
            .collect();
        self.file_systems = mounts::counted(&String::from_utf8_lossy(&text), is_on_top)
            .into_iter()
            .map(|mount| match known.remove(&(mount.device, mount.point.clone())) {
                Some(one) => FileSystem { mount, ..one },
                None => FileSystem::new(mount),
            })
            .collect();
        self.is_listed = true;
        Ok(())
    }
}

impl Sensor for FileSystemSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::CountReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        if !self.period.is_due(now) {
            return Ok(());
        }
        self.list()?;
        let (mut failed, mut usages, mut filling) = (None, Vec::new(), Vec::new());
        for (number, file_system) in self.file_systems.iter_mut().enumerate() {
            // By path, because an open descriptor would keep it from being unmounted.
            match statvfs(&file_system.mount.point) {
                Ok(usage) => {
                    if let Some(fact) = bytes(file_system, &usage) {
                        if file_system.fills(&fact, now) {
                            filling.push(number);
                        }
                        usages.push((number, fact));
                    }
                    if let Some(fact) = inodes(file_system, &usage) {
                        out.push(Fact::Count(fact));
                    }
                }
                // It was unmounted since, or lies below a directory of another user.
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => {}
                Err(error) => failed = Some(io::Error::from(error)),
            }
        }
        if let Err(error) = self.look(&filling, now, out) {
            failed = Some(error);
        }
        for (number, mut fact) in usages {
            fact.culprits.clone_from(&self.file_systems[number].culprits);
            out.push(Fact::Count(fact));
        }
        failed.map_or(Ok(()), Err)
    }
}

impl FileSystemSensor {
    /// Looks for those who write to the file systems that fill, if it is time. What is known of
    /// them stays until then.
    fn look(&mut self, filling: &[usize], now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let Some(writers) = self.writers.as_mut().filter(|_| !filling.is_empty()) else {
            return Ok(());
        };
        if now + SLACK_SECS < self.next_look {
            return Ok(());
        }
        self.next_look = now + LOOK_SECS;
        let mut devices = HashMap::new();
        for &number in filling {
            let Some(file_system) = self.file_systems.get(number) else { continue };
            let mount = &file_system.mount;
            devices.insert(mount.device, (number, false));
            devices.extend(mount.overlays.iter().map(|device| (*device, (number, true))));
        }
        let (mut found, took_secs) = writers.list(&devices, out.split().0)?;
        self.next_look = now + LOOK_SECS.max(took_secs / LOOK_SHARE_MAX);
        for &number in filling {
            if let Some(file_system) = self.file_systems.get_mut(number) {
                file_system.culprits = found.remove(&number).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl FileSystem {
    fn new(mount: Mount) -> Self {
        let subject = printable_path(&mount.point);
        Self { mount, subject, filling: None, culprits: Vec::new() }
    }

    /// Takes a reading; returns whether it fills. Culprits of one that does not are forgotten.
    fn fills(&mut self, fact: &CountFact, now: f64) -> bool {
        let filling = self.filling.get_or_insert_with(|| Filling::new(fact.used, now));
        let fills = filling.fills(fact.used, fact.limit.unwrap_or(u64::MAX), now);
        if !fills {
            self.culprits.clear();
        }
        fills
    }
}

/// Returns whether the mount point leads to this mount, and not to one that covers it.
fn is_on_top(mount: &Mount) -> bool {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::MNT_ID;
    // Kernels before 5.8 do not say; those of one device are then told apart by nothing.
    statx(CWD, &mount.point, flags, mask)
        .is_ok_and(|found| found.stx_mask & mask.bits() == 0 || found.stx_mnt_id == mount.id)
}

/// Returns the space of a file system; `None` for a tmpfs without a size.
fn bytes(file_system: &FileSystem, usage: &StatVfs) -> Option<CountFact> {
    let [used, limit] = used_and_limit(usage.f_blocks, usage.f_bfree, usage.f_bavail)?;
    let resource = match file_system.mount.is_memory {
        true => CountedResource::TmpfsBytes,
        false => CountedResource::DiskBytes,
    };
    Some(CountFact {
        resource,
        subject: file_system.subject.clone(),
        used: used.checked_mul(usage.f_frsize)?,
        limit: Some(limit.checked_mul(usage.f_frsize)?),
        culprits: Vec::new(),
    })
}

/// Returns the inodes of a file system; `None` for one that has as many as there is space, such as
/// btrfs.
fn inodes(file_system: &FileSystem, usage: &StatVfs) -> Option<CountFact> {
    let [used, limit] = used_and_limit(usage.f_files, usage.f_ffree, usage.f_favail)?;
    Some(CountFact {
        resource: CountedResource::DiskInodes,
        subject: file_system.subject.clone(),
        used,
        limit: Some(limit),
        culprits: Vec::new(),
    })
}

/// Returns how many are in use, and at how many a user without privileges finds none; `None` if
/// they are not limited, or the numbers contradict each other.
fn used_and_limit(all: u64, free: u64, available: u64) -> Option<[u64; 2]> {
    if all == 0 {
        return None;
    }
    // Btrfs may have more available than free, for a moment.
    let reserved = free.saturating_sub(available);
    Some([all.checked_sub(free)?, all.checked_sub(reserved)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_root_are_neither_free_nor_in_use() {
        assert_eq!(used_and_limit(100, 40, 35), Some([60, 95]));
        assert_eq!(used_and_limit(100, 5, 0), Some([95, 95]));
        assert_eq!(used_and_limit(100, 40, 45), Some([60, 100]));
        assert_eq!(used_and_limit(0, 0, 0), None);
        assert_eq!(used_and_limit(10, 11, 11), None);
        assert_eq!(used_and_limit(u64::MAX, u64::MAX, 0), Some([0, 0]));
    }
}
