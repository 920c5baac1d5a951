//! Fleet simulation; `cargo xtask simulate` builds and runs it.
//!
//! Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Parser, builder::PossibleValuesParser};
use signal_hook::consts::{SIGINT, SIGTERM};
use spillway_tests::simulation::{
    Outcome, Policy, Run, Scenario, all, draw, missed_targets,
    schedules::{self, Figures},
    simulate, sweep, table,
};

/// Simulate a fleet of virtual hosts, with and without Spillway.
///
/// Each host runs the agent's real engine, drain, grant and turns; clients time out and retry.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask simulate",
    after_help = "Examples:\n  \
    cargo xtask simulate                                  all scenarios, all policies\n  \
    cargo xtask simulate --scenario ebs-2012 --nodes 1000\n  \
    cargo xtask simulate --scenario healthy-month --policy spillway --nodes 10000 --hours 24\n  \
    cargo xtask simulate --scenario deploy-leak --json | jq .served_share\n  \
    cargo xtask simulate --scenario ebs-2012 --nodes 60 --sweep\n                                                        \
    where Spillway helps, and where not\n\n\
    Pictures are written to target/simulation. Exit codes: 0 done, 1 failed or interrupted, 2 wrong \
    usage."
)]
struct Cli {
    /// Scenario; by default all
    #[arg(long, value_parser = names())]
    scenario: Option<String>,
    /// Number of hosts; by default the scenario's own
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: Option<u32>,
    /// Seed of everything that is left to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Policy; by default all, side by side
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Simulated hours at most; by default the scenario's own
    #[arg(long, value_parser = positive)]
    hours: Option<f64>,
    /// Seconds between two scans of a host by its agent; by default the scenario's own
    #[arg(long, value_parser = clap::value_parser!(u8).range(5..=60))]
    scan: Option<u8>,
    /// Print one JSON object a policy and line, and draw nothing
    #[arg(long)]
    json: bool,
    /// Vary one parameter after another, over three seeds each, and print where Spillway helps and
    /// where it does not
    #[arg(long, conflicts_with_all = ["json", "policy"])]
    sweep: bool,
    /// Fail if a target is missed
    #[arg(long, conflicts_with_all = ["policy", "sweep"])]
    check: bool,
    /// Play so many random schedules of faults instead, and fail if a rule is broken
    #[arg(long, conflicts_with_all = ["scenario", "nodes", "policy", "json", "sweep", "check"])]
    schedules: Option<u64>,
    /// Folder of the pictures
    #[arg(long, default_value = "target/simulation")]
    pictures: PathBuf,
}

fn positive(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if (0.1..=10_000.0).contains(&hours) {
        Ok(hours)
    } else {
        Err("it has to be from 0.1 to 10000".to_owned())
    }
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(all().into_iter().map(|scenario| scenario.name))
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("interrupted");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for. Returns whether it came to its end.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot wait for Ctrl-C")?;
    }
    if let Some(count) = cli.schedules {
        return play(cli.seed, count, &stop);
    }
    let mut missed = Vec::new();
    let scenarios = all()
        .into_iter()
        .filter(|scenario| cli.scenario.as_ref().is_none_or(|name| *name == scenario.name));
    for mut scenario in scenarios {
        if let Some(hours) = cli.hours {
            scenario.secs = scenario.secs.min(hours * 3_600.0);
        }
        if let Some(scan) = cli.scan {
            scenario.scan_secs = f64::from(scan);
        }
        let is_done = if cli.sweep {
            let nodes = cli.nodes.map_or(60, |nodes| nodes as usize);
            println!("{}, {nodes} hosts unless said otherwise: {}", scenario.name, scenario.about);
            sweep(&scenario, nodes, &stop, |line| println!("{line}"))
        } else {
            compare(cli, &scenario, &stop, &mut missed)?
        };
        if !is_done {
            return Ok(false);
        }
    }
    ensure!(!cli.check || missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(true)
}

/// Plays random schedules of faults from a seed on.
fn play(seed: u64, count: u64, stop: &AtomicBool) -> anyhow::Result<bool> {
    let mut figures = Figures::default();
    for nth in 0..count {
        let seed = seed.wrapping_add(nth);
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let played = schedules::play(seed);
        figures = figures.plus(played.map_err(|why| anyhow!("schedule {seed}: {why}"))?);
        progress("schedules of faults", (nth + 1) as f64 / count as f64);
    }
    progress("", 1.0);
    println!("{count} schedules from seed {seed} on kept all rules: {figures:?}");
    Ok(true)
}

/// Runs a scenario with each policy, and prints what came of it.
fn compare(
    cli: &Cli,
    scenario: &Scenario,
    stop: &AtomicBool,
    missed: &mut Vec<String>,
) -> anyhow::Result<bool> {
    let nodes = cli.nodes.map_or(scenario.nodes, |nodes| nodes as usize);
    let mut outcomes = Vec::new();
    for policy in Policy::ALL {
        if cli.policy.is_some_and(|only| only != policy) {
            continue;
        }
        let run = Run { nodes, seed: cli.seed, policy };
        let label = format!("{}, {nodes} hosts, {}", scenario.name, policy.name());
        let outcome = simulate(scenario, run, stop, |share| progress(&label, share));
        progress("", 1.0);
        let Some(outcome) = outcome else { return Ok(false) };
        if cli.json {
            println!("{}", serde_json::to_string(&outcome)?);
        }
        outcomes.push(outcome);
    }
    missed.extend(missed_targets(&outcomes));
    if !cli.json {
        println!("{}, {nodes} hosts, seed {}: {}", scenario.name, cli.seed, scenario.about);
        print!("{}", table(&outcomes));
        println!("picture: {}\n", picture(&cli.pictures, &outcomes)?.display());
    }
    Ok(true)
}

fn picture(folder: &Path, outcomes: &[Outcome]) -> anyhow::Result<PathBuf> {
    let file = folder.join(format!("{}.svg", outcomes[0].scenario));
    let svg = draw(outcomes).map_err(|error| anyhow!("cannot draw: {error}"))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(&file, svg).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// Shows on a terminal how far a run is; an empty label clears the line.
fn progress(label: &str, share: f64) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let line = if label.is_empty() {
            String::new()
        } else {
            format!("  ..  {label}: {:.0} %", share * 100.0)
        };
        // A terminal that is gone is no reason to stop.
        let _ = write!(stderr, "\r\x1b[K{line}");
        let _ = stderr.flush();
    }
}
