//! Puts entries into a spool and takes some out, and prints each step once it is done, so that it
//! can be killed anywhere in between.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use spillway_agent::act::notify::spool::{IncidentChange, Spool, SpoolEntry};

/// Put entries into a spool until killed, with one line on standard output for each that is stored
/// or removed
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Path of the spool
    #[arg(long)]
    path: PathBuf,
    /// Number of the first entry
    #[arg(long)]
    first: u64,
}

/// Runs until it is killed or done.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let (mut spool, _) = Spool::open::<String>(&args.path).context("cannot open the spool")?;
    let mut out = io::stdout().lock();
    for nth in args.first.. {
        let what = format!("entry {nth}");
        let entry = SpoolEntry { to: vec!["a".to_owned(), "b".to_owned()], what: what.clone() };
        spool.accept(&[(nth, entry)], &[IncidentChange::Last(&format!("{}", nth % 8), &what)])?;
        writeln!(out, "accepted {nth}")?;
        if nth % 3 == 0 {
            // Printed first: after a kill in between it may have happened.
            writeln!(out, "settling {nth}")?;
            spool.settle::<String>(&[(nth, None)])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
