//! The `spillway` command: arguments and exit codes.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use spillway_agent::{
    act::drain::Override,
    commands::{self, CommandError},
    os::{journal_stream::stderr_is_journal, nonblocking_writer::NonblockingWriter},
    sense::Sensors,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::{
    MakeWriter, SubscriberBuilder,
    format::{DefaultFields, Format},
    time::SystemTime,
};

/// Maximum wait at exit for the rest of the log to be written.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 bad usage, configuration or trace.

Examples:
  spillway run                                  watch this host with every default
  spillway run --config /etc/spillway.toml --json
  spillway record --out host.jsonl --duration 60s
  spillway replay host.jsonl --decisions
  spillway doctor                               check what each probe can see on this host
  spillway pause                                stop all new actions
  spillway drain                                drain this node until `spillway resume`
  spillway undo                                 restore everything that Spillway changed
  spillway check-config --print-defaults > spillway.toml";

/// Detects leaks, overload and exhaustion on a Linux host before they become outages.
#[derive(Parser)]
#[command(name = "spillway", version, after_help = EXIT_CODES)]
struct Cli {
    /// Log more; repeat for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch this host until stopped; print verdicts to standard output, logs to standard error
    Run {
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object per line instead of sentences
        #[arg(long)]
        json: bool,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
    /// Check a configuration file and report every problem at once
    CheckConfig {
        /// File to check
        #[arg(required_unless_present = "print_defaults")]
        file: Option<PathBuf>,
        /// Print every option with its default instead
        #[arg(long, conflicts_with = "file")]
        print_defaults: bool,
        /// Print the problems as JSON
        #[arg(long)]
        json: bool,
    },
    /// Record everything that the sensors report as a trace
    Record {
        /// New file to write, never overwritten; `-` for standard output
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Duration, such as 60s or 2h
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Configuration file, for its intervals
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
    /// Run the detectors over a trace and print their verdicts, one JSON object per line
    Replay {
        /// Trace to read; `-` for standard input
        trace: PathBuf,
        /// Print the policy's decisions as well
        #[arg(long)]
        decisions: bool,
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Draw one process of a trace: its memory, its verdicts and its forecast
    Explain {
        /// Trace to read; `-` for standard input
        trace: PathBuf,
        /// Process id
        #[arg(long)]
        pid: u32,
        /// New SVG file, never overwritten [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Configuration file [default: every option at its default]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop all new actions; those already taken stay until `spillway undo`
    Pause {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Allow actions again, and return control of drains to the agent
    Resume {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Drain this node and keep it drained until `spillway resume`
    Drain {
        /// Report `maint` instead of `drain` once all connections are closed
        #[arg(long)]
        maintenance: bool,
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Keep this node in service, at a weight of 100 %, until `spillway resume`
    Undrain {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Restore everything that Spillway changed on this host; exits 1 if something cannot be
    /// restored
    Undo {
        /// Configuration file, for its record.state_dir
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show the nodes of this node's group, what the group could lose, and whether this node could
    /// leave now; exits 1 if the coordinator does not answer
    Fleet {
        /// Configuration file, for its [fleet]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Report how each probe is attached and what is degraded; exits 1 if nothing works
    Doctor {
        /// Configuration file, to check its [fleet] as well
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Use only /proc and sock_diag, no BPF
        #[arg(long)]
        no_bpf: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = match log_to_stderr(cli.verbose, matches!(cli.command, Command::Run { .. })) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("spillway: cannot start logging: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match cli.command {
        Command::Run { config, json, no_bpf } => {
            let log = log.as_ref().map(NonblockingWriter::dropped);
            commands::run::run(config.as_deref(), json, log, || sensors(no_bpf))
        }
        Command::CheckConfig { file, json, .. } => {
            commands::check_config::check_config(file.as_deref(), json)
        }
        Command::Record { out, duration, config, no_bpf } => {
            commands::record::record(&out, duration, config.as_deref(), || sensors(no_bpf))
        }
        Command::Replay { trace, decisions, config } => {
            commands::replay::run(&trace, decisions, config.as_deref())
        }
        Command::Explain { trace, pid, out, config } => {
            commands::explain::run(&trace, pid, out.as_deref(), config.as_deref())
        }
        Command::Pause { config } => commands::pause::pause(config.as_deref()),
        Command::Resume { config } => commands::pause::resume(config.as_deref()),
        Command::Drain { maintenance, config } => commands::drain::set_override(
            config.as_deref(),
            if maintenance { Override::Maintenance } else { Override::Drain },
        ),
        Command::Undrain { config } => {
            commands::drain::set_override(config.as_deref(), Override::Undrain)
        }
        Command::Undo { config, json } => commands::undo::undo(config.as_deref(), json),
        Command::Fleet { config, json } => commands::fleet::fleet(config.as_deref(), json),
        Command::Doctor { config, json, no_bpf } => {
            commands::doctor::doctor(config.as_deref(), json, sensors(no_bpf))
        }
    };
    if let Some(log) = log {
        log.drain(LOGGED_WITHIN);
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::BadInput(error)) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
        Err(CommandError::Failed(error)) => {
            eprintln!("spillway: {error:#}");
            ExitCode::FAILURE
        }
        Err(CommandError::AlreadyReported) => ExitCode::FAILURE,
        // The reader wants no more, as in `spillway replay … | head`.
        Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
    }
}

fn sensors(no_bpf: bool) -> Sensors {
    if no_bpf { Sensors::without_bpf("--no-bpf was given") } else { Sensors::start() }
}

/// Logs to standard error: through a thread for a daemon, so that a blocked pipe never blocks the
/// loop, and directly for a command.
fn log_to_stderr(verbose: u8, is_daemon: bool) -> io::Result<Option<NonblockingWriter>> {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_timer(SystemTime)
        .with_target(false)
        .with_max_level(level);
    if !is_daemon {
        init(log.with_writer(io::stderr));
        return Ok(None);
    }
    let writer = NonblockingWriter::start("stderr", io::stderr())?;
    let lines = writer.clone();
    init(log.with_writer(move || lines.clone()));
    Ok(Some(writer))
}

/// Starts logging, each line with its time in UTC (RFC 3339) unless the journal adds the time.
fn init<W>(log: SubscriberBuilder<DefaultFields, Format, LevelFilter, W>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    if stderr_is_journal() {
        log.without_time().init();
    } else {
        log.init();
    }
}
