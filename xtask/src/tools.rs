//! Tools on this machine: compilers, LLVM, and the tools that setup builds into the cache.
//!
//! Each built tool has a directory `~/.cache/spillway/<name>-<version>[-llvmN]` (or under
//! `$XDG_CACHE_HOME`), filled by `cargo install --root`: it survives `cargo clean`, and a new
//! version gets a new directory. A tool counts as present only if it runs, since an upgrade of the
//! distribution can remove its shared libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{self, OnInterrupt};
use crate::toolchain::{Compiler, Facts, LLVM_MAJORS, Origin, parse_version};
use crate::workspace::{self, Workspace, cargo, on_path};

const BPF_LINKER: &str = "0.13.0";

/// Gathers the facts for [`crate::toolchain::decide`].
pub fn facts(tried: BTreeSet<String>) -> anyhow::Result<Facts> {
    let mut linkers = BTreeSet::new();
    for major in LLVM_MAJORS {
        if works(Command::new(bpf_linker(major)?).arg("--version")) {
            linkers.insert(major);
        }
    }
    Ok(Facts {
        compilers: nightlies().into_iter().chain(distribution()).collect(),
        linkers,
        llvm_dev: LLVM_MAJORS.into_iter().filter(|major| llvm_prefix(*major).is_some()).collect(),
        has_cc: on_path("cc").is_some(),
        has_apt: on_path("apt-get").is_some(),
        tried,
    })
}

/// Returns the path of the bpf-linker for an LLVM major, whether it is built or not.
pub fn bpf_linker(llvm: u32) -> anyhow::Result<PathBuf> {
    Ok(workspace::cache_dir()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{llvm}/bin/bpf-linker")))
}

/// Builds bpf-linker against an LLVM major whose development files are installed.
pub fn build_bpf_linker(workspace: &Workspace, llvm: u32) -> anyhow::Result<()> {
    let mut command = cargo_install(workspace, "bpf-linker", BPF_LINKER, &format!("-llvm{llvm}"))?;
    command.args(["--no-default-features", "--features"]).arg(format!("llvm-{llvm}"));
    if let Some(prefix) = llvm_prefix(llvm) {
        // llvm-sys reads the first variable, bpf-linker's own build script the second. Without the
        // second it uses the first `llvm-config` on the path, which may be another major.
        command.env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix).env("LLVM_PREFIX", &prefix);
    }
    let what = format!("build bpf-linker {BPF_LINKER} against LLVM {llvm} (once, some minutes)");
    let hint =
        format!("check that llvm-{llvm}-dev is complete, then run `cargo xtask setup` again");
    child::quiet(&what, &mut command, &hint, OnInterrupt::Stop)?;
    discard_build(workspace, "bpf-linker");
    Ok(())
}

/// A subcommand of cargo that is built into the cache if the user has none.
pub struct CargoTool {
    /// Name after `cargo`.
    pub name: &'static str,
    version: &'static str,
    /// Options of `cargo install`.
    options: &'static [&'static str],
    /// Purpose here, after "which".
    pub does: &'static str,
    hint: &'static str,
}

/// Runner of the tests.
pub const NEXTEST: CargoTool = CargoTool {
    name: "nextest",
    version: "0.9.143",
    options: &["--no-default-features", "--features", "default-no-update"],
    does: "runs the tests",
    hint: "see https://nexte.st for other ways to install it",
};

/// Checker of the dependencies.
pub const DENY: CargoTool = CargoTool {
    name: "deny",
    version: "0.20.2",
    options: &[],
    does: "checks dependencies against deny.toml",
    hint: "see https://embarkstudios.github.io/cargo-deny for other ways to install it",
};

impl CargoTool {
    /// Returns the command that runs the tool, if it is present: the user's own, or the one in the
    /// cache.
    pub fn find(&self) -> anyhow::Result<Option<Command>> {
        let ours =
            workspace::cache_dir()?.join(format!("{0}-{1}/bin/{0}", self.program(), self.version));
        let is_there = |program: &Path| works(Command::new(program).args([self.name, "--version"]));
        let found = [PathBuf::from(cargo()), ours].into_iter().find(|program| is_there(program));
        Ok(found.map(|program| {
            let mut command = Command::new(program);
            command.arg(self.name);
            command
        }))
    }

    /// Builds the tool into the cache.
    pub fn build(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let program = self.program();
        let mut command = cargo_install(workspace, &program, self.version, "")?;
        command.args(self.options);
        // The tool's own release profile costs more build time than it saves at run time.
        command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
        command
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        let what = format!("build {program} {} (once, takes some minutes)", self.version);
        child::quiet(&what, &mut command, self.hint, OnInterrupt::Stop)?;
        discard_build(workspace, &program);
        Ok(())
    }

    fn program(&self) -> String {
        format!("cargo-{}", self.name)
    }
}

/// Returns a `cargo install` into the cache. The intermediate files go under the target directory
/// instead of a temporary one, which an interruption would leave behind; an interrupted build
/// continues from them.
fn cargo_install(
    workspace: &Workspace,
    name: &str,
    version: &str,
    suffix: &str,
) -> anyhow::Result<Command> {
    let root = workspace::cache_dir()?.join(format!("{name}-{version}{suffix}"));
    let mut command = Command::new(cargo());
    command.args(["install", "--locked", "--force", "--root"]).arg(root);
    command.arg("--target-dir").arg(workspace.target.join("tools").join(name));
    command.arg(format!("{name}@{version}")).current_dir(&workspace.root).env_remove("RUSTFLAGS");
    Ok(command)
}

fn discard_build(workspace: &Workspace, name: &str) {
    std::fs::remove_dir_all(workspace.target.join("tools").join(name)).ok();
}

/// Finds rustup's nightlies; the plain `nightly` comes first.
fn nightlies() -> Vec<Compiler> {
    let Some(list) = child::output_of(Command::new("rustup").args(["toolchain", "list"])) else {
        return vec![];
    };
    let mut names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    // A dated nightly is `nightly-2026-…`: the plain one, which its user keeps up to date, is
    // preferred.
    names.sort_by_key(|name| {
        name.strip_prefix("nightly-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    let of = |name: &&str| {
        let mut command = Command::new("rustup");
        command.args(["run", *name, "rustc"]);
        compiler(Origin::Rustup((*name).to_owned()), &command)
    };
    names.iter().filter_map(of).collect()
}

/// Finds the distribution's compiler, which is not first on the path if rustup is installed.
fn distribution() -> Option<Compiler> {
    let path = Path::new("/usr/bin/rustc");
    // A distribution's package of rustup puts its proxy there, which is not a compiler.
    let real = path.canonicalize().ok()?;
    if real.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rustup")) {
        return None;
    }
    compiler(Origin::Distribution(path.into()), &Command::new(path))
}

fn compiler(origin: Origin, rustc: &Command) -> Option<Compiler> {
    let call = |argument: &str| {
        let mut command = Command::new(rustc.get_program());
        child::output_of(command.args(rustc.get_args()).args(argument.split(' ')))
    };
    let (version, llvm) = parse_version(&call("-vV")?)?;
    let sysroot = call("--print sysroot")?;
    let has_src =
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file();
    Some(Compiler { origin, version, llvm, has_src })
}

/// Finds the development files of an LLVM major: in Debian's directory, or in the one that a
/// versioned or plain `llvm-config` prints.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if debian.join("lib/libLLVM.so").exists() && debian.join("bin/llvm-config").exists() {
        return Some(debian);
    }
    [format!("llvm-config-{major}"), format!("llvm-config{major}"), "llvm-config".into()]
        .iter()
        .find_map(|name| {
            let version = child::output_of(Command::new(name).arg("--version"))?;
            let matches = version.trim().split('.').next()? == major.to_string();
            let prefix =
                matches.then(|| child::output_of(Command::new(name).arg("--prefix"))).flatten()?;
            Some(PathBuf::from(prefix.trim()))
        })
}

fn works(command: &mut Command) -> bool {
    child::output_of(command).is_some()
}
