//! Place of one scene: a network namespace, a directory, a cgroup, ports, and the programs.

use std::{
    env, fs,
    net::{SocketAddr, TcpStream},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use spillway_agent::sense::Hierarchy;

use super::scene::Fault;
use crate::{OwnCgroup, Program, Scratch, Servers, in_real_time, wait_for};

/// Time that a server gets until it listens; the slowest one compiles its program first.
const LISTENS_WITHIN: Duration = Duration::from_secs(40);

/// Directory of the larger servers' unpacked packages.
const MORE: &str = "SPILLWAY_MORE_SERVERS";

/// Files whose presence is a fault, beside the application.
const STUCK: &str = "stuck";
const SLOW: &str = "slow";

/// Place of one scene. What it started ends with it.
pub struct Stage {
    /// Programs that a test always has.
    pub servers: Servers,
    port: u16,
    /// Address of a service that the server asks for each request.
    pub dependency: Option<SocketAddr>,
    cgroup: Option<OwnCgroup>,
    scratch: Scratch,
}

impl Stage {
    pub(super) fn make(servers: Servers, name: &str, port: u16, has_dependency: bool) -> Self {
        let hierarchy = Hierarchy::detect();
        let cgroup = hierarchy.mount().and_then(|mount| OwnCgroup::make(mount, name).ok());
        let dependency = has_dependency.then(|| loopback(port + 2));
        Self { servers, port, dependency, cgroup, scratch: Scratch::make(name) }
    }

    /// Directory of the scene's files.
    pub fn dir(&self) -> &Path {
        &self.scratch.0
    }

    /// Path of the scene's cgroup; `None` if none could be made.
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup.as_ref().map(|cgroup| cgroup.path.as_str())
    }

    /// Address of the server that clients use.
    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// Address of a server behind it.
    pub fn upstream(&self) -> SocketAddr {
        loopback(self.port + 1)
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir().join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Returns a command that runs a program: one that was unpacked, or else the machine's own. It
    /// finds the address of the scene's dependency, if there is one, in `DEPENDENCY`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such program.
    pub fn program(&self, path: &str) -> anyhow::Result<Command> {
        let (program, libraries) = find(&self.servers, path)?;
        let mut command = Command::new(program);
        if let Some(root) = libraries {
            let parts = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
                .map(|part| root.join(part).display().to_string());
            command.env("LD_LIBRARY_PATH", parts.join(":"));
            command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
        }
        command.current_dir(self.dir());
        if let Some(addr) = self.dependency {
            command.env("DEPENDENCY", addr.to_string());
        }
        Ok(command)
    }

    /// Returns the path of a file of the same packages.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such file.
    pub fn path(&self, path: &str) -> anyhow::Result<PathBuf> {
        find(&self.servers, path).map(|(file, _)| file)
    }

    /// Starts a program in the scene's cgroup. Its output goes to `output` in the directory.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be started there.
    pub fn start(&self, command: &mut Command) -> anyhow::Result<Program> {
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("output"))
            .context("output cannot be opened")?;
        command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
        if let Some(cgroup) = &self.cgroup {
            cgroup.admit(command)?;
        }
        if self.servers.is_ahead() {
            in_real_time(command);
        }
        // Apache ends its whole process group.
        Ok(Program::start(command.process_group(0)))
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    ///
    /// Returns an error with its output if it fails.
    pub fn finish(&self, command: &mut Command) -> anyhow::Result<()> {
        let output = command.output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Starts a server and waits until it listens on a TCP address.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not.
    pub fn tcp(&self, command: &mut Command, addr: SocketAddr) -> anyhow::Result<Program> {
        self.listening(command, || TcpStream::connect(addr).is_ok())
    }

    /// Starts a server and waits until it listens on a UNIX socket.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not.
    pub fn unix(&self, command: &mut Command, socket: &Path) -> anyhow::Result<Program> {
        self.listening(command, || UnixStream::connect(socket).is_ok())
    }

    fn listening(
        &self,
        command: &mut Command,
        listens: impl Fn() -> bool,
    ) -> anyhow::Result<Program> {
        let mut program = self.start(command)?;
        let is_up = wait_for(LISTENS_WITHIN, || {
            (listens() || !program.is_running()).then(|| program.is_running())
        });
        if is_up == Some(true) {
            return Ok(program);
        }
        let output = fs::read_to_string(self.dir().join("output")).unwrap_or_default();
        bail!("{command:?} does not listen: {}", output.trim());
    }

    /// Returns the fault of an application that looks for files beside it at each request.
    pub fn by_files(&self) -> Faults {
        let dir = self.dir().to_owned();
        Box::new(move |fault, begins| {
            let file = match fault {
                Fault::Stuck => dir.join(STUCK),
                Fault::Slow => dir.join(SLOW),
                // The scene's own dependency has these.
                Fault::None | Fault::DependencySilent | Fault::DependencyGone => return Ok(()),
            };
            if begins {
                fs::write(file, "")?
            } else {
                fs::remove_file(file)?
            }
            Ok(())
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Some(cgroup) = &self.cgroup else { return };
        // Workers that outlive their master; a stuck one ends with its directory.
        let _ = fs::remove_dir_all(self.dir());
        for pid in cgroup.get("cgroup.procs").unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                // SAFETY: a signal to a process of the scene's own cgroup.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}

/// Begins and ends a fault.
pub type Faults = Box<dyn FnMut(Fault, bool) -> anyhow::Result<()>>;

/// Returns the faults of a server that others depend on: if it is to be silent, its programs are
/// stopped with their children.
pub(super) fn halting(programs: Vec<u32>, mut others: Faults) -> Faults {
    Box::new(move |fault, begins| {
        if fault != Fault::DependencySilent {
            return others(fault, begins);
        }
        let signal = if begins { libc::SIGSTOP } else { libc::SIGCONT };
        for pid in programs.iter().flat_map(|pid| with_children(*pid)) {
            // SAFETY: a signal to a program of the scene.
            unsafe { libc::kill(pid as i32, signal) };
        }
        Ok(())
    })
}

fn with_children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]).collect()
}

/// Returns the path of a program, and the root of its libraries if it was unpacked. `*` in the path
/// stands for any part of a name.
///
/// # Errors
///
/// Returns an error with the reason to skip a scene if there is no such program.
pub(super) fn find(servers: &Servers, path: &str) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let unpacked = [Some(servers.root().to_owned()), env::var_os(MORE).map(PathBuf::from)];
    for root in unpacked.into_iter().flatten() {
        if let Some(program) = first_match(&root, path) {
            return Ok((program, Some(root)));
        }
    }
    let installed = first_match(Path::new("/"), path);
    let installed = installed
        .with_context(|| format!("needs {path}, which `cargo xtask test --thorough` unpacks"))?;
    Ok((installed, None))
}

fn first_match(root: &Path, pattern: &str) -> Option<PathBuf> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/') {
        let Some((before, after)) = part.split_once('*') else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let fits = |name: &str| name.starts_with(before) && name.ends_with(after);
        let in_one = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let named = |entry: fs::DirEntry| entry.file_name().to_str().map(fits).unwrap_or(false);
            let mut paths: Vec<_> = entries
                .filter_map(|entry| {
                    let path = entry.path();
                    named(entry).then_some(path)
                })
                .collect();
            paths.sort();
            paths
        };
        found = found.into_iter().flat_map(in_one).collect();
    }
    found.into_iter().find(|path| path.is_file())
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
