//! The corpus of counts that head for their limit: made from a seed, never stored.

use std::process::ExitCode;

use spillway_tests::counts::{HELD_OUT_SEED, score};

use crate::each::each;

/// Options of the corpus of counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Counts {
    /// Seed of the runs [default: the one that figures are quoted on]
    #[arg(long)]
    seed: Option<u64>,
    /// Fail if the detector misses a target
    #[arg(long)]
    check: bool,
    /// Print the figures and each run as JSON
    #[arg(long)]
    json: bool,
}

impl Counts {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let report = score(self.seed.unwrap_or(HELD_OUT_SEED), |count, work| {
            each(&(0..count).collect::<Vec<_>>(), |place| work(*place))
        });
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{}", report.render());
        }
        if self.check && !report.met() {
            eprintln!("error: the detector misses targets on counts\n  hint: see the rows above");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}
