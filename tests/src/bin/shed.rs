//! Sheds load at the doors of real servers, and prints what their clients saw with and without:
//! `cargo xtask shed`.
//!
//! Needs root, and the servers that `SPILLWAY_SERVERS` and `SPILLWAY_MORE_SERVERS` name; those of
//! the machine are used if one is not there. Servers are played one after another, because each
//! takes both processors.
//!
//! Exit codes: 0 all targets were met, 1 one was missed, or a server did not start.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Parser;
use spillway_tests::{
    Servers, is_root,
    real_servers::{SHED_SERVERS, draw, shed},
};

/// Shed load at the doors of real servers.
#[derive(Debug, Parser)]
struct Cli {
    /// Parts of servers' names; by default all
    filters: Vec<String>,
    /// Draw the only selected server's runs to this file, as SVG
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Print only their names
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let is_named = |name: &str| cli.filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut selected: Vec<_> = SHED_SERVERS.iter().collect();
    selected.retain(|server| cli.filters.is_empty() || is_named(server.family.name));
    if selected.is_empty() {
        bail!("no server is called {}\n  hint: --list prints them", cli.filters.join(" or "));
    }
    if cli.list {
        selected.iter().for_each(|server| println!("{}", server.family.name));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        cli.picture.is_none() || selected.len() == 1,
        "--picture draws one server, but {} are selected\n  hint: --list prints their names",
        selected.len()
    );
    if !is_root("shed") {
        bail!("the agent and the network namespace of the servers need root");
    }
    let servers = Servers::find().map_err(|reason| anyhow!(reason))?;
    let mut is_met = true;
    for server in selected {
        let name = server.family.name;
        if let Err(reason) = server.is_there(&servers) {
            println!("{name}: not run: {reason:#}");
            continue;
        }
        let shedding = match shed(server, &servers) {
            Ok(shedding) => shedding,
            Err(error) => {
                println!("{name}: failed: {error:#}");
                is_met = false;
                continue;
            }
        };
        println!("{}", shedding.report());
        for target in shedding.missed() {
            println!("{name}: missed: {target}");
            is_met = false;
        }
        if let Some(file) = &cli.picture {
            let svg = draw(&shedding).map_err(|error| anyhow!("cannot draw: {error}"))?;
            fs::write(file, svg)
                .with_context(|| format!("{} cannot be written", file.display()))?;
        }
    }
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
