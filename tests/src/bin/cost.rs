//! Cost of the agent beside real workloads on this host: `cargo xtask bench` builds and runs it.
//!
//! Every figure compares two things within one run, because hosts are noisy: a scan with the same
//! reads made by hand, a loop with the agent off and on in turns. For scans the medians are
//! compared, for the loop the best turns: other load on the host only ever slows a turn, and by
//! more than the agent does. A missed target is printed as missed, and the exit code is 1.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads clocks")]

#[path = "../cost/accept_rate.rs"]
mod accept_rate;
#[path = "../cost/connections.rs"]
mod connections;
#[path = "../cost/far_client.rs"]
mod far_client;
#[path = "../cost/far_load.rs"]
mod far_load;
#[path = "../cost/fleet.rs"]
mod fleet;
#[path = "../cost/listeners.rs"]
mod listeners;
#[path = "../cost/programs.rs"]
mod programs;
#[path = "../cost/requests.rs"]
mod requests;
#[path = "../cost/tun.rs"]
mod tun;

use std::{
    fs,
    hint::black_box,
    io::{self, IsTerminal as _, Read as _},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::json;
use spillway_agent::{
    bpf::{Probe, ProbeStatus},
    detect::PROCESS_STATE_BYTES,
    sense::{LossCounters, ProcessMemorySensor, Sensors},
};
use spillway_tests::{Workload, field_bytes};

const PROCESSES: usize = 2_000;
/// Rounds in which each way of reading takes its turn, and its repetitions in a row. Each then
/// finds the kernel's structs as warm in the cache as it leaves them itself, and passing noise
/// affects all alike.
const ROUNDS: usize = 10;
const SCANS: usize = 10;
/// Period over which the agent's own CPU time is summed, against a clock of 10 ms, and the number
/// of periods: the median counts.
const WATCHED: Duration = Duration::from_secs(10);
const WATCHES: usize = 5;
/// Turns of the loop with the agent off and on.
const TURNS: usize = 20;
const TURN_SECS: f64 = 1.0;

/// Number of unchanged destinations that the kernel keeps: half of the map's room, less other
/// connects.
const DESTINATIONS: u32 = 4_000;

/// Measure the cost of the agent
#[derive(Debug, Parser)]
struct Cli {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure only the scan
    #[arg(long)]
    scan: bool,
    /// Measure only the BPF programs
    #[arg(long)]
    programs: bool,
    /// Measure only listeners and connections
    #[arg(long)]
    listeners: bool,
    /// Measure only requests on living connections
    #[arg(long)]
    requests: bool,
    /// Measure only the share of its requests that a server keeps on connections that stay open
    #[arg(long)]
    keep_alive: bool,
    /// Measure only the coordination of a thousand nodes through etcd
    #[arg(long)]
    fleet: bool,
    /// Measure only the share of its accept rate that a server keeps
    #[arg(long)]
    accept_rate: bool,
}

/// Figure with its target.
struct Row {
    what: String,
    measured: f64,
    unit: &'static str,
    /// `None` for figures without a target, which are for the reader.
    target: Option<Target>,
    detail: String,
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    fn met(&self) -> bool {
        match self.target {
            Some(Target::AtLeast(bound)) => self.measured >= bound,
            Some(Target::AtMost(bound)) => self.measured <= bound,
            None => true,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Some(Target::AtLeast(bound)) => format!(">= {bound} {}", self.unit),
            Some(Target::AtMost(bound)) => format!("<= {bound} {}", self.unit),
            None => "-".to_owned(),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let mut rows = Vec::new();
    if cli.programs {
        print(&program_rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    if cli.listeners {
        print(&listeners::rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    if cli.requests {
        print(&requests::rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    if cli.fleet {
        print(&fleet::rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    if cli.keep_alive {
        print(&requests::keep_alive_rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    if cli.accept_rate {
        print(&accept_rate::rows()?);
        return Ok(ExitCode::SUCCESS);
    }
    {
        tell(&format!("starting {PROCESSES} processes"));
        let _sleepers =
            Workload::start(workload()?.args(["sleepers", &format!("--count={PROCESSES}")]));
        tell("scanning them, and reading /proc/PID/statm of each, in turns");
        rows.extend(scan_against_statm()?);
        if cli.scan {
            print(&rows);
            return Ok(ExitCode::SUCCESS);
        }
        tell(&format!("watching them with the agent for {} s", WATCHED.as_secs() * WATCHES as u64));
        rows.extend(agent_watching()?);
    }
    rows.push(Row {
        what: "state of one process in the detector".to_owned(),
        measured: PROCESS_STATE_BYTES as f64,
        unit: "bytes",
        target: Some(Target::AtMost(512.0)),
        detail: String::new(),
    });
    tell(&format!("running an allocation-heavy loop {TURNS} times without and with the agent"));
    rows.push(allocation_loop(
        "speed that an allocation-heavy loop keeps",
        65_536,
        Some(Target::AtLeast(99.0)),
    )?);
    tell("and once more, with sixteen times the page faults");
    rows.push(allocation_loop("the same, drowning in page faults", 4_096, None)?);

    rows.extend(listeners::rows()?);
    rows.extend(requests::rows()?);
    rows.extend(fleet::rows()?);
    rows.extend(program_rows()?);

    let met = rows.iter().all(Row::met);
    if cli.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({"what": row.what, "measured": row.measured, "unit": row.unit, "target": row.target(),
                       "met": row.met(), "detail": row.detail})
            })
            .collect();
        println!("{}", json!({"met": met, "rows": rows}));
    } else {
        print(&rows);
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(step: &str) {
    eprintln!("cost: {step}");
}

fn print(rows: &[Row]) {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    println!("{:<52} {:>18}  {:<14} result", "cost", "measured", "target");
    for row in rows {
        let result = match (row.met(), colour) {
            (true, true) => "\x1b[32mmet\x1b[0m",
            (true, false) => "met",
            (false, true) => "\x1b[31mmissed\x1b[0m",
            (false, false) => "missed",
        };
        let measured = format!("{:.2} {}", row.measured, row.unit);
        println!("{:<52} {measured:>18}  {:<14} {result}  {}", row.what, row.target(), row.detail);
    }
}

/// Measures one pass over every process, against the same by hand: list `/proc`, and open, read,
/// close and parse each one's statm, with as few system calls as possible. The second figure leaves
/// out listing and parsing, which a scan does and a bare read of known pids does not.
fn scan_against_statm() -> anyhow::Result<[Row; 2]> {
    let mut sensors = Sensors::start();
    let memory =
        |report: &&ProbeStatus| report.probe == Probe::ProcessMemory && report.reason().is_some();
    if let Some(report) = sensors.reports().iter().find(memory) {
        bail!("the figures need BPF, but here {report}");
    }
    let sensor = sensors.get_mut::<ProcessMemorySensor>().context("cannot read processes")?;
    let (mut facts, mut statms, mut lost) = (Vec::new(), Vec::new(), LossCounters::default());
    let (mut scans, mut reads, mut bare_reads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..SCANS {
            facts.clear();
            let start = Instant::now();
            sensor.scan(&mut lost, |fact| facts.push(fact))?;
            scans.push(start.elapsed().as_secs_f64());
        }
        for _ in 0..SCANS {
            statms.clear();
            let start = Instant::now();
            read_every_statm(&mut statms)?;
            reads.push(start.elapsed().as_secs_f64());
        }
        let paths: Vec<_> = statms.iter().map(|(pid, _)| format!("/proc/{pid}/statm")).collect();
        for _ in 0..SCANS {
            let start = Instant::now();
            for path in &paths {
                let _ =
                    black_box(fs::File::open(path).and_then(|mut file| file.read(&mut [0; 256])));
            }
            bare_reads.push(start.elapsed().as_secs_f64());
        }
    }
    let (scan, read, bare_read) = (median(&mut scans), median(&mut reads), median(&mut bare_reads));
    let row = |what: &str, read: f64, target| Row {
        what: what.to_owned(),
        measured: read / scan,
        unit: "x",
        target,
        detail: format!(
            "{:.2} ms against {:.2} ms at {} processes",
            scan * 1e3,
            read * 1e3,
            facts.len()
        ),
    };
    Ok([
        row("a scan, times cheaper than statm of each process", read, Some(Target::AtLeast(8.0))),
        row("the same, pids known beforehand and nothing parsed", bare_read, None),
    ])
}

/// Reads pid and resident pages of each process.
fn read_every_statm(out: &mut Vec<(u32, u64)>) -> anyhow::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let mut buffer = [0; 256];
        // A process may have ended meanwhile.
        let Ok(length) =
            fs::File::open(entry.path().join("statm")).and_then(|mut file| file.read(&mut buffer))
        else {
            continue;
        };
        let resident = std::str::from_utf8(&buffer[..length])?
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok());
        out.push((pid, resident.context("statm has no second field")?));
    }
    Ok(())
}

/// Measures CPU and memory of the installed agent with its defaults.
fn agent_watching() -> anyhow::Result<[Row; 2]> {
    let agent = Agent::start()?;
    let mut shares = Vec::new();
    for _ in 0..WATCHES {
        let (before, start) = (agent.cpu_secs()?, Instant::now());
        sleep(WATCHED);
        shares.push((agent.cpu_secs()? - before) / start.elapsed().as_secs_f64() * 100.0);
    }
    let share = median(&mut shares);
    let (least, most) = (shares[0], shares[WATCHES - 1]);
    let (resident, peak) = (agent.status_mib("VmRSS")?, agent.status_mib("VmHWM")?);
    Ok([
        Row {
            what: "the agent's CPU at a 1 s interval, of one core".to_owned(),
            measured: share,
            unit: "%",
            target: Some(Target::AtMost(1.0)),
            detail: format!(
                "{least:.2} to {most:.2} % in {WATCHES} watches at {PROCESSES} processes"
            ),
        },
        Row {
            what: "the agent's resident memory".to_owned(),
            measured: resident,
            unit: "MiB",
            target: Some(Target::AtMost(32.0)),
            detail: format!(
                "{peak:.1} MiB at its peak, while it reads the kernel's type information"
            ),
        },
    ])
}

/// Measures the speed of a loop that allocates, with the agent on and off. It takes a fresh MiB
/// every `grow_every` operations.
fn allocation_loop(what: &str, grow_every: u64, target: Option<Target>) -> anyhow::Result<Row> {
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        // The first in a turn may have an advantage, so the order alternates.
        for with_agent in [turn % 2 == 0, turn % 2 != 0] {
            let agent = with_agent.then(Agent::start).transpose()?;
            if with_agent { &mut on } else { &mut off }.push(operations_per_sec(grow_every)?);
            drop(agent);
        }
    }
    let (off, on) = (best(&off), best(&on));
    Ok(Row {
        what: what.to_owned(),
        measured: on / off * 100.0,
        unit: "%",
        target,
        detail: format!(
            "{:.2} against {:.2} million operations and {:.0} MiB of fresh memory a second",
            on / 1e6,
            off / 1e6,
            off / grow_every as f64
        ),
    })
}

/// Returns a row for each BPF program that can be attached here.
fn program_rows() -> anyhow::Result<Vec<Row>> {
    tell("counting what each BPF program costs an event");
    let workloads =
        |name: &str, args: &[String]| Ok(Workload::start(workload()?.arg(name).args(args)));
    let costs = programs::measure(workloads)?;
    let programs = costs.into_iter().map(|(program, nanos, events)| Row {
        what: format!("program {program}"),
        measured: nanos,
        unit: "ns",
        target: None,
        detail: format!("an event, over {events}"),
    });
    tell(&format!("reading how connects to {DESTINATIONS} destinations ended"));
    let reads = programs::outbound_read_secs(DESTINATIONS, workloads)?.map(|[none, many]| Row {
        what: "a read of how connects ended".to_owned(),
        measured: many * 1e6,
        unit: "µs",
        target: None,
        detail: format!("with {DESTINATIONS} destinations counted, {:.0} µs with none", none * 1e6),
    });
    Ok(programs.chain(reads).collect())
}

fn operations_per_sec(grow_every: u64) -> anyhow::Result<f64> {
    let grow_every = format!("--grow-every={grow_every}");
    let mut run = Workload::start(workload()?.args([
        "alloc-loop",
        &grow_every,
        &format!("--secs={TURN_SECS}"),
    ]));
    let line = run.next_line();
    let said: serde_json::Value = serde_json::from_str(&line)
        .with_context(|| format!("unexpected output {line:?} of the loop"))?;
    said["ops_per_sec"].as_f64().with_context(|| format!("unexpected output {line:?} of the loop"))
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Returns the CPU time of this thread, in the kernel as well.
fn thread_cpu_secs() -> io::Result<f64> {
    cpu_secs(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Returns the CPU time that a clock of this process counts.
fn cpu_secs(clock: libc::clockid_t) -> io::Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec through the pointer, which lives until it returns.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9),
        _ => Err(io::Error::last_os_error()),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the program of this name that was built beside this one.
fn beside(name: &str) -> anyhow::Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("no {} is built\n  hint: run `cargo xtask bench`", path.display());
    }
    Ok(Command::new(path))
}

fn workload() -> anyhow::Result<Command> {
    beside("workload")
}

/// Running agent with its defaults, except for the port.
struct Agent {
    child: Child,
    config: PathBuf,
}

impl Agent {
    fn start() -> anyhow::Result<Self> {
        let config =
            std::env::temp_dir().join(format!("spillway-cost-{}.toml", std::process::id()));
        fs::write(&config, "[serve]\nlisten = \"127.0.0.1:0\"\n")?;
        let child = beside("spillway")?
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let agent = Self { child, config };
        // Attaching takes a third of a second, which is not measured.
        sleep(Duration::from_secs(1));
        Ok(agent)
    }

    /// Returns its user and system time so far.
    fn cpu_secs(&self) -> anyhow::Result<f64> {
        spillway_tests::cpu_secs(self.child.id())
    }

    fn status_mib(&self, field: &str) -> anyhow::Result<f64> {
        Ok(field_bytes(self.child.id(), "status", field)? as f64 / f64::from(1 << 20))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}
