//! A cgroup that goes with the test.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::Context as _;
use spillway_agent::sense::Hierarchy;

use crate::Workload;

/// A workload in a cgroup of its own where one may be made, so that it makes no incident together
/// with another test's. The cgroup comes first, so that it goes last.
///
/// # Panics
///
/// The workload does not start.
pub fn apart(name: &str, command: &mut Command) -> (Option<OwnCgroup>, Workload) {
    let hierarchy = Hierarchy::detect();
    let cgroup = hierarchy.mount().and_then(|mount| OwnCgroup::make(mount, name).ok());
    if let Some(cgroup) = &cgroup {
        cgroup.admit(command).expect("it may be entered");
    }
    (cgroup, Workload::start(command))
}

/// A cgroup, removed when dropped; nothing may run in it by then.
pub struct OwnCgroup {
    directory: PathBuf,
    /// From the hierarchy's root.
    pub path: String,
}

impl OwnCgroup {
    /// Makes one below a hierarchy's mount.
    ///
    /// # Errors
    ///
    /// Where none may be made.
    pub fn make(mount: &Path, name: &str) -> io::Result<Self> {
        let path = format!("/spillway-{name}-{}", std::process::id());
        Self::make_at(mount.join(&path[1..]), path)
    }

    /// Makes one below this one.
    ///
    /// # Errors
    ///
    /// Where none may be made.
    pub fn make_below(&self, name: &str) -> io::Result<Self> {
        Self::make_at(self.directory.join(name), format!("{}/{name}", self.path))
    }

    fn make_at(directory: PathBuf, path: String) -> io::Result<Self> {
        fs::create_dir(&directory).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cgroup {} cannot be made: {error}", directory.display()),
            )
        })?;
        Ok(Self { directory, path })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has a command's process enter it before it runs, so that all of its memory is charged here.
    ///
    /// # Errors
    ///
    /// Where nobody can enter.
    pub fn admit<'a>(&self, command: &'a mut Command) -> anyhow::Result<&'a mut Command> {
        let path = self.directory.join("cgroup.procs");
        let mut procs = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("{} is no file", path.display()))?;
        // Zero is the process that writes.
        let enter = move || procs.write_all(b"0");
        // SAFETY: after fork the closure makes one write to a file that is open already, and
        // allocates nothing.
        Ok(unsafe { command.pre_exec(enter) })
    }

    /// Writes one of its files.
    ///
    /// # Errors
    ///
    /// Where the kernel does not take it.
    pub fn set(&self, file: &str, value: impl ToString) -> anyhow::Result<()> {
        let (path, value) = (self.directory.join(file), value.to_string());
        fs::write(&path, &value).with_context(|| format!("{}={value} was refused", path.display()))
    }

    /// Reads one of its files.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn get(&self, file: &str) -> anyhow::Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Whether it has that file.
    pub fn has(&self, file: &str) -> bool {
        self.directory.join(file).exists()
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // The kernel may need a moment after the last process; and a test that fails may leave what
        // was made in it.
        for _ in 0..100 {
            for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    let _ = fs::remove_dir(entry.path());
                }
            }
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
