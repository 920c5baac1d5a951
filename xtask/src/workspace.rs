//! Paths: the workspace, its target directory, and the cache that survives a `cargo clean`.
//!
//! The target directory is read from cargo, because a user may have moved it by environment or
//! configuration.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Directories that the commands work in.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Directory of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this command was built from.
    pub fn find() -> anyhow::Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().unwrap_or(Path::new("/")).to_path_buf();
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--locked", "--format-version=1"])
            .current_dir(&root)
            .output()
            .context("`cargo metadata` could not be started")?;
        if !output.status.success() {
            bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
            .context("`cargo metadata` did not print JSON")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("`cargo metadata` names no target directory")?;
        Ok(Self { root, target: target.into() })
    }

    /// Returns the path of the BPF object that `agent/build.rs` embeds.
    pub fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/spillway.bpf.o")
    }

    /// Returns the path of a binary that cargo builds, in the release or debug profile.
    pub fn binary(&self, release: bool, name: &str) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" }).join(name)
    }

    /// Returns a cargo command for the user-space half, with its directory and the path of the BPF
    /// object.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.arg(subcommand);
        self.equip(&mut command);
        command
    }

    /// Sets a command's directory and, if the BPF object exists, its path. Removes the variables
    /// that cargo set for this program's own package: ring's build script depends on them, so ring
    /// and its dependents would be rebuilt after every manual build. In CI turns incremental builds
    /// off.
    pub fn equip(&self, command: &mut Command) {
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            let is_of_package =
                |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
            if name.to_str().is_some_and(is_of_package) {
                command.env_remove(name);
            }
        }
        let object = self.bpf_object();
        if object.is_file() {
            command.env("SPILLWAY_BPF_OBJECT", object);
        }
        if is_ci() {
            // A tree that is built once gains nothing from it: building our own packages for the
            // tests took 68 s with it and 54 s without. A command without it would build them anew.
            command.env("CARGO_INCREMENTAL", "0");
        }
    }
}

/// Lets a cargo command lint this workspace's packages as it compiles them, and fail on a warning.
/// A check of its own would compile them, and read every dependency, once more. Commands with and
/// without lints keep their builds apart.
pub fn lint(command: &mut Command) {
    let beside = Path::new(&cargo()).with_file_name("clippy-driver");
    let driver = if beside.is_file() { beside } else { "clippy-driver".into() };
    command.env("RUSTC_WORKSPACE_WRAPPER", driver);
    // As `cargo clippy` passes on what follows its `--`.
    command.env("CLIPPY_ARGS", ["--deny", "warnings", ""].join("__CLIPPY_HACKERY__"));
}

/// Returns the cargo that started this command, or the one on the path.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Returns cargo's directory, which has the sources of dependencies.
pub fn cargo_home() -> anyhow::Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("no place for cargo's files: neither CARGO_HOME nor HOME is set\n  hint: set HOME")
}

/// Returns the directory of built tools: `$XDG_CACHE_HOME/spillway` or `~/.cache/spillway`.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("spillway"))
        .context(
            "no place for built tools: neither XDG_CACHE_HOME nor HOME is set\n  hint: set HOME",
        )
}

/// Returns true if `CI` is set, as it is in continuous integration.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Returns true if this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments, cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Returns the first file of that name on the path.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
