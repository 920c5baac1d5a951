//! `cargo xtask build`: builds the BPF programs, then the agent that embeds them.
//!
//! The BPF half has its own compiler, target and target directory (`target/bpf`), so that neither
//! half causes a rebuild of the other. The object is copied to `target/bpf/spillway.bpf.o` only if
//! its bytes changed, because the agent is rebuilt when that file is newer. `Cargo.lock` is shared,
//! and every step uses `--locked`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::child::{self, OnInterrupt};
use crate::toolchain::{Compiler, Origin};
use crate::workspace::{Workspace, cargo, cargo_home, lint};
use crate::{setup, tools};

const TARGET: &str = "bpfel-unknown-none";

/// Option of the compiler that links the C library into the binary.
const STATIC: &str = "target-feature=+crt-static";

const HINT: &str = "see the compiler's message above";

/// Optimised binaries that the corpora, the machines and the demo need.
pub const RELEASE_BINARIES: [&str; 7] =
    ["spillway", "corpus", "workload", "crash_target", "kernel", "drain", "simulate"];

/// Build the BPF programs and the agent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask build              build target/debug/spillway\n  \
    cargo xtask build --release    build target/release/spillway: one file, no configuration \
    needed")]
pub struct Args {
    /// Optimise
    #[arg(long)]
    release: bool,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    bpf(&workspace)?;
    binaries(&workspace, args.release, &["spillway"])?;
    println!("{}", workspace.binary(args.release, "spillway").display());
    Ok(ExitCode::SUCCESS)
}

/// Installs missing tools and builds the BPF programs.
pub fn bpf(workspace: &Workspace) -> anyhow::Result<()> {
    bpf_with(workspace, &setup::bpf(workspace)?)
}

/// Builds the BPF programs with a compiler that setup has prepared.
pub fn bpf_with(workspace: &Workspace, compiler: &Compiler) -> anyhow::Result<()> {
    let linker = tools::bpf_linker(compiler.llvm)?;
    let target_dir = workspace.target.join("bpf");
    let mut flags = rustflags(std::env::consts::ARCH, &linker);
    remap_paths(&mut flags, workspace)?;
    let mut command = bpf_command(compiler, &flags, &target_dir);
    command.current_dir(&workspace.root);
    let hint = "see the message above; `cargo xtask setup --check` prints the compiler in use";
    let what = format!("build the BPF programs with {}", compiler.name());
    child::quiet(&what, &mut command, hint, OnInterrupt::Stop)?;
    let built = target_dir.join(TARGET).join("release/spillway-ebpf");
    copy_if_changed(&built, &workspace.bpf_object())
}

/// Builds binaries of the user-space half.
pub fn binaries(workspace: &Workspace, release: bool, wanted: &[&str]) -> anyhow::Result<()> {
    let mut command = user_half(workspace, wanted);
    if release {
        command.arg("--release");
    }
    child::quiet(&format!("build {}", wanted.join(" and ")), &mut command, HINT, OnInterrupt::Stop)
}

/// Links the optimised agent statically, and returns its path. Its libraries are those of
/// [`binaries`], so that this takes seconds.
pub fn static_agent(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let mut command = workspace.cargo("rustc");
    command.args(["--locked", "--release", "--package=spillway-agent", "--bin=spillway"]);
    command.args(["--", "-C", STATIC]);
    child::quiet("link spillway statically", &mut command, HINT, OnInterrupt::Stop)?;
    // The next build of the dynamic one takes its place.
    let kept = workspace.target.join("dist/spillway");
    fs::create_dir_all(workspace.target.join("dist"))
        .and_then(|()| fs::copy(workspace.binary(true, "spillway"), &kept))
        .with_context(|| format!("{} cannot be written", kept.display()))?;
    Ok(kept)
}

/// Builds the agent for a package, and returns its path: static, for this target, and without the
/// paths of this machine, which its libraries contain too. So it has a directory of its own.
pub fn static_release(workspace: &Workspace, target: &str) -> anyhow::Result<PathBuf> {
    let directory = workspace.target.join("dist/build");
    let mut command = workspace.cargo("build");
    command.args(["--locked", "--release", "--package=spillway-agent", "--bin=spillway"]);
    command.args(["--target", target, "--target-dir"]).arg(&directory);
    let mut flags = OsString::from(format!("-C{STATIC}"));
    remap_paths(&mut flags, workspace)?;
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    let what = format!("build spillway for {target}, static");
    child::quiet(&what, &mut command, HINT, OnInterrupt::Stop)?;
    Ok(directory.join(target).join("release/spillway"))
}

/// Adds the flags that keep the paths of this machine out of what is compiled.
fn remap_paths(flags: &mut OsString, workspace: &Workspace) -> anyhow::Result<()> {
    for (path, name) in [(workspace.root.clone(), "/spillway"), (cargo_home()?, "/cargo")] {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(path);
        flags.push(format!("={name}"));
    }
    Ok(())
}

/// Builds every test and the agent that they run, with the dependency features that the tests need:
/// a separate build of the agent would compile it twice. With lints, everything else, too.
pub fn tests(workspace: &Workspace, lints: bool) -> anyhow::Result<()> {
    let mut command = user_half(workspace, &["spillway"]);
    let what = if lints {
        lint(&mut command);
        command.arg("--all-targets");
        "lint and build spillway and the tests"
    } else {
        command.arg("--tests");
        "build spillway and the tests"
    };
    child::quiet(what, &mut command, HINT, OnInterrupt::Stop)
}

/// Returns the build command for these binaries. It names the whole workspace: cargo selects the
/// features of dependencies by the named packages, and another selection would compile some of them
/// again.
fn user_half(workspace: &Workspace, wanted: &[&str]) -> Command {
    let mut command = workspace.cargo("build");
    command.args(["--locked", "--workspace"]);
    for binary in wanted {
        command.args(["--bin", binary]);
    }
    command
}

fn bpf_command(compiler: &Compiler, flags: &OsStr, target_dir: &Path) -> Command {
    let mut command = match &compiler.origin {
        Origin::Rustup(name) => {
            let mut command = Command::new("rustup");
            command.args(["run", name, "cargo"]);
            command
        }
        Origin::Distribution(rustc) => {
            let mut command = Command::new(cargo());
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    command.args([
        "build",
        "--release",
        "--locked",
        "--package=spillway-ebpf",
        "--bin=spillway-ebpf",
    ]);
    command
        .args(["--features=programs", "-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    if matches!(compiler.origin, Origin::Rustup(_)) {
        command.env_remove("RUSTC");
    }
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    // BTF is generated from debug information. bpf-linker, which sees the whole program anyway,
    // optimises last.
    command.env("CARGO_PROFILE_RELEASE_DEBUG", "2").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
}

/// Returns the flags of the BPF half, in the format of `CARGO_ENCODED_RUSTFLAGS`.
fn rustflags(arch: &str, linker: &Path) -> OsString {
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{arch}\""));
    for flag in ["-Cdebuginfo=2", "-Cpanic=abort", "-Clink-arg=--btf", "-Clinker="] {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags.push(linker);
    flags
}

fn copy_if_changed(from: &PathBuf, to: &PathBuf) -> anyhow::Result<()> {
    let new = fs::read(from)
        .with_context(|| format!("the BPF object {} cannot be read", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("the BPF object {} cannot be written", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_survive_spaces_in_the_linkers_path() {
        let flags = rustflags("x86_64", Path::new("/home/a b/bpf-linker"));
        let flags = flags.to_str().unwrap();
        let flags: Vec<_> = flags.split('\x1f').collect();
        assert_eq!(flags[0], "--cfg=bpf_target_arch=\"x86_64\"");
        assert_eq!(flags[4], "-Clinker=/home/a b/bpf-linker");
    }

    #[test]
    fn an_unchanged_object_is_not_written() {
        let dir = std::env::temp_dir().join(format!("spillway-xtask-build-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, b"one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        copy_if_changed(&from, &to).unwrap();
        let second = fs::metadata(&to).unwrap().modified().unwrap();
        fs::write(&from, b"two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let third = fs::read(&to).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(first, second);
        assert_eq!(third, b"two");
    }
}
