//! `cargo xtask corpus queues record`: real servers under real load, recorded by the `record`
//! binary of the tests package.
//!
//! Each recording takes a minute. Needs root, and a machine without other load.

use std::process::{Command, ExitCode};

use crate::workspace::Workspace;
use crate::{build, child, setup};

/// Makes the recordings with these names, or all of them if `names` is empty.
pub fn record(names: &[String]) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    build::bpf(&workspace)?;
    build::binaries(&workspace, true, &["record", "workload"])?;
    let mut record = Command::new(workspace.binary(true, "record"));
    record.args(names).env("SPILLWAY_SERVERS", setup::servers()?);
    Ok(if child::streaming("record", &mut record)?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
