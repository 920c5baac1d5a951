//! What pid 1 of a virtual machine does: mounts, modules, the checks, the end.
//!
//! No tracefs: nothing that Spillway does may need it. A step that fails is told on the console and
//! the checks that need it then fail with their own words.

use std::{ffi::CString, fs, io, os::fd::AsRawFd as _, path::Path};

use anyhow::Context as _;
pub use spillway_tests::loopback_up;

use crate::{
    checks,
    runner::{self, done},
};

/// Set for every check that runs in a virtual machine.
const GUEST: &str = "SPILLWAY_GUEST";
/// Set for every check that is to be done at its full length.
const THOROUGH: &str = "SPILLWAY_THOROUGH";
/// Set for every check where some were chosen by name.
const CHOSEN: &str = "SPILLWAY_CHOSEN";
const RESULTS: &str = "/dev/ttyS1";

/// File system, where, options. The memory of files on a ramfs counts as that of files, on a tmpfs
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

/// Whether this is a virtual machine of `cargo xtask vm`, where no sandbox stands between a check
/// and its kernel.
pub fn is_guest() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// Whether a check is to be done at its full length.
pub fn is_thorough() -> bool {
    std::env::var_os(THOROUGH).is_some()
}

/// Has every check done at its full length.
pub fn be_thorough() {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(THOROUGH, "1") };
}

/// Whether a long check is to be done wherever it can be: at full length, or chosen by name.
pub fn is_asked_for() -> bool {
    is_thorough() || std::env::var_os(CHOSEN).is_some()
}

/// Has long checks done wherever they can be.
pub fn be_asked_for() {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(CHOSEN, "1") };
}

/// The whole life of the machine.
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
        tell(
            mount(kind, place, options)
                .with_context(|| format!("{kind} is not mounted on {place}")),
        );
    }
    for controller in ["memory", "cpu"] {
        let handed_on =
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
        tell(
            handed_on
                .with_context(|| format!("the root cgroup hands no {controller} controller on")),
        );
    }
    tell(loopback_up().context("the loopback interface is down"));
    tell(load_modules());
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var(GUEST, "1") };
    let results = fs::File::options().read(true).write(true).open(RESULTS);
    let mut results = results.with_context(|| format!("{RESULTS} cannot be opened"))?;
    tell(raw(&results).with_context(|| format!("{RESULTS} is no terminal")));
    runner::run_all(&mut results, checks::all(), only);
    // What is still in the port's buffer would be lost when the power goes.
    // SAFETY: tcdrain takes a descriptor, which is open.
    unsafe { libc::tcdrain(results.as_raw_fd()) };
    Ok(())
}

fn tell(step: anyhow::Result<()>) {
    if let Err(error) = step {
        eprintln!("kernel: {error:#}");
    }
}

fn mount(kind: &str, place: &str, options: &str) -> anyhow::Result<()> {
    fs::create_dir_all(place)?;
    let (kind, place, options) =
        (CString::new(kind)?, CString::new(place)?, CString::new(options)?);
    // SAFETY: mount reads four NUL-terminated strings, which live until it returns.
    done(unsafe {
        libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    })?;
    Ok(())
}

/// Modules are named so that their order is the one in which they can be loaded.
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
    // SAFETY: finit_module reads a NUL-terminated string and a file, which both live until it
    // returns.
    let loaded =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    done(loaded as i32)?;
    Ok(())
}

/// Has the port hand bytes through as they are.
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
