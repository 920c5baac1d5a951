//! `cargo xtask setup`: installs what building and testing need, and does nothing when all is there.
//!
//! It gathers facts, does the one next step that [`toolchain::decide`] names, and repeats until the BPF compiler and its linker are ready.
//! Every installation is announced with its reason before it runs. It refuses to remove a package, to touch rustup's
//! toolchains, and to prompt for a password where there is no terminal.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::step::{self, OnInterrupt};
use crate::toolchain::{self, Compiler, Next};
use crate::workspace::{Workspace, is_root, on_path};
use crate::{servers, signals, tools};

/// What boots other kernels and unpacks their modules: each program with its package.
const EMULATION: [(&str, &str); 2] = [("qemu-system-x86_64", "qemu-system-x86"), ("xz", "xz-utils")];

/// Install what building and testing need; does nothing when all is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask setup            install what is missing (through sudo if not root)\n  \
    cargo xtask setup --check    only say what would be done; exits 1 if something is missing")]
pub struct Args {
    /// Only say what would be done next
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if args.check {
        return check();
    }
    let workspace = Workspace::find()?;
    let compiler = bpf(&workspace)?;
    nextest(&workspace)?;
    vm()?;
    servers::provide()?;
    eprintln!("setup: all is there; the BPF programs are built by {}", compiler.name());
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
        Next::Ask(advice) => println!("next, by you: {advice}"),
    }
    let nextest = tools::nextest()?.is_some();
    println!("{}: cargo-nextest", if nextest { "ready" } else { "missing, `cargo xtask test` builds it" });
    let emulator = EMULATION.iter().all(|(program, _)| on_path(program).is_some());
    println!(
        "{}: the emulator for other kernels",
        if emulator { "ready" } else { "missing, `cargo xtask vm` installs it" }
    );
    let servers = servers::provided()?;
    println!("{}: nginx, HAProxy and wrk", if servers { "ready" } else { "missing, `cargo xtask test` unpacks them" });
    Ok(if ready && nextest && emulator && servers { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes sure that the BPF programs can be built, and says with which compiler.
pub fn bpf(workspace: &Workspace) -> anyhow::Result<Compiler> {
    let mut tried = BTreeSet::new();
    loop {
        signals::check()?;
        match toolchain::decide(&tools::facts(tried.clone())?) {
            Next::Ready(compiler) => return Ok(compiler),
            Next::BuildLinker(llvm) => {
                eprintln!("setup: no bpf-linker for LLVM {llvm} yet");
                tools::build_bpf_linker(workspace, llvm)?;
                let binary = tools::bpf_linker(llvm)?;
                if step::output_of(Command::new(&binary).arg("--version")).is_none() {
                    bail!(
                        "{} was built and does not run\n  hint: run it by hand to see why; its libLLVM may be missing",
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

/// Makes sure that nextest is there, and returns the command that runs it.
pub fn nextest(workspace: &Workspace) -> anyhow::Result<Command> {
    if let Some(command) = tools::nextest()? {
        return Ok(command);
    }
    eprintln!("setup: no cargo-nextest yet, which runs the tests");
    tools::build_nextest(workspace)?;
    tools::nextest()?.context("cargo-nextest was built and does not run\n  hint: run `cargo xtask setup` again")
}

/// Makes sure that other kernels can be booted.
pub fn vm() -> anyhow::Result<()> {
    let missing = || EMULATION.into_iter().filter(|(program, _)| on_path(program).is_none());
    let packages: Vec<_> = missing().map(|(_, package)| package.to_owned()).collect();
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("setup: no emulator yet, which boots other kernels");
    if on_path("apt-get").is_some() {
        install(&packages)?;
    }
    match missing().next() {
        None => Ok(()),
        Some((program, package)) => {
            bail!("there is no {program}, without which no other kernel can be booted\n  hint: install {package}")
        }
    }
}

/// Installs packages that apt-get knows; one that it does not know is left to the next decision.
fn install(packages: &[String]) -> anyhow::Result<()> {
    let missing: Vec<String> = packages.iter().filter(|package| !installed(package)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: will run `{}`", apt_line(&missing));
    let hint = "the network or the package lists may be at fault; the command above can be run by hand";
    authenticate(&apt_line(&missing))?;
    step::quiet("apt-get update", &mut apt(&["update"]), hint, OnInterrupt::Finish)?;
    if let Some(unknown) = missing.iter().find(|package| !has_candidate(package)) {
        eprintln!("setup: this distribution has no package {unknown}");
        return Ok(());
    }
    let mut command = apt(&["install", "--yes", "--no-install-recommends", "--no-remove"]);
    command.args(&missing);
    step::quiet(&format!("apt-get install {}", missing.join(" ")), &mut command, hint, OnInterrupt::Finish)
}

fn apt_line(packages: &[String]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install {}", packages.join(" "))
}

/// apt-get, as root and without questions.
pub fn apt(arguments: &[&str]) -> Command {
    let mut command = if is_root() { Command::new("env") } else { Command::new("sudo") };
    if !is_root() {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]).args(arguments);
    command
}

/// Gets sudo ready to run without asking: it asks here, in the foreground, or never. `what` is what root is needed for.
pub fn authenticate(what: &str) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    if on_path("sudo").is_none() {
        bail!("`{what}` needs root, and there is no sudo\n  hint: run it as root, then this again");
    }
    if step::output_of(Command::new("sudo").args(["-n", "true"])).is_some() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("`{what}` needs root, and sudo wants a password where there is no terminal\n  hint: run `sudo -v` first");
    }
    let status =
        Command::new("sudo").arg("-v").stdin(Stdio::inherit()).status().context("sudo could not be started")?;
    signals::check()?;
    if !status.success() {
        bail!("sudo was refused, and `{what}` needs root\n  hint: run it as root, then this again");
    }
    Ok(())
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    let state = step::output_of(query.args(["--show", "--showformat=${Status}", package]));
    state.is_some_and(|state| state.ends_with(" installed"))
}

/// Whether apt knows a version of this package that it could install.
pub fn has_candidate(package: &str) -> bool {
    let policy = step::output_of(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().filter_map(|line| line.trim().strip_prefix("Candidate: ")).any(|candidate| candidate != "(none)")
}
