//! Runs the scenes with real servers, and prints how the agent judged each: `cargo xtask test
//! --thorough`.
//!
//! Needs root, and the servers that `SPILLWAY_SERVERS` and `SPILLWAY_MORE_SERVERS` name; those of
//! the machine are used if one is not there.
//!
//! Exit codes: 0 at least 95 % were judged correctly, 1 fewer were, 130 stopped by a signal. A signal
//! ends the scenes, so that nothing of them is left.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use spillway_tests::{
    Servers, is_root,
    real_servers::{Options, Outcome, named, recordings, rightly, run, table},
};

/// Share of the scenes that have to be judged correctly.
const SHARE_MIN: f64 = 0.95;

/// Exit code of a program that SIGINT ended.
const STOPPED: u8 = 130;

/// Run scenes with real servers.
#[derive(Debug, Parser)]
struct Cli {
    /// Parts of scenes' names; by default all
    filters: Vec<String>,
    /// Scenes at once
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Directory for traces of the scenes that are judged wrongly
    #[arg(long)]
    traces: Option<PathBuf>,
    /// Keep the traces of all scenes
    #[arg(long, requires = "traces")]
    all_traces: bool,
    /// Record those that the corpus of request queues has
    #[arg(long)]
    corpus: bool,
    /// Print only their names
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let scenes = if cli.corpus { recordings(&cli.filters) } else { named(&cli.filters) };
    if scenes.is_empty() {
        bail!("no scene is called {}\n  hint: --list prints their names", cli.filters.join(" or "));
    }
    if cli.list {
        scenes.iter().for_each(|(family, scene)| println!("{}/{}", family.name, scene.name));
        return Ok(ExitCode::SUCCESS);
    }
    if !is_root("the scenes") {
        bail!("the agent and the network namespaces of the scenes need root");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    let servers = Servers::find().map_err(|reason| anyhow!(reason))?;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/requests");
    let options = Options {
        lanes: cli.lanes,
        traces: cli.traces,
        all_traces: cli.all_traces,
        corpus: cli.corpus.then_some(corpus),
        stop: stop.clone(),
    };
    let outcomes = run(&scenes, &servers, &options, &tell);
    if stop.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(STOPPED));
    }
    println!("\n{}", table(&outcomes));
    let (right, all) = rightly(&outcomes);
    println!("{right} of {all} scenes judged correctly");
    let enough = right as f64 >= SHARE_MIN * all as f64;
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the details of a scene as it ends.
fn tell(outcome: &Outcome) {
    match &outcome.seen {
        Err(reason) => println!("{}: not run: {reason}", outcome.name),
        Ok(seen) => {
            let played = &seen.played;
            let judged = &seen.judged;
            println!(
                "{}: {:?} {}; {:?}, before {:?}; matters {:.1?}; overloads {:?}; {:?}",
                outcome.name,
                judged.is_right,
                judged.fault.as_deref().unwrap_or_default(),
                played.counts,
                played.before,
                played.matters,
                played.overloads,
                played.error.as_deref().unwrap_or("no error"),
            );
            for claim in &seen.claims {
                let at = claim.at.checked_duration_since(played.origin).unwrap_or_default();
                println!(
                    "  {:.1} {} {} {} {:?}: {}",
                    at.as_secs_f64(),
                    claim.addr,
                    claim.state,
                    claim.severity,
                    claim.scarce,
                    claim.why
                );
            }
        }
    }
}
