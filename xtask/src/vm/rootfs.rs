//! A Debian with systemd, as a file system that the kernel unpacks into memory:
//! `~/.cache/spillway/userlands/NAME`.
//!
//! mmdebstrap creates it, as root or in a user namespace. It is kept for a week: the checks need
//! its systemd, which does not change within a stable release. If the archive cannot be reached,
//! the cached one is used, however old.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::cpio::Cpio;
use super::first_line;
use crate::child::{self, OnInterrupt};
use crate::debian_archive::{Sites, fetching};
use crate::signals::Interrupted;
use crate::{clock, workspace};

const MAKE_AGAIN: Duration = Duration::from_hours(7 * 24);

/// Packages of a host that runs services, and apt; their dependencies come with them.
const PACKAGES: &str = "apt,dbus,procps,systemd-sysv";

/// Directories left out: a machine that lives for a minute does not need them, and each boot would
/// unpack them.
const LEFT_OUT: [&str; 7] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/zoneinfo",
    "usr/share/perl",
    "var/cache",
    "var/lib/apt/lists",
];

/// Programs that systemd runs at its start and at each `daemon-reload` to make units of what they
/// find: file systems, terminals, disks. This machine has none of these, and emulated they took
/// half of the time of a check that reloads. `systemd-debug-generator`, which masks units, is kept.
const GENERATORS: [&str; 13] = [
    "systemd-cryptsetup-generator",
    "systemd-fstab-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-rc-local-generator",
    "systemd-run-generator",
    "systemd-ssh-generator",
    "systemd-system-update-generator",
    "systemd-sysv-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
];

/// Release of Debian, with its kernel.
#[derive(Debug)]
pub struct Userland {
    /// Name of the machine.
    pub name: &'static str,
    suite: &'static str,
    /// Name of its kernel in [`super::kernels::KERNELS`].
    pub kernel: &'static str,
}

/// systemd 252 and 257: the oldest and the newest supported release.
pub const USERLANDS: [Userland; 2] = [
    Userland { name: "debian12", suite: "bookworm", kernel: "6.1" },
    Userland { name: "debian13", suite: "trixie", kernel: "6.12" },
];

/// Packages of the programs that create it: mmdebstrap, and bsdtar, which converts its archive into
/// the kernel's format.
pub const USERLAND_PACKAGES: [&str; 2] = ["mmdebstrap", "libarchive-tools"];

/// Files added to the userland.
pub struct Addition<'a> {
    /// Programs, by their names in /usr/local/bin.
    pub programs: &'a [(&'a str, PathBuf)],
    /// Packages of Spillway, by their names in /packages.
    pub packages: &'a [(&'a str, PathBuf)],
    /// Command that runs once the services have started; the machine stops when it ends.
    pub command: &'a str,
}

/// Returns the archive of a userland, new or cached.
pub fn get(userland: &Userland) -> anyhow::Result<PathBuf> {
    let directory = workspace::cache_dir()?.join("userlands").join(userland.name);
    let (kept, list) = (directory.join("base.cpio"), directory.join("packages"));
    let is_usable = kept.exists() && fs::read_to_string(&list).is_ok_and(|made| made == PACKAGES);
    if is_usable && clock::age(&kept).is_some_and(|age| age < MAKE_AGAIN) {
        return Ok(kept);
    }
    match make(userland, &directory, &kept) {
        Err(error) if error.is::<Interrupted>() || !is_usable => Err(error),
        Err(error) => {
            eprintln!("vm: using the cached {}: {}", userland.name, first_line(&error));
            Ok(kept)
        }
        Ok(()) => {
            fs::write(&list, PACKAGES)
                .with_context(|| format!("{} cannot be written", list.display()))?;
            Ok(kept)
        }
    }
}

fn make(userland: &Userland, directory: &Path, kept: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("{} cannot be created", directory.display()))?;
    let (sources, tar) = (directory.join("sources.list"), directory.join("base.tar"));
    fs::write(&sources, Sites::find()?.list(userland.suite, true))
        .with_context(|| format!("{} cannot be written", sources.display()))?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=essential", &format!("--include={PACKAGES}")]);
    command.arg(format!("--mode={}", if workspace::is_root() { "root" } else { "unshare" }));
    let machine = child::output_of(Command::new("apt-config").arg("dump")).unwrap_or_default();
    command.args(fetching(&machine).map(|option| format!("--aptopt={option}")));
    command.arg(userland.suite).args([&tar, &sources]);
    let hint = "check the network and the archive; without root this needs user namespaces";
    child::quiet(&format!("create {}", userland.name), &mut command, hint, OnInterrupt::Stop)?;

    let made = directory.join("new.cpio");
    let mut command = Command::new("bsdtar");
    command
        .args(["--format=newc", "-cf"])
        .arg(&made)
        .args(LEFT_OUT.map(|path| format!("--exclude=./{path}/*")));
    command.arg(format!("@{}", tar.display()));
    let packed = child::quiet(
        &format!("pack {}", userland.name),
        &mut command,
        "check the free disk space",
        OnInterrupt::Stop,
    );
    fs::remove_file(&tar).ok();
    packed?;
    fs::rename(&made, kept).with_context(|| format!("{} cannot be created", kept.display()))
}

/// Writes the file system of a machine: the cached archive, followed by one with the added files,
/// which the kernel unpacks over it.
pub fn write(image: &Path, base: &Path, addition: &Addition<'_>) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create(image)?;
        io::copy(&mut File::open(base)?, &mut file)?;
        let mut cpio = Cpio::new(io::BufWriter::new(file));
        cpio.link("init", "usr/lib/systemd/systemd")?;
        cpio.directory("etc/systemd/system-generators")?;
        for name in GENERATORS {
            cpio.link(&format!("etc/systemd/system-generators/{name}"), "/dev/null")?;
        }
        for (name, path) in addition.programs {
            cpio.file(&format!("usr/local/bin/{name}"), &fs::read(path)?)?;
        }
        cpio.directory("packages")?;
        for (name, path) in addition.packages {
            cpio.file(&format!("packages/{name}"), &fs::read(path)?)?;
        }
        cpio.file("etc/systemd/system/checks.service", service(addition.command).as_bytes())?;
        cpio.file("etc/systemd/system/checks.target", TARGET.as_bytes())?;
        cpio.finish().map(drop)
    };
    write().with_context(|| format!("{} cannot be written", image.display()))
}

/// Returns the kernel's command line, which starts only the units that the checks need. Devices,
/// the clock and logins are not tested here, and nobody reads the progress of a start.
pub fn arguments() -> String {
    let unneeded = [
        "dev-hugepages.mount",
        "dev-mqueue.mount",
        "kmod-static-nodes.service",
        "ldconfig.service",
        "modprobe@configfs.service",
        "modprobe@drm.service",
        "modprobe@efi_pstore.service",
        "modprobe@fuse.service",
        "sys-kernel-debug.mount",
        "sys-kernel-tracing.mount",
        "systemd-journal-catalog-update.service",
        "systemd-modules-load.service",
        "systemd-random-seed.service",
        "systemd-timesyncd.service",
        "systemd-udev-trigger.service",
        "systemd-udevd.service",
        "systemd-update-utmp.service",
        "timers.target",
    ];
    let mask: String = unneeded.iter().map(|unit| format!(" systemd.mask={unit}")).collect();
    format!(
        "systemd.unit=checks.target{mask} systemd.default_timeout_start_sec=180s \
         systemd.show_status=no"
    )
}

const TARGET: &str =
    "[Unit]\nRequires=basic.target dbus.service\nWants=checks.service\nAfter=basic.target\n";

fn service(command: &str) -> String {
    format!(
        "[Unit]\nAfter=basic.target \
        dbus.service\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={command}\n\
         ExecStopPost=/usr/bin/systemctl poweroff --force \
         --force\nStandardOutput=file:/dev/ttyS1\nStandardError=file:/dev/ttyS0\n"
    )
}
