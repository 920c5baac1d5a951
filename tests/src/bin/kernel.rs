//! Compares every probe with the truth, on the running kernel. `cargo xtask vm` runs it, in virtual
//! machines and on the host.
//!
//! As pid 1 it is the whole user space of a virtual machine: it mounts what the agent needs, runs
//! every check, writes one JSON line per result to the second serial port and powers off. Otherwise
//! it writes to standard output. Each check is a process of its own with a time limit, so that one
//! that panics or hangs hides no other; logs, including the verifier's, go to standard error, which
//! is the console in a virtual machine.

#[path = "../kernel/agent.rs"]
mod agent;
#[path = "../kernel/arrivals.rs"]
mod arrivals;
#[path = "../kernel/checks.rs"]
mod checks;
#[path = "../kernel/containment.rs"]
mod containment;
#[path = "../kernel/drive.rs"]
mod drive;
#[path = "../kernel/faults.rs"]
mod faults;
#[path = "../kernel/guest.rs"]
mod guest;
#[path = "../kernel/handles.rs"]
mod handles;
#[path = "../kernel/installed.rs"]
mod installed;
#[path = "../kernel/life.rs"]
mod life;
#[path = "../kernel/limits.rs"]
mod limits;
#[path = "../kernel/listeners.rs"]
mod listeners;
#[path = "../kernel/memory.rs"]
mod memory;
#[path = "../kernel/neighbour.rs"]
mod neighbour;
#[path = "../kernel/open_files.rs"]
mod open_files;
#[path = "../kernel/outbound.rs"]
mod outbound;
#[path = "../kernel/packaged.rs"]
mod packaged;
#[path = "../kernel/pressure.rs"]
mod pressure;
#[path = "../kernel/reconcile.rs"]
mod reconcile;
#[path = "../kernel/requests.rs"]
mod requests;
#[path = "../kernel/resets.rs"]
mod resets;
#[path = "../kernel/rungs.rs"]
mod rungs;
#[path = "../kernel/runner.rs"]
mod runner;
#[path = "../kernel/service.rs"]
mod service;
#[path = "../kernel/shed.rs"]
mod shed;
#[path = "../kernel/silent.rs"]
mod silent;
#[path = "../kernel/sojourns.rs"]
mod sojourns;
#[path = "../kernel/stress.rs"]
mod stress;
#[path = "../kernel/survival.rs"]
mod survival;
#[path = "../kernel/swapped.rs"]
mod swapped;
#[path = "../kernel/uninstall.rs"]
mod uninstall;
#[path = "../kernel/unit_stage.rs"]
mod unit_stage;
#[path = "../kernel/units.rs"]
mod units;
#[path = "../kernel/unix.rs"]
mod unix;

use std::process::ExitCode;

use clap::Parser;

/// Holds every probe against the truth, on this kernel.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  \
    kernel                                  every check, one JSON line a result\n  \
    kernel --only accept_queue              those of one probe\n  \
    kernel --only process_memory/iter/task/touched     one; its log is on standard error\n\n\
    `cargo xtask vm host` builds it and shows its results as a table.")]
struct Cli {
    /// Run only checks whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Run only the checks of limits on systemd's units, on a host that runs systemd
    #[arg(long)]
    systemd: bool,
    /// Run each check at its full length, and leave none to other machines
    #[arg(long)]
    thorough: bool,
    /// Name of this machine in `cargo xtask vm`, which leaves some checks to other machines
    #[arg(long)]
    machine: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.thorough {
        guest::be_thorough();
    }
    if cli.only.is_some() {
        guest::be_asked_for();
    }
    if let Some(machine) = &cli.machine {
        guest::be_called(machine);
    }
    if std::process::id() == 1 {
        guest::live_and_die(cli.only.as_deref());
    }
    let checks = if cli.systemd { checks::of_units() } else { checks::all() };
    runner::run_all(&mut std::io::stdout(), checks, cli.only.as_deref())
}
