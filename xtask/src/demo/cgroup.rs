//! A cgroup with a hard limit for one watched process: the demo's leak, or a program of the corpus.
//!
//! Root creates it directly under the memory hierarchy's root (v1 or v2). A user gets a systemd
//! scope, or none at all, which the demo reports. It is removed on drop, with all processes in it.
//! Runs that were killed may have left cgroups behind: those whose owner is dead are removed first.
//! Other cgroups are never touched.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use crate::child;
use crate::workspace::is_root;

const PREFIX: &str = "spillway-demo-leak";
/// Name prefixes of all cgroups that these commands create; the names end with the creator's pid.
const PREFIXES: [&str; 3] = [PREFIX, "spillway-corpus-", "spillway-drain-"];

/// Cgroup of the watched process.
#[derive(Debug)]
pub enum LeakCgroup {
    /// Cgroup created here.
    Made(PathBuf),
    /// Scope that systemd creates.
    Scope { user: bool, limit: u64, unit: String },
    /// The cgroup of this process, for this reason.
    Shared(String),
}

impl LeakCgroup {
    /// Creates the best cgroup that this machine and user allow.
    pub fn make(limit_bytes: u64) -> anyhow::Result<Self> {
        Self::make_named(PREFIX, limit_bytes)
    }

    /// Creates it under a name, which begins with one of the [`PREFIXES`], so that a later run can
    /// remove it if it is stale.
    pub fn make_named(name: &str, limit_bytes: u64) -> anyhow::Result<Self> {
        let unit = format!("{name}-{}", std::process::id());
        if is_root()
            && let Some(memory) = Hierarchy::find()
        {
            return memory.make(&unit, limit_bytes).map(Self::Made);
        }
        let user = !is_root();
        let mut probe = Command::new("systemd-run");
        probe.args(user.then_some("--user")).args(["--scope", "--quiet", "--collect", "true"]);
        if child::output_of(&mut probe).is_some() {
            return Ok(Self::Scope { user, limit: limit_bytes, unit });
        }
        let reason = if user { "not root" } else { "no memory hierarchy for it" };
        Ok(Self::Shared(format!("{reason}, and systemd-run cannot create a scope")))
    }

    /// Returns a command that runs `program` in the cgroup.
    pub fn command(&self, program: &Path) -> anyhow::Result<Command> {
        match self {
            Self::Made(path) => {
                let mut command = Command::new(program);
                let procs = path.join("cgroup.procs");
                let file = File::options().write(true).open(&procs);
                let file = file.with_context(|| format!("{} cannot be opened", procs.display()))?;
                let enter = move || {
                    // SAFETY: write is async-signal-safe; the buffer is a literal, and the file
                    // lives in this closure.
                    let written = unsafe { libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1) };
                    if written == 1 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
                };
                // SAFETY: between fork and exec the closure makes one async-signal-safe call and
                // does not allocate.
                unsafe { command.pre_exec(enter) };
                Ok(command)
            }
            Self::Scope { user, limit, unit } => {
                let mut command = Command::new("systemd-run");
                command.args(user.then_some("--user")).args(["--scope", "--quiet", "--collect"]);
                command.arg(format!("--unit={unit}")).arg(format!("--property=MemoryMax={limit}"));
                command.arg("--").arg(program);
                Ok(command)
            }
            Self::Shared(_) => Ok(Command::new(program)),
        }
    }

    /// Describes the cgroup for the screen.
    pub fn describe(&self) -> String {
        match self {
            Self::Made(path) => format!("its own cgroup {}", path.display()),
            Self::Scope { .. } => "its own systemd scope".into(),
            Self::Shared(why) => {
                format!("no cgroup of its own ({why}), so the forecast uses the host's memory")
            }
        }
    }

    /// Returns the directory that must not exist at the end, if one was created here.
    pub fn path(&self) -> Option<&Path> {
        if let Self::Made(path) = self { Some(path) } else { None }
    }
}

impl Drop for LeakCgroup {
    fn drop(&mut self) {
        if let Self::Made(path) = self {
            remove(path);
        }
    }
}

/// Mounted memory controller.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    limit_file: &'static str,
}

impl Hierarchy {
    fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        Self::in_mounts(&mounts, |path| fs::read_to_string(path).unwrap_or_default())
    }

    /// Finds the v1 controller if it is mounted, because v2 cannot have it then; otherwise v2, if
    /// its root delegates memory to children.
    fn in_mounts(mounts: &str, read: impl Fn(&Path) -> String) -> Option<Self> {
        let fields = || {
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|f| f.len() > 3)
        };
        let v1 =
            fields().find(|f| f[2] == "cgroup" && f[3].split(',').any(|option| option == "memory"));
        if let Some(mount) = v1 {
            return Some(Self { root: mount[1].into(), limit_file: "memory.limit_in_bytes" });
        }
        let root = fields().find(|f| f[2] == "cgroup2").map(|f| PathBuf::from(f[1]))?;
        let delegated = read(&root.join("cgroup.subtree_control"));
        let memory = delegated.split_whitespace().any(|controller| controller == "memory");
        memory.then_some(Self { root, limit_file: "memory.max" })
    }

    fn make(&self, name: &str, limit_bytes: u64) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir(&path)
            .with_context(|| format!("cgroup {} cannot be created", path.display()))?;
        let limit = path.join(self.limit_file);
        if let Err(error) = fs::write(&limit, limit_bytes.to_string()) {
            remove(&path);
            return Err(error)
                .with_context(|| format!("{}={limit_bytes} was refused", limit.display()));
        }
        Ok(path)
    }
}

/// Removes the cgroups of earlier runs that were killed.
pub fn remove_stale() {
    let Some(entries) = Hierarchy::find().and_then(|memory| fs::read_dir(memory.root).ok()) else {
        return;
    };
    for entry in entries.flatten() {
        if is_stale(&entry.file_name().to_string_lossy(), |pid| {
            Path::new(&format!("/proc/{pid}")).exists()
        }) {
            eprintln!("cgroup: removing {}, left by a run that was killed", entry.path().display());
            remove(&entry.path());
        }
    }
}

fn is_stale(name: &str, alive: impl Fn(u32) -> bool) -> bool {
    let ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let pid = name.rsplit_once('-').filter(|_| ours).and_then(|(_, pid)| pid.parse().ok());
    pid.is_some_and(|pid| !alive(pid))
}

/// Kills all processes in a cgroup that was created here, and removes it; the kernel may need a
/// moment to release it.
fn remove(path: &Path) {
    for _ in 0..100 {
        for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse::<i32>()
                && pid > 0
            {
                // SAFETY: kill takes two integers and touches no memory of ours; the pid is in a
                // cgroup made here.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    eprintln!("cgroup: {} could not be removed\n  hint: rmdir it once it is empty", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
        cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
    const V2: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";

    #[test]
    fn a_mounted_v1_controller_is_used() {
        let found = Hierarchy::in_mounts(V1, |_| String::new()).unwrap();
        assert_eq!(found.root, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(found.limit_file, "memory.limit_in_bytes");
    }

    #[test]
    fn v2_is_used_only_if_it_delegates_memory() {
        let found = Hierarchy::in_mounts(V2, |_| "cpu io memory pids\n".into()).unwrap();
        assert_eq!(found.limit_file, "memory.max");
        assert_eq!(Hierarchy::in_mounts(V2, |_| "cpu\n".into()), None);
        assert_eq!(Hierarchy::in_mounts("", |_| String::new()), None);
    }

    #[test]
    fn only_cgroups_of_dead_runs_are_stale() {
        assert!(is_stale("spillway-demo-leak-7", |_| false));
        assert!(!is_stale("spillway-demo-leak-7", |pid| pid == 7));
        assert!(!is_stale("spillway-demo-leak-x", |_| false));
        assert!(!is_stale("system.slice", |_| false));
        assert!(is_stale("spillway-corpus-redis-7.0.15-9", |_| false));
        assert!(!is_stale("someone-elses-9", |_| false));
    }
}
