//! Writes the manual pages and shell completions that the packages contain; `cargo xtask dist` runs
//! it.
//!
//! Both are generated from the agent's own command line, so that they cannot differ from it. They
//! are not in the agent's binary, which needs neither.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use spillway_agent::cli;

/// Name of the program.
const NAME: &str = "spillway";

/// Write the manual pages and the completions of bash, zsh and fish.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  \
    manuals target/dist/manuals     writes man/*.1 and completions/* below that directory")]
struct Cli {
    /// Directory to write to; created if it does not exist
    directory: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let directory = Cli::parse().directory;
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for part in [&man, &completions] {
        fs::create_dir_all(part)
            .with_context(|| format!("{} cannot be created", part.display()))?;
    }
    clap_mangen::generate_to(cli::Cli::command().disable_help_subcommand(true), &man)
        .with_context(|| format!("the manual pages cannot be written to {}", man.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::Cli::command(), NAME, &completions)
            .with_context(|| {
                format!("the {shell} completions cannot be written to {}", completions.display())
            })?;
    }
    Ok(())
}
