//! Scenes with real servers, which `cargo xtask test --thorough` runs all, and `cargo xtask shed`:
//! the `scenes` and `shed` binaries of the tests package, with the servers that they need.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::deb_servers::MORE_SERVERS;
use crate::signals::Interrupted;
use crate::workspace::Workspace;
use crate::{build, child, setup};

/// Shed load at the doors of real servers, and show what their clients see with and without
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask shed              every server, for some ten minutes\n  \
    cargo xtask shed apache       servers whose name contains \"apache\"\n  \
    cargo xtask shed gunicorn-sync --picture FILE\n                                \
    one server, with a picture as in README.md")]
pub struct ShedArgs {
    /// Only servers whose name contains one of these
    filters: Vec<String>,
    /// Draw the only selected server's runs to this file, as SVG
    #[arg(long)]
    picture: Option<PathBuf>,
}

/// Runs the command `shed`.
pub fn shed_main(args: &ShedArgs) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    let met = shed(&workspace, args, true)?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sheds load at the doors of all servers; returns `false` if one missed its targets.
pub fn shed_all(workspace: &Workspace, strict: bool) -> anyhow::Result<bool> {
    shed(workspace, &ShedArgs { filters: Vec::new(), picture: None }, strict)
}

fn shed(workspace: &Workspace, args: &ShedArgs, strict: bool) -> anyhow::Result<bool> {
    let mut shed = command(workspace, "shed", &args.filters, strict)?;
    if let Some(picture) = &args.picture {
        shed.arg("--picture").arg(picture);
    }
    Ok(child::streaming("shed", &mut shed)?.success())
}

/// Runs all scenes whose name contains one of these; returns `false` if too few were judged
/// correctly. Traces of wrong ones are kept in `target/scenes`.
pub fn run(workspace: &Workspace, filters: &[String], strict: bool) -> anyhow::Result<bool> {
    let mut scenes = command(workspace, "scenes", filters, strict)?;
    scenes.arg("--traces").arg(workspace.target.join("scenes"));
    Ok(child::streaming("scenes", &mut scenes)?.success())
}

/// Returns whether there are scenes whose name contains one of these; any without filters.
pub fn are_any(workspace: &Workspace, filters: &[String]) -> anyhow::Result<bool> {
    if filters.is_empty() {
        return Ok(true);
    }
    build::binaries(workspace, true, &["scenes"])?;
    let mut list = Command::new(workspace.binary(true, "scenes"));
    let names = child::output_of(list.arg("--list")).context("the scenes cannot be listed")?;
    Ok(names.lines().any(|name| filters.iter().any(|filter| name.contains(filter.as_str()))))
}

/// Records those scenes that the corpus of request queues has and whose name contains one of these.
pub fn record(filters: &[String]) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    let mut scenes = command(&workspace, "scenes", filters, true)?;
    let done = child::streaming("record", scenes.args(["--corpus", "--lanes=2"]))?.success();
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the command that runs one of the binaries, with all servers.
fn command(
    workspace: &Workspace,
    binary: &str,
    filters: &[String],
    strict: bool,
) -> anyhow::Result<Command> {
    // The agent as it ships: an unoptimised one takes so long over thousands of connections that it
    // rests for seconds.
    build::binaries(workspace, true, &["spillway", binary])?;
    let mut command = Command::new(workspace.binary(true, binary));
    command.args(filters);
    command.env("SPILLWAY_BIN", workspace.binary(true, "spillway"));
    command.env("SPILLWAY_SERVERS", setup::servers()?);
    match setup::more_servers() {
        Ok(root) => drop(command.env("SPILLWAY_MORE_SERVERS", root)),
        Err(error) if strict || error.is::<Interrupted>() => return Err(error),
        Err(error) => eprintln!("test: continuing without {}: {error:#}", MORE_SERVERS.what),
    }
    Ok(command)
}
