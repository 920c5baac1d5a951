//! The scenes with real servers, which `cargo xtask test --thorough` runs all: the `scenes` binary
//! of the tests package, with the servers that it needs.

use std::process::{Command, ExitCode};

use crate::deb_servers::MORE_SERVERS;
use crate::signals::Interrupted;
use crate::workspace::Workspace;
use crate::{build, child, setup};

/// Runs all scenes whose name contains one of these; returns `false` if too few were judged
/// correctly. Traces of wrong ones are kept in `target/scenes`.
pub fn run(workspace: &Workspace, filters: &[String], strict: bool) -> anyhow::Result<bool> {
    let mut scenes = command(workspace, filters, strict)?;
    scenes.arg("--traces").arg(workspace.target.join("scenes"));
    Ok(child::streaming("scenes", &mut scenes)?.success())
}

/// Records those scenes that the corpus of request queues has and whose name contains one of these.
pub fn record(filters: &[String]) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    let mut scenes = command(&workspace, filters, true)?;
    let done = child::streaming("record", scenes.args(["--corpus", "--lanes=2"]))?.success();
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the command that runs scenes, with all servers.
fn command(workspace: &Workspace, filters: &[String], strict: bool) -> anyhow::Result<Command> {
    // The agent as it ships: an unoptimised one takes so long over thousands of connections that it
    // rests for seconds.
    build::binaries(workspace, true, &["spillway", "scenes"])?;
    let mut scenes = Command::new(workspace.binary(true, "scenes"));
    scenes.args(filters);
    scenes.env("SPILLWAY_BIN", workspace.binary(true, "spillway"));
    scenes.env("SPILLWAY_SERVERS", setup::servers()?);
    match setup::more_servers() {
        Ok(root) => drop(scenes.env("SPILLWAY_MORE_SERVERS", root)),
        Err(error) if strict || error.is::<Interrupted>() => return Err(error),
        Err(error) => eprintln!("test: continuing without {}: {error:#}", MORE_SERVERS.what),
    }
    Ok(scenes)
}
