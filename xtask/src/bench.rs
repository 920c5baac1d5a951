//! `cargo xtask bench`: measures what Spillway costs, in the core and on a host.
//!
//! Criterion measures the pure core. The `cost` binary measures the agent beside real workloads,
//! prints ratios, and exits non-zero if a target is missed. Both run even if the first one fails,
//! so that one run shows all results.

use std::process::ExitCode;

use crate::deb_servers::SERVERS;
use crate::signals::Interrupted;
use crate::workspace::Workspace;
use crate::{build, child, setup};

/// Measure what Spillway costs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench           the core's speed, then the agent's cost beside real workloads\n  \
    cargo xtask bench --json    only the agent's cost, as JSON on standard output")]
pub struct Args {
    /// Print the cost table as JSON, without running criterion
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    build::binaries(&workspace, true, &["spillway", "workload", "cost"])?;
    let mut ok = true;
    if !args.json {
        let mut core = workspace.cargo("bench");
        core.args(["--locked", "--package", "spillway-agent", "--bench", "core"]);
        ok &= child::streaming("the core's speed", &mut core)?.success();
    }
    let mut cost = workspace.cargo("run");
    cost.args([
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "spillway-tests",
        "--bin",
        "cost",
        "--",
    ]);
    if args.json {
        cost.arg("--json");
    }
    match setup::servers() {
        Ok(root) => drop(cost.env("SPILLWAY_SERVERS", root)),
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => eprintln!("bench: continuing without {}: {error:#}", SERVERS.what),
    }
    ok &= child::streaming("the agent's cost", &mut cost)?.success();
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
