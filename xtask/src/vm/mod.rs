//! `cargo xtask vm`: checks every probe on real kernels from 5.10 to the newest.
//!
//! Debian's cloud kernels boot under an emulator, so that no hardware support is needed, with the
//! `kernel` test binary as their whole user space. `debian12` and `debian13` boot a complete Debian
//! with systemd, to check changes of its units. `host` is the machine's own kernel, with the same
//! checks and no emulator. A kernel that is unavailable is skipped, with the reason. The file
//! system image contains release builds, because emulation is some fifteen times slower than
//! hardware.

mod cpio;
pub mod emulator;
mod initramfs;
mod kernels;
mod machine;
mod report;
pub mod rootfs;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, bail};
use clap::builder::PossibleValuesParser;

use crate::signals::Interrupted;
use crate::workspace::Workspace;
use crate::{build, dist, setup};
use kernels::{KERNELS, Kernel};
use machine::Machine;
use report::{Outcome, Report};
use rootfs::{Addition, USERLANDS, Userland};

/// Name of the machine's own kernel.
const HOST: &str = "host";

/// Check every probe on real kernels, 5.10, 6.1, 6.12, 7.2 and the host's own, and limits on real
/// Debians.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask vm              every machine, then one table; about ten minutes on two cores\n  \
    cargo xtask vm 6.1 host     these two\n  \
    cargo xtask vm 7.2 --only accept_queue\n  \
    cargo xtask vm 7.2 --only racing --thorough     10,000 limits against allocating processes\n  \
    cargo xtask vm debian12 debian13 --only package/ --previous spillway_0.1.0-1_amd64.deb\n  \
    cargo xtask vm --json       only the table, as JSON on standard output\n\n\
    Kernels are kept in ~/.cache/spillway/kernels; a kernel's output is in \
    target/vm/KERNEL.log.\n\
    Exit codes: 0 nothing failed, 1 something failed.")]
pub struct Args {
    /// Kernels to check; all of them by default
    #[arg(value_parser = PossibleValuesParser::new(names()), value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run only checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Run each check at full length and on every machine; by default some are shortened, and some
    /// run on a few machines only
    #[arg(long)]
    thorough: bool,
    /// Package of an earlier release, which the Debians upgrade from and downgrade to; by default
    /// this build with a lower version
    #[arg(long, value_name = "DEB")]
    previous: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

fn names() -> Vec<&'static str> {
    let userlands = USERLANDS.iter().map(|userland| userland.name);
    KERNELS.iter().map(|kernel| kernel.name).chain(userlands).chain([HOST]).collect()
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    let only = args.only.iter().map(|only| format!("--only={only}"));
    let arguments: Vec<_> = only.chain(args.thorough.then(|| "--thorough".to_owned())).collect();
    let previous = args.previous.as_deref();
    let reports = run(&workspace, &args.kernels, &arguments, previous, || Ok(()))?;
    if let Some(only) = args.only.as_ref().filter(|_| reports.iter().all(Report::is_empty)) {
        bail!(
            "no check's name contains `{only}`\n  hint: a name is probe/rung/check, such as \
               `limit/memory.high or memory.limit_in_bytes/racing allocators`"
        );
    }
    let failures = report::failures(&reports);
    if args.json {
        println!("{}", report::json(&reports));
    } else {
        println!("{}", report::print(&reports));
        // Last, so that the log ends with it.
        failures.iter().for_each(|failure| println!("Failed: {failure}"));
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks every kernel, for `cargo xtask test`, and prints the table. Calls `before_host` when the
/// emulated machines have ended, to wait for whatever runs beside them. Returns the failures, and
/// the skipped kernels with the reason.
pub fn all(
    workspace: &Workspace,
    before_host: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<String>, BTreeMap<String, String>)> {
    let reports = run(workspace, &[], &[], None, before_host)?;
    println!("{}", report::print(&reports));
    let skipped =
        |report: &Report| Some((format!("vm {}", report.name), report.skipped()?.to_owned()));
    Ok((report::failures(&reports), reports.iter().filter_map(skipped).collect()))
}

fn run(
    workspace: &Workspace,
    wanted: &[String],
    arguments: &[String],
    previous: Option<&Path>,
    before_host: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Report>> {
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    // First: it leaves a static agent in the place of the other.
    let packages = match USERLANDS.iter().any(|userland| wanted(userland.name)) {
        true => packages(workspace, previous)?,
        false => Vec::new(),
    };
    build::binaries(workspace, true, &["spillway", "workload", "crash_target", "kernel"])?;
    let directory = workspace.target.join("vm");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("{} cannot be created", directory.display()))?;
    let mut kernels: Vec<_> = KERNELS.iter().filter(|kernel| wanted(kernel.name)).collect();
    // The newest and the oldest run the most checks: they start first, beside the Debians.
    if let Some(newest) = kernels.pop() {
        kernels.insert(0, newest);
    }
    let kernels = kernels.into_iter().map(Emulated::Bare);
    let userlands = USERLANDS.iter().filter(|userland| wanted(userland.name)).map(Emulated::Debian);
    let emulated: Vec<_> = userlands.chain(kernels).collect();
    let ready = if emulated.is_empty() { Ok(()) } else { setup::vm() };
    if ready.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        return Err(Interrupted.into());
    }
    let (mut machines, mut skipped) = (Vec::new(), BTreeMap::new());
    for machine in emulated {
        let prepared = match &ready {
            Ok(()) => prepare(workspace, &machine, &packages, arguments),
            Err(error) => Err(anyhow::anyhow!(first_line(error))),
        };
        match prepared {
            Ok(machine) => machines.push(machine),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => drop(skipped.insert(machine.name(), first_line(&error))),
        }
    }
    // The checks of a kernel wait for a third of the time as well.
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let mut checked = machine::run(machines, cpus as f64 * 1.5)?;
    before_host()?;
    if wanted(HOST) {
        // Alone: these checks must not see other machines start and end processes.
        let checks = workspace.binary(true, "kernel");
        let arguments = [arguments, &[called(HOST)]].concat();
        let host = Machine::host(HOST, &checks, directory.join("host.log"), &arguments);
        checked.extend(machine::run(vec![host], 1.0)?);
    }
    let skipped = skipped.into_iter().map(|(name, reason)| (name, Outcome::Skipped(reason)));
    let all: BTreeMap<_, _> = checked
        .into_iter()
        .map(|(name, one)| (name, Outcome::Checked(one)))
        .chain(skipped)
        .collect();
    Ok(in_order(all))
}

/// Returns the packages that the Debians install, with their names there.
fn packages(
    workspace: &Workspace,
    previous: Option<&Path>,
) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
    let [made, current] = dist::for_checks(workspace)?;
    let previous = previous.map_or(made, Path::to_path_buf);
    Ok(vec![("previous.deb", previous), ("current.deb", current)])
}

/// Returns the argument that names the machine to its checks.
fn called(name: &str) -> String {
    format!("--machine={name}")
}

/// Sorts the reports: the oldest kernel first, then the Debians, then the host's kernel.
fn in_order(mut outcomes: BTreeMap<&'static str, Outcome>) -> Vec<Report> {
    let report = |name| outcomes.remove(name).map(|outcome| Report { name, outcome });
    names().into_iter().filter_map(report).collect()
}

/// Machine to emulate.
enum Emulated {
    /// Kernel with the checks as its whole user space.
    Bare(&'static Kernel),
    /// Complete Debian.
    Debian(&'static Userland),
}

impl Emulated {
    fn name(&self) -> &'static str {
        match self {
            Self::Bare(kernel) => kernel.name,
            Self::Debian(userland) => userland.name,
        }
    }
}

/// Gets a machine's parts, and writes the file system that it boots with.
fn prepare(
    workspace: &Workspace,
    machine: &Emulated,
    packages: &[(&str, PathBuf)],
    arguments: &[String],
) -> anyhow::Result<Machine> {
    let (name, directory) = (machine.name(), workspace.target.join("vm"));
    let (image, log) =
        (directory.join(format!("{name}.cpio")), directory.join(format!("{name}.log")));
    let program = |name: &'static str, binary: &str| (name, workspace.binary(true, binary));
    let beside = ["workload", "crash_target", "spillway"].map(|name| program(name, name));
    let arguments = arguments
        .iter()
        .chain([&called(name)])
        .map(|argument| format!(" \"{argument}\""))
        .collect::<String>();
    let (size, load, vmlinuz, arguments) = match machine {
        Emulated::Bare(kernel) => {
            let found = kernels::get(kernel)?;
            let programs = [&[program("init", "kernel")][..], &beside].concat();
            initramfs::write(&image, &programs, &found.modules)
                .context("the file system image cannot be created")?;
            // Arguments after the two dashes reach pid 1.
            ((8, "2G"), 1.0, found.vmlinuz, format!("--{arguments}"))
        }
        Emulated::Debian(userland) => {
            setup::userlands()?;
            let kernel = KERNELS
                .iter()
                .find(|kernel| kernel.name == userland.kernel)
                .context("there is no such kernel")?;
            let programs = [&[program("kernel", "kernel")][..], &beside].concat();
            let command = format!("/usr/local/bin/kernel --systemd{arguments}");
            let addition = Addition { programs: &programs, packages, command: &command };
            rootfs::write(&image, &rootfs::get(userland)?, &addition)?;
            // Its checks wait for more of the time. Two of them leave room for one kernel: beside
            // two, one missed its time when the machine was busy.
            ((2, "1G"), 0.75, kernels::get(kernel)?.vmlinuz, rootfs::arguments())
        }
    };
    let qemu = emulator::provide()?;
    let made = Machine::emulated((name, load), qemu, size, &vmlinuz, image, log, &arguments);
    match machine {
        Emulated::Bare(_) => Ok(made),
        // Under memory pressure, the machine needs a device that is slower than memory.
        Emulated::Debian(_) => made.with_drive(directory.join(format!("{name}.drive"))),
    }
}

/// Returns the first line of an error's message, without its details.
fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
