//! Puts entries into a spool and takes some out, and says each once that is done: to be killed
//! anywhere in between.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use spillway_agent::act::notify::spool::{IncidentChange, Spool, SpoolEntry};

/// Put entries into a spool until killed, one line on standard output for each that is there or
/// gone.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The spool
    #[arg(long)]
    path: PathBuf,
    /// The number of the first
    #[arg(long)]
    first: u64,
}

/// Runs until it is killed, or has come to its end.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let (mut spool, _) = Spool::open::<String>(&args.path).context("the spool cannot be opened")?;
    let mut out = io::stdout().lock();
    for nth in args.first.. {
        let what = format!("entry {nth}");
        let entry = SpoolEntry { to: vec!["a".to_owned(), "b".to_owned()], what: what.clone() };
        spool.accept(&[(nth, entry)], &[IncidentChange::Last(&format!("{}", nth % 8), &what)])?;
        writeln!(out, "accepted {nth}")?;
        if nth % 3 == 0 {
            // Said before: whoever is killed in between may have done it.
            writeln!(out, "settling {nth}")?;
            spool.settle::<String>(&[(nth, None)])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
