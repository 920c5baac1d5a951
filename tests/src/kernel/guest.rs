//! Tasks of pid 1 in a virtual machine: mounts, modules, the checks, power-off.
//!
//! No tracefs, because Spillway must not need it. A step that fails is reported on the console; the
//! checks that need it then fail with their own messages.

use std::{ffi::CString, fs, io, os::fd::AsRawFd as _, path::Path};

use anyhow::Context as _;
pub use spillway_tests::loopback_up;

use crate::{
    checks,
    runner::{self, done},
};

/// Set for each check that runs in a virtual machine.
const GUEST: &str = "SPILLWAY_GUEST";
/// Set for each check that runs at full length.
const THOROUGH: &str = "SPILLWAY_THOROUGH";
/// Set for each check if some were chosen by name.
const CHOSEN: &str = "SPILLWAY_CHOSEN";
/// Name of the machine in `cargo xtask vm`, set for each check.
const MACHINE: &str = "SPILLWAY_MACHINE";
const RESULTS: &str = "/dev/ttyS1";

/// File system, mount point, options. Memory of files on a ramfs counts as file memory, on a tmpfs
/// as shared.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("ramfs", "/var/tmp", ""),
];

/// Returns whether this is a virtual machine of `cargo xtask vm`, in which no sandbox restricts a
/// check.
pub fn is_guest() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// Returns whether checks run at full length.
pub fn is_thorough() -> bool {
    std::env::var_os(THOROUGH).is_some()
}

/// Makes all checks run at full length.
pub fn be_thorough() {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(THOROUGH, "1") };
}

/// Returns whether long checks run wherever they can: at full length, or chosen by name.
pub fn is_asked_for() -> bool {
    is_thorough() || std::env::var_os(CHOSEN).is_some()
}

/// Makes long checks run wherever they can.
pub fn be_asked_for() {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(CHOSEN, "1") };
}

/// Returns the name of this machine in `cargo xtask vm`; `None` if it has none.
pub fn machine() -> Option<String> {
    std::env::var(MACHINE).ok()
}

/// Tells all checks the name of this machine.
pub fn be_called(machine: &str) {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(MACHINE, machine) };
}

/// Runs the machine from boot to power-off.
pub fn live_and_die(only: Option<&str>) -> ! {
    if let Err(error) = live(only) {
        eprintln!("kernel: {error:#}");
    }
    // SAFETY: neither call touches memory of ours; nothing is mounted that could lose data.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    loop {
        std::thread::park();
    }
}

fn live(only: Option<&str>) -> anyhow::Result<()> {
    for (kind, place, options) in MOUNTS {
        report(
            mount(kind, place, options)
                .with_context(|| format!("{kind} is not mounted on {place}")),
        );
    }
    for controller in ["memory", "cpu"] {
        let handed_on =
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
        report(handed_on.with_context(|| {
            format!("cannot enable the {controller} controller in the root cgroup")
        }));
    }
    report(loopback_up().context("the loopback interface is down"));
    report(load_modules());
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(GUEST, "1") };
    let results = fs::File::options().read(true).write(true).open(RESULTS);
    let mut results = results.with_context(|| format!("cannot open {RESULTS}"))?;
    report(raw(&results).with_context(|| format!("{RESULTS} is not a terminal")));
    runner::run_all(&mut results, checks::all(), only);
    // What is still in the port's buffer would be lost when the power goes.
    // SAFETY: tcdrain takes a descriptor, which is open.
    unsafe { libc::tcdrain(results.as_raw_fd()) };
    Ok(())
}

fn report(step: anyhow::Result<()>) {
    if let Err(error) = step {
        eprintln!("kernel: {error:#}");
    }
}

/// Mounts a file system without a device, at a directory that it makes.
pub fn mount(kind: &str, place: &str, options: &str) -> anyhow::Result<()> {
    fs::create_dir_all(place)?;
    let (kind, place, options) =
        (CString::new(kind)?, CString::new(place)?, CString::new(options)?);
    // SAFETY: mount reads four NUL-terminated strings, which live until it returns.
    done(unsafe {
        libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    })?;
    Ok(())
}

/// Loads the modules, whose names sort in the order of their dependencies.
fn load_modules() -> anyhow::Result<()> {
    let mut modules: Vec<_> = match fs::read_dir("/modules") {
        Ok(entries) => {
            entries.collect::<Result<Vec<_>, _>>()?.iter().map(fs::DirEntry::path).collect()
        }
        Err(_) => return Ok(()),
    };
    modules.sort();
    for module in modules {
        load_module(&module).with_context(|| format!("{} is not loaded", module.display()))?;
    }
    Ok(())
}

fn load_module(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(path)?;
    let fd = file.as_raw_fd();
    // SAFETY: finit_module reads a NUL-terminated string and a file, which both live until it
    // returns.
    let status = unsafe { libc::syscall(libc::SYS_finit_module, fd, c"".as_ptr(), 0) };
    done(status as i32)?;
    Ok(())
}

/// Sets the port to pass bytes through unchanged.
fn raw(port: &fs::File) -> io::Result<()> {
    // SAFETY: termios is plain data, for which all zeroes is a valid value.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the calls read and write one termios, which lives here, and the descriptor is open.
    unsafe {
        done(libc::tcgetattr(port.as_raw_fd(), &raw mut settings))?;
        libc::cfmakeraw(&raw mut settings);
        done(libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &raw const settings))?;
    }
    Ok(())
}
