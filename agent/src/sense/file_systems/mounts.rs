//! The file systems that are counted, from the text of `/proc/self/mountinfo`.

use std::{
    collections::HashSet,
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// Mounts that are considered; those beyond are left out.
const MOUNTS_MAX: usize = 10_000;

/// Types of file systems on local disks: the kernel answers statfs from memory. Left out are those
/// that are read-only by nature and hence full (squashfs, iso9660, erofs), and all that ask a
/// server or another process, which may never answer (NFS, CIFS, Ceph, 9p, FUSE). A list of those
/// that are allowed, because a new type that blocks would stop the agent, and one that is missing
/// here is merely not seen. `vfat` is among them: a full EFI partition breaks updates of the
/// kernel.
const ON_DISK: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "nilfs2", "ubifs",
    "vfat", "exfat", "ntfs3",
];

/// Types that a path may lead through, because the kernel answers alone. An automount point is none
/// of them: a look at it mounts something. `overlay` is the root directory of containers.
const PASSABLE: &[&str] = &[
    "tmpfs",
    "ramfs",
    "rootfs",
    "devtmpfs",
    "devpts",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "overlay",
    "squashfs",
    "erofs",
    "iso9660",
    "securityfs",
    "debugfs",
    "tracefs",
    "configfs",
    "bpf",
    "mqueue",
    "hugetlbfs",
    "pstore",
    "efivarfs",
    "nsfs",
];

/// A file system that is counted, and the place where it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Number of the mount in this namespace.
    pub(super) id: u64,
    /// Device, as the kernel writes it: the major number times 2^20, and the minor number.
    pub(super) device: u32,
    /// Mount point.
    pub(super) point: PathBuf,
    /// Set if it is a tmpfs.
    pub(super) is_memory: bool,
    /// Devices of the overlays whose upper directory is on it: files of containers.
    pub(super) overlays: Vec<u32>,
}

/// A line of `mountinfo`.
struct Line<'a> {
    id: u64,
    device: u32,
    root: &'a str,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

/// Returns one mount for each file system that is counted: of several that `is_on_top` of its mount
/// point, the one that shows its root directory, and then the one with the shortest path. In a
/// container none shows the root of the host's disk, and any other does as well, because statfs
/// gives the numbers of the whole.
pub(super) fn counted(text: &str, is_on_top: impl Fn(&Mount) -> bool) -> Vec<Mount> {
    let lines: Vec<Line<'_>> = text.lines().take(MOUNTS_MAX).filter_map(parse).collect();
    let blocked: HashSet<&Path> = lines
        .iter()
        .filter(|line| !ON_DISK.contains(&line.kind) && !PASSABLE.contains(&line.kind))
        .map(|line| line.point.as_path())
        .collect();
    let mut candidates: Vec<&Line<'_>> = lines
        .iter()
        .filter(|line| line.kind == "tmpfs" || ON_DISK.contains(&line.kind))
        .filter(|line| !line.options.split(',').any(|option| option == "ro"))
        // The kernel's trees are no disk: the tmpfs at /sys/fs/cgroup only has mount points.
        .filter(|line| line.kind != "tmpfs" || !line.point.starts_with("/sys"))
        .filter(|line| !line.point.ancestors().any(|path| blocked.contains(path)))
        .collect();
    candidates.sort_by_key(|line| (line.root != "/", line.point.as_os_str().len()));
    let mut seen = HashSet::new();
    let mut mounts = Vec::new();
    for line in candidates {
        let mount = Mount {
            id: line.id,
            device: line.device,
            point: line.point.clone(),
            is_memory: line.kind == "tmpfs",
            overlays: Vec::new(),
        };
        if !seen.contains(&line.device) && is_on_top(&mount) {
            seen.insert(line.device);
            mounts.push(mount);
        }
    }
    mounts.sort_by(|a, b| a.point.cmp(&b.point));
    for line in lines.iter().filter(|line| line.kind == "overlay") {
        add_overlay(&mut mounts, line);
    }
    mounts
}

/// Adds an overlay to the file system that has its upper directory: the one that is mounted
/// closest above it.
fn add_overlay(mounts: &mut [Mount], line: &Line<'_>) {
    let upper = line.options.split(',').find_map(|option| option.strip_prefix("upperdir="));
    let Some(upper) = upper.map(unescaped) else { return };
    let above = mounts.iter_mut().filter(|mount| upper.starts_with(&mount.point));
    if let Some(mount) = above.max_by_key(|mount| mount.point.as_os_str().len()) {
        mount.overlays.push(line.device);
    }
}

/// Parses a line; `None` if it is malformed.
fn parse(line: &str) -> Option<Line<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let id = fields.next()?.parse().ok()?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let root = fields.next()?;
    let point = unescaped(fields.next()?);
    let mut fields = file_system.split(' ');
    let kind = fields.next()?;
    // The options of the file system follow its source. Those of the mount, before, are read-only
    // for all that the agent's unit may not write to.
    let options = fields.nth(1)?;
    let device = (major.checked_mul(1 << 20)?).checked_add(minor)?;
    Some(Line { id, device, root, point, kind, options })
}

/// Replaces the octal escapes of the kernel, such as `\040` for a space.
fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| bytes[at] == b'\\') {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str) -> Vec<String> {
        counted(text, |_| true).iter().map(|mount| mount.point.display().to_string()).collect()
    }

    #[test]
    fn each_device_is_counted_once_at_its_root() {
        let text = "20 1 8:1 /srv /a rw - ext4 /dev/sda1 rw\n\
            21 1 8:1 / /longer ro,relatime shared:7 master:2 - ext4 x rw,errors=remount-ro\n\
            22 1 8:1 / /longest rw - ext4 /dev/sda1 rw\n\
            23 1 0:30 /@home /home rw - btrfs /dev/sdb rw,subvol=/@home\n\
            24 1 0:31 / /run\\040x rw - tmpfs tmpfs rw,size=4k\n";
        let mounts = counted(text, |_| true);
        assert_eq!(points(text), ["/home", "/longer", "/run x"]);
        let covered = counted(text, |mount| mount.id != 21);
        assert_eq!(covered[1].point, Path::new("/longest"));
        assert_eq!(mounts[1].device, (8 << 20) + 1);
        assert_eq!(
            mounts.iter().map(|one| one.is_memory).collect::<Vec<_>>(),
            [false, false, true]
        );
    }

    #[test]
    fn full_by_nature_pseudo_and_remote_ones_are_left_out() {
        let text = "20 1 7:1 / /snap rw - squashfs /dev/loop1 ro\n\
            21 1 8:1 / /ro rw - ext4 /dev/sda1 ro,relatime\n\
            22 1 0:5 / /proc rw - proc proc rw\n\
            29 1 0:6 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            23 1 0:40 / /net rw - nfs4 host:/ rw\n\
            24 23 8:2 / /net/disk rw - ext4 /dev/sda2 rw\n\
            25 1 0:41 / /auto rw - autofs systemd-1 rw\n\
            26 25 8:3 / /auto rw - vfat /dev/sda3 rw\n\
            27 1 0:42 / /fuse rw - fuse.sshfs x rw\n\
            28 1 8:4 / /network rw - xfs /dev/sda4 rw\n";
        assert_eq!(points(text), ["/network"]);
    }

    #[test]
    fn overlay_belongs_to_the_disk_of_its_upper_directory() {
        let text = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            21 20 8:2 / /var rw - xfs /dev/sda2 rw\n\
            22 21 0:50 / /var/x rw - overlay overlay rw,lowerdir=/l,upperdir=/var/up,workdir=/w\n\
            23 21 0:51 / /ro rw - overlay overlay rw,lowerdir=/l\n\
            24 21 0:52 / /z rw - overlay overlay rw,upperdir=/various,workdir=/w\n";
        let overlays: Vec<_> =
            counted(text, |_| true).into_iter().map(|mount| mount.overlays).collect();
        assert_eq!(overlays, [vec![52], vec![50]]);
    }

    #[test]
    fn malformed_lines_are_left_out_and_odd_names_kept() {
        for line in [
            "",
            " - ",
            "20 1 8:1 / /a rw",
            "20 1 8:1 / - ext4 x rw",
            "20 1 8 / /a rw - ext4 x rw",
            "20 1 4294967295:1 / /a rw - ext4 x rw",
            "-1 1 8:1 / /a rw - ext4 x rw",
            "20 1 8:1 / /a rw - ext4",
        ] {
            assert_eq!(points(line), [""; 0], "{line:?}");
        }
        assert_eq!(points("20 1 8:1 / /a\\134\\0 rw - ext4 x rw"), ["/a\\\\0"]);
        let many: String =
            (0..MOUNTS_MAX + 5).map(|n| format!("{n} 1 8:{n} / /{n} rw - ext4 x rw\n")).collect();
        assert_eq!(counted(&many, |_| true).len(), MOUNTS_MAX);
    }
}
