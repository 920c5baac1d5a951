//! `cargo xtask setup`: installs build and test tools, and does nothing if all are present.
//!
//! It gathers facts, performs the next step that [`toolchain::decide`] returns, and repeats until
//! the BPF compiler and its linker are ready. Every installation is announced with its reason
//! before it runs. Setup never removes a package, never changes rustup's toolchains, and never
//! prompts for a password without a terminal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::apt::{apt_line, install};
use crate::child;
use crate::deb_servers::{MORE_SERVERS, SERVERS, TELEMETRY};
use crate::toolchain::{self, Compiler, Next};
use crate::tools::{CargoTool, DENY, NEXTEST};
use crate::vm::emulator;
use crate::vm::rootfs::USERLAND_PACKAGES;
use crate::wheels::WEBHOOKS;
use crate::workspace::{Workspace, on_path};
use crate::{signals, tools};

/// Program that unpacks the modules of other kernels, and its package.
const XZ: (&str, &str) = ("xz", "xz-utils");

/// Program that runs the receiver of `configs/kubernetes/cordon/`, whose image contains it, and its
/// package.
const PYTHON: (&str, &str) = ("python3", "python3");

/// Terminal without a screen, in which a test runs `spillway top`, and its package.
const TMUX: (&str, &str) = ("tmux", "tmux");

/// Install build and test tools; does nothing if all are present
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask setup            install what is missing (through sudo if not root)\n  \
    cargo xtask setup --check    only print the next step; exits 1 if something is missing")]
pub struct Args {
    /// Only print the next step
    #[arg(long)]
    check: bool,
    /// Also unpack the servers that only `cargo xtask test --thorough` needs
    #[arg(long, conflicts_with = "check")]
    thorough: bool,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if args.check {
        return check();
    }
    let workspace = Workspace::find()?;
    let compiler = bpf(&workspace)?;
    cargo_tool(&workspace, &NEXTEST)?;
    cargo_tool(&workspace, &DENY)?;
    vm()?;
    userlands()?;
    servers()?;
    python()?;
    tmux()?;
    TELEMETRY.provide()?;
    WEBHOOKS.provide()?;
    if args.thorough {
        more_servers()?;
    }
    eprintln!("setup: everything is installed; the BPF programs are built by {}", compiler.name());
    Ok(ExitCode::SUCCESS)
}

fn check() -> anyhow::Result<ExitCode> {
    let next = toolchain::decide(&tools::facts(BTreeSet::new())?);
    let mut ready = false;
    match next {
        Next::Ready(compiler) => {
            ready = true;
            println!("ready: BPF programs: {}", compiler.name());
        }
        Next::BuildLinker(llvm) => println!("next: build bpf-linker against LLVM {llvm}"),
        Next::Install { packages, why } => println!("next: {}\n  why: {why}", apt_line(&packages)),
        Next::Ask(advice) => println!("next, by hand: {advice}"),
    }
    let mut has_cargo_tools = true;
    for tool in [NEXTEST, DENY] {
        let is_there = tool.find()?.is_some();
        has_cargo_tools &= is_there;
        println!(
            "{}: cargo-{}",
            if is_there { "ready" } else { "missing, `cargo xtask test` builds it" },
            tool.name
        );
    }
    let emulator = on_path(XZ.0).is_some() && emulator::is_there()?;
    println!(
        "{}: the emulator for other kernels",
        if emulator { "ready" } else { "missing, `cargo xtask vm` unpacks it" }
    );
    let userlands = has_userland_tools();
    println!(
        "{}: the tools that create a Debian for a virtual machine",
        if userlands { "ready" } else { "missing, `cargo xtask vm` installs them" }
    );
    let mut servers = true;
    for set in [&SERVERS, &TELEMETRY] {
        let is_there = set.is_there()?;
        servers &= is_there;
        println!(
            "{}: {}",
            if is_there { "ready" } else { "missing, `cargo xtask test` unpacks it" },
            set.what
        );
    }
    let python = on_path(PYTHON.0).is_some();
    println!(
        "{}: Python",
        if python { "ready" } else { "missing, `cargo xtask test` installs it" }
    );
    let tmux = on_path(TMUX.0).is_some();
    println!("{}: tmux", if tmux { "ready" } else { "missing, `cargo xtask test` installs it" });
    let webhooks = WEBHOOKS.are_there()?;
    println!(
        "{}: {}",
        if webhooks { "ready" } else { "missing, `cargo xtask test` downloads it" },
        WEBHOOKS.what
    );
    let has_tools = has_cargo_tools && emulator && userlands && servers && python && tmux;
    Ok(if ready && has_tools && webhooks { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prepares the build of the BPF programs, and returns the compiler to use.
pub fn bpf(workspace: &Workspace) -> anyhow::Result<Compiler> {
    let mut tried = BTreeSet::new();
    loop {
        signals::check()?;
        match toolchain::decide(&tools::facts(tried.clone())?) {
            Next::Ready(compiler) => return Ok(compiler),
            Next::BuildLinker(llvm) => {
                eprintln!("setup: bpf-linker for LLVM {llvm} is missing");
                tools::build_bpf_linker(workspace, llvm)?;
                let binary = tools::bpf_linker(llvm)?;
                if child::output_of(Command::new(&binary).arg("--version")).is_none() {
                    bail!(
                        "{} was built, but does not run\n  hint: run it by hand to see the \
                        error; its libLLVM may be missing",
                        binary.display()
                    );
                }
            }
            Next::Install { packages, why } => {
                eprintln!("setup: {why}");
                install(&packages)?;
                tried.extend(packages);
            }
            Next::Ask(advice) => bail!("{advice}"),
        }
    }
}

/// Provides a subcommand of cargo, and returns the command that runs it.
pub fn cargo_tool(workspace: &Workspace, tool: &CargoTool) -> anyhow::Result<Command> {
    if let Some(command) = tool.find()? {
        return Ok(command);
    }
    eprintln!("setup: cargo-{} is missing, which {}", tool.name, tool.does);
    tool.build(workspace)?;
    let hint = "hint: run `cargo xtask setup` again";
    tool.find()?
        .with_context(|| format!("cargo-{} was built, but does not run\n  {hint}", tool.name))
}

/// Installs the tools that boot other kernels.
pub fn vm() -> anyhow::Result<()> {
    program(XZ, "which unpacks other kernels' modules")?;
    emulator::provide().map(drop)
}

/// Unpacks the servers, two of which are Python programs; returns their root directory.
pub fn servers() -> anyhow::Result<PathBuf> {
    python()?;
    SERVERS.provide()
}

/// Unpacks the servers that only all of the scenes need; returns their root directory.
pub fn more_servers() -> anyhow::Result<PathBuf> {
    MORE_SERVERS.provide()
}

/// Installs Python, which runs the receiver for Kubernetes and two of the servers.
pub fn python() -> anyhow::Result<()> {
    program(PYTHON, "which runs the receiver that cordons a Kubernetes node")
}

/// Installs the terminal in which a test runs `spillway top`.
pub fn tmux() -> anyhow::Result<()> {
    program(TMUX, "in which a test runs `spillway top`")
}

/// Installs the tools that make packages and judge them.
pub fn packaging() -> anyhow::Result<()> {
    program(("dpkg-deb", "dpkg"), "which makes the package for Debian")?;
    program(XZ, "which compresses the packages")?;
    program(("rpmbuild", "rpm"), "which makes the package for RPM")?;
    program(("lintian", "lintian"), "which judges the package for Debian")
}

/// Installs the tool that builds the container image.
pub fn images() -> anyhow::Result<()> {
    program(("buildah", "buildah"), "which builds the container image")
}

/// Installs the tools that run the container image in a test.
pub fn containers() -> anyhow::Result<()> {
    program(("podman", "podman"), "which runs it in a test")?;
    program(("runc", "runc"), "with which Podman runs it")
}

/// Installs a browser, and returns its path.
pub fn browser() -> anyhow::Result<PathBuf> {
    program(("chromium", "chromium"), "which draws the agent's pages in a test")?;
    on_path("chromium").context("chromium is missing")
}

/// Installs the package of a program if it is missing; `why` is the purpose.
fn program((program, package): (&str, &str), why: &str) -> anyhow::Result<()> {
    if on_path(program).is_none() {
        eprintln!("setup: {program} is missing, {why}");
        if on_path("apt-get").is_some() {
            install(&[package.to_owned()])?;
        }
        if on_path(program).is_none() {
            bail!("{program} is missing, {why}\n  hint: install {package}")
        }
    }
    Ok(())
}

/// Installs the tools that create a Debian for a virtual machine.
pub fn userlands() -> anyhow::Result<()> {
    if !has_userland_tools() && on_path("apt-get").is_some() {
        eprintln!(
            "setup: {} are not all installed; they create a Debian with systemd",
            USERLAND_PACKAGES.join(" and ")
        );
        install(&USERLAND_PACKAGES.map(str::to_owned))?;
    }
    if !has_userland_tools() {
        bail!(
            "mmdebstrap or bsdtar is missing; they create a Debian\n  hint: install {}",
            USERLAND_PACKAGES.join(" ")
        )
    }
    Ok(())
}

fn has_userland_tools() -> bool {
    ["mmdebstrap", "bsdtar"].iter().all(|program| on_path(program).is_some())
}
