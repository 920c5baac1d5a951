//! `cargo xtask dist`: the agent as one static binary, in a package for Debian, one for RPM and a
//! tarball, with their checksums, in `target/dist/`; on request a container image too.
//!
//! The files are staged once as they are installed; each package is made of that directory by its
//! distribution's own tool, dpkg-deb and rpmbuild. They are there or installed in seconds, while
//! cargo-deb takes 70 s of processor time to build, and cargo-generate-rpm 180 s. Same sources and
//! tools make the same bytes: times come from `SOURCE_DATE_EPOCH`, by default the last commit, and
//! no path of this machine gets into the binary.

mod deb;
mod image;
mod reproduce;
mod rpm;
mod sbom;
mod stage;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::child::{self, OnInterrupt};
use crate::workspace::Workspace;
use crate::{build, setup};
use deb::Packing;
use stage::Stage;

/// Version of every package of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Build the packages: static binary, .deb, .rpm and tarball, in target/dist/.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask dist                 the packages for x86-64, and lintian's verdict\n  \
    cargo xtask dist --json          their paths as JSON on standard output\n  \
    cargo xtask dist --image         the container image too, for `podman load --input FILE`\n  \
    cargo xtask dist --reproduce     build everything again elsewhere, and compare every byte\n  \
    SOURCE_DATE_EPOCH=0 cargo xtask dist    other times than those of the last commit\n\n\
    Install one with `apt install ./target/dist/spillway_*_amd64.deb`.\n\
    Exit codes: 0 ok, 1 something could not be built, lintian found an\n\
    error, or a package built again differs.")]
pub struct Args {
    /// Build the container image too
    #[arg(long)]
    image: bool,
    /// Build everything again, from a clone of the last commit in another directory, and fail if a
    /// package differs in a byte
    #[arg(long)]
    reproduce: bool,
    /// Print the paths as JSON
    #[arg(long)]
    json: bool,
}

/// Processor architecture, by the names that it has in different places.
#[derive(Debug, Clone, Copy)]
pub struct Arch {
    debian: &'static str,
    /// Name in RPM, in the kernel and in the names of tarballs.
    kernel: &'static str,
    /// Target of the compiler.
    pub target: &'static str,
}

/// Architecture of the packages.
pub const X86_64: Arch =
    Arch { debian: "amd64", kernel: "x86_64", target: "x86_64-unknown-linux-gnu" };

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    setup::packaging()?;
    build::bpf(&workspace)?;
    let binary = build::static_release(&workspace, X86_64.target)?;
    let directory = workspace.target.join("dist");
    let stage = stage(&workspace, X86_64, &binary)?;
    let deb = stage.deb(&format!("{VERSION}-1"), Packing::Small, &directory)?;
    let mut packages = vec![deb.clone(), stage.rpm(&directory)?, stage.tarball(&directory)?];
    packages.push(bill(&workspace, &directory)?);
    if args.image {
        setup::images()?;
        packages.push(stage.image(&directory)?);
    }
    checksums(&directory, &packages)?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error", "--allow-root"]).arg(&deb);
    let passed = child::streaming("lintian", &mut lintian)?.success();
    let differing = match args.reproduce {
        true => reproduce::differing(&workspace, &directory)?,
        false => Vec::new(),
    };
    if args.json {
        let made = json!({"packages": packages, "lintian": passed, "differing": differing});
        println!("{made}");
    } else {
        packages.iter().for_each(|package| println!("{}", package.display()));
    }
    for name in &differing {
        eprintln!("dist: {name} differs if it is built again\n  hint: `diffoscope` shows where");
    }
    if args.reproduce && differing.is_empty() {
        eprintln!("dist: every package is the same, byte for byte, if it is built again elsewhere");
    }
    Ok(if passed && differing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes the software bill of materials into a directory.
fn bill(workspace: &Workspace, directory: &Path) -> anyhow::Result<PathBuf> {
    let mut metadata = workspace.cargo("metadata");
    metadata.args(["--locked", "--format-version=1", "--filter-platform", X86_64.target]);
    let metadata = child::output_of(&mut metadata).context("cargo metadata failed")?;
    let lock = workspace.root.join("Cargo.lock");
    let lock =
        fs::read_to_string(&lock).with_context(|| format!("{} cannot be read", lock.display()))?;
    let path = directory.join(format!("spillway-{VERSION}-{}.cdx.json", X86_64.kernel));
    fs::write(&path, sbom::document(&metadata, &lock)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    made(path)
}

/// Packages the optimised build of the agent that the tests use, twice, as two versions, for the
/// checks of upgrades: nothing is compiled apart for them. Returns the older version first.
pub fn for_checks(workspace: &Workspace) -> anyhow::Result<[PathBuf; 2]> {
    let stage = stage(workspace, X86_64, &build::static_agent(workspace)?)?;
    let directory = workspace.target.join("vm");
    let deb = |version: String| stage.deb(&version, Packing::Quick, &directory);
    Ok([deb(format!("{VERSION}~previous-1"))?, deb(format!("{VERSION}-1"))?])
}

/// Builds the image of the same build, for the test that runs it.
pub fn image_for_tests(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    setup::images()?;
    let stage = stage(workspace, X86_64, &build::static_agent(workspace)?)?;
    stage.image(&workspace.target.join("vm"))
}

/// Stages what is installed.
fn stage(workspace: &Workspace, arch: Arch, binary: &Path) -> anyhow::Result<Stage> {
    build::binaries(workspace, true, &["manuals"])?;
    let manuals = workspace.target.join("dist/manuals");
    fs::remove_dir_all(&manuals).ok();
    let mut command = Command::new(workspace.binary(true, "manuals"));
    run("generate the manual pages and completions", command.arg(&manuals))?;
    Stage::fill(workspace, arch, epoch(&workspace.root)?, binary, &manuals)
}

/// Returns the time of everything in the packages, in seconds since 1970.
fn epoch(root: &Path) -> anyhow::Result<String> {
    if let Ok(set) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(set);
    }
    let mut log = Command::new("git");
    let committed = child::output_of(log.args(["log", "-1", "--format=%ct"]).current_dir(root));
    let committed = committed.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    committed.context(
        "no time for the files in the packages: this is no git checkout\n  \
         hint: set SOURCE_DATE_EPOCH",
    )
}

/// Writes SHA256SUMS, which `sha256sum --check` reads.
fn checksums(directory: &Path, packages: &[PathBuf]) -> anyhow::Result<()> {
    let names = packages.iter().filter_map(|package| package.file_name());
    let mut command = Command::new("sha256sum");
    let sums = child::output_of(command.args(names).current_dir(directory))
        .context("the packages' checksums cannot be computed by sha256sum")?;
    let path = directory.join("SHA256SUMS");
    fs::write(&path, sums).with_context(|| format!("{} cannot be written", path.display()))
}

/// Runs a tool that takes a moment.
fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    child::quiet(what, command, "see the message above", OnInterrupt::Stop)
}

/// Returns the path of a package if it was made.
fn made(path: PathBuf) -> anyhow::Result<PathBuf> {
    match path.metadata() {
        Ok(found) if found.len() > 0 => Ok(path),
        _ => bail!("{} was not made", path.display()),
    }
}
