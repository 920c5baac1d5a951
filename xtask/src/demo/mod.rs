//! `cargo xtask demo`: runs the real agent with real probes against a real leak, a real overload
//! and a real drain, and checks its verdicts and actions.
//!
//! The workloads start before the agent, whose warm-up is shortened from twenty minutes to thirty
//! seconds. Beside the leak runs a cache that grows faster and then stops, so that growth alone is
//! not enough for a verdict. The server works for ten seconds before it stops accepting. The demo
//! watches for at least 70 s, so that wrong verdicts have time to appear. Then it runs the drain
//! scenario of the tests, without an agent and with one. A guard owns everything that the demo
//! starts or creates, and removes it when the demo returns, fails or is interrupted.

mod agent;
pub mod cgroup;
mod drain;
mod summary;
mod supervised;
mod verdict;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use self::cgroup::LeakCgroup;
use self::summary::{Expected, Seen};
use self::supervised::{Held, OWN_PATHS};
use self::verdict::{Screen, Verdict};
use self::workloads::{LEAK_LIMIT, LEAK_RATE, Workloads};
use crate::progress::Progress;
use crate::workspace::{Workspace, is_ci};
use crate::{build, clock, signals};

/// Minimum time to watch, from the start of the workloads, so that wrong verdicts can appear.
const AT_LEAST: Duration = Duration::from_secs(70);
/// Maximum time to wait for missing verdicts.
const AT_MOST: Duration = Duration::from_secs(110);
/// Maximum delay of the overload verdict: the queue of 128 is full 12.8 s after the last accept()
/// at ten connections a second.
const OVERLOAD_WITHIN_SECS: f64 = 12.0;

/// Run the real agent against a real leak, a real overload and a node that has to be drained, and
/// check its verdicts and actions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask demo                            build everything, watch for two minutes, \
    compare\n  \
    cargo xtask demo --json                     the comparison as JSON on standard output\n  \
    cargo xtask demo --agent /usr/bin/spillway  with an existing agent\n\n\
    Needs root for the agent and for a cgroup, and asks sudo for it. Ctrl-C at any time leaves \
    nothing behind.\n\
    Exit codes: 0 everything that could run matched (if CI is set, everything \
    ran and matched), 1 otherwise, 130 interrupted.")]
pub struct Args {
    /// Print the comparison as JSON; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Use this agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let screen = Screen::new(args.json);
    let Built { agent: binary, workload, drain: scenario, config } = build_all(args)?;
    let servers = drain::servers()?;
    signals::check()?;
    cgroup::remove_stale();
    let before = OWN_PATHS.map(|path| Path::new(path).exists());

    supervised::authenticate(&binary)?;
    let leak_cgroup = LeakCgroup::make(LEAK_LIMIT)?;
    let mut workloads = Workloads::start(&workload, &leak_cgroup)?;
    let mut agent = agent::start(&binary, &config)?;
    let start = clock::now();
    let expected = Expected {
        leaker: workloads.leaker,
        leak_bytes_per_sec: LEAK_RATE as f64,
        cache: workloads.cache,
        addr: workloads.addr.clone(),
        overload_within_secs: OVERLOAD_WITHIN_SECS,
    };
    introduce(screen, &expected, &leak_cgroup);
    let mut seen = watch(screen, &expected, &mut agent, &mut workloads, start)?;

    workloads.stop();
    let exit = agent.stop();
    seen.agent_exit = seen.agent_exit.or(exit);
    let made = leak_cgroup.path().map(Path::to_path_buf);
    drop(leak_cgroup);
    let drains = drain::watch(screen, &scenario, &binary, servers)?;
    seen.left_behind = left_behind(&agent, &workloads, made.as_deref(), before);
    if drains.left_behind {
        seen.left_behind.push("a process of the drain".to_owned());
    }

    let mut rows = summary::rows(&expected, &seen);
    rows.extend(drain::rows(&drains));
    let mut ok = rows.iter().all(|row| row.ok);
    let side_by_side = drain::table(&drains, screen.paint);
    for table in side_by_side.into_iter().chain([summary::table(&rows, screen.paint)]) {
        screen.line(&format!("\n{}", table.trim_end()));
    }
    if let Some(why) = &drains.not_run {
        screen.line(&format!("drain: NOT run: {why}"));
        // In CI, a part that was not run is a failure.
        ok &= !is_ci();
    }
    let result = match (ok, drains.not_run.is_some()) {
        (true, false) => "all matched",
        (true, true) => "everything that was run matched",
        (false, _) => "some results did NOT match",
    };
    screen.line(&screen.paint.outcome(ok, result));
    if args.json {
        let mut json = summary::to_json(&rows, &seen);
        json["ok"] = ok.into();
        json["drain"] = drains.to_json();
        println!("{json}");
    }
    if !ok {
        eprintln!("the agent's last log lines:{}", agent.log());
    }
    signals::check()?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Programs and configuration of the demo.
struct Built {
    agent: PathBuf,
    workload: PathBuf,
    drain: PathBuf,
    config: PathBuf,
}

/// Builds the programs that were not given, and returns all paths.
fn build_all(args: &Args) -> anyhow::Result<Built> {
    let workspace = Workspace::find()?;
    let agent = match &args.agent {
        Some(agent) if !agent.is_file() => {
            bail!(
                "--agent {}: no such file\n  hint: leave it out to build the agent",
                agent.display()
            )
        }
        Some(agent) => {
            build::binaries(&workspace, true, &["workload", "drain"])?;
            std::path::absolute(agent)?
        }
        None => {
            build::bpf(&workspace)?;
            build::binaries(&workspace, true, &["spillway", "workload", "drain"])?;
            workspace.binary(true, "spillway")
        }
    };
    let config = workspace.root.join("configs/demo.toml");
    let [workload, drain] = ["workload", "drain"].map(|name| workspace.binary(true, name));
    Ok(Built { agent, workload, drain, config })
}

fn introduce(screen: Screen, expected: &Expected, leak_cgroup: &LeakCgroup) {
    let Expected { leaker, cache, addr, .. } = expected;
    let (rate, place) = (verdict::bytes(LEAK_RATE as f64), leak_cgroup.describe());
    screen.line(
        "\nThe agent is watching this host, with its warm-up shortened from twenty minutes to \
        30 s. In addition to the host's own processes, these are running:",
    );
    screen.line(&format!("  demo-leak    pid {leaker}, leaks {rate}/s indefinitely, in {place}"));
    screen
        .line(&format!("  demo-cache   pid {cache}, grows 6.0 MiB/s for 15 s and stops: healthy"));
    screen.line(&format!(
        "  demo-server  {addr}, stops accepting after 10 s; demo-clients keep connecting, ten a \
         second\n"
    ));
}

/// Prints verdicts as they arrive, until all expected ones are there and wrong ones have had time
/// to appear.
fn watch(
    screen: Screen,
    expected: &Expected,
    agent: &mut Held,
    workloads: &mut Workloads,
    start: Instant,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut progress = Progress::new();
    loop {
        signals::check().inspect_err(|_| progress.clear())?;
        let line = agent.next_line(Duration::from_millis(100));
        let elapsed = start.elapsed();
        if workloads.server_just_stopped() {
            progress.clear();
            screen.line(&format!(
                "{:7.1} s  demo-server has stopped accepting",
                elapsed.as_secs_f64()
            ));
        }
        seen.stopped_at = workloads.stopped_at.map(|at| (at - start).as_secs_f64());
        if let Some(verdict) = line.and_then(|line| Verdict::parse(&line, elapsed.as_secs_f64())) {
            progress.clear();
            screen.line(&verdict.describe(screen.paint));
            seen.verdicts.push(verdict);
            continue;
        }
        if let Some(code) = agent.ended()? {
            progress.clear();
            seen.agent_died = true;
            seen.agent_exit = Some(code);
            return Ok(seen);
        }
        let complete = summary::complete(expected, &seen.verdicts);
        if (complete && elapsed >= AT_LEAST) || elapsed >= AT_MOST {
            progress.clear();
            return Ok(seen);
        }
        let waiting =
            if complete { "all seen; waiting for wrong verdicts" } else { "waiting for verdicts" };
        progress.show(
            waiting,
            elapsed,
            &format!("of {} s", if complete { AT_LEAST } else { AT_MOST }.as_secs()),
        );
    }
}

fn left_behind(
    agent: &Held,
    workloads: &Workloads,
    cgroup: Option<&Path>,
    before: [bool; 3],
) -> Vec<String> {
    let mut left = Vec::new();
    if agent.remains() {
        left.push("the agent's process".to_owned());
    }
    if workloads.remain() {
        left.push("a workload's process".to_owned());
    }
    left.extend(cgroup.filter(|path| path.exists()).map(|path| path.display().to_string()));
    for (path, there_before) in OWN_PATHS.iter().zip(before) {
        if !there_before && Path::new(path).exists() {
            left.push((*path).to_owned());
        }
    }
    left
}
