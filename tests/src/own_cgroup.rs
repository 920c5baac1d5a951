//! A cgroup that is removed at the end of the test.

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

/// Starts a workload in its own cgroup, if one can be made, so that its incident is not merged with
/// another test's. The cgroup comes first in the tuple so that it is dropped last.
///
/// # Panics
///
/// Panics if the workload does not start.
pub fn apart(name: &str, command: &mut Command) -> (Option<OwnCgroup>, Workload) {
    let hierarchy = Hierarchy::detect();
    let cgroup = hierarchy.mount().and_then(|mount| OwnCgroup::make(mount, name).ok());
    if let Some(cgroup) = &cgroup {
        cgroup.admit(command).expect("entering the cgroup");
    }
    (cgroup, Workload::start(command))
}

/// Cgroup that is removed when dropped; it must be empty by then.
pub struct OwnCgroup {
    directory: PathBuf,
    /// Path from the hierarchy's root.
    pub path: String,
}

impl OwnCgroup {
    /// Makes a cgroup below a hierarchy's mount.
    ///
    /// # Errors
    ///
    /// Returns an error if the cgroup cannot be made.
    pub fn make(mount: &Path, name: &str) -> io::Result<Self> {
        let path = format!("/spillway-{name}-{}", std::process::id());
        Self::make_at(mount.join(&path[1..]), path)
    }

    /// Makes a cgroup below this one.
    ///
    /// # Errors
    ///
    /// Returns an error if the cgroup cannot be made.
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

    /// Directory of the cgroup.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a command's process enter the cgroup before it runs, so that all of its memory is
    /// charged here.
    ///
    /// # Errors
    ///
    /// Returns an error if the cgroup cannot be entered.
    pub fn admit<'a>(&self, command: &'a mut Command) -> anyhow::Result<&'a mut Command> {
        let path = self.directory.join("cgroup.procs");
        let mut procs = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        // Zero stands for the writing process.
        let enter = move || procs.write_all(b"0");
        // SAFETY: after fork, the closure makes one write to an open file and allocates nothing.
        Ok(unsafe { command.pre_exec(enter) })
    }

    /// Writes a file of the cgroup.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel rejects the value.
    pub fn set(&self, file: &str, value: impl ToString) -> anyhow::Result<()> {
        let (path, value) = (self.directory.join(file), value.to_string());
        fs::write(&path, &value).with_context(|| format!("{}={value} was refused", path.display()))
    }

    /// Reads a file of the cgroup.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn get(&self, file: &str) -> anyhow::Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Returns true if the cgroup has this file.
    pub fn has(&self, file: &str) -> bool {
        self.directory.join(file).exists()
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // The kernel may need a moment after the last process exits, and a failing test may leave
        // child cgroups.
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
