//! The `spillway` command: what it takes, and what its exit code means.

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
    os::nonblocking_writer::NonblockingWriter,
    sense::Sensors,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::time::uptime;

/// The last of the log is read by then, or is not waited for.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 bad usage, configuration or trace.

Examples:
  spillway run                                  watch this host with every default
  spillway run --config /etc/spillway.toml --json
  spillway record --out host.jsonl --duration 60s
  spillway replay host.jsonl --decisions
  spillway doctor                               what each probe attached to, and why not
  spillway pause                                do nothing new, whatever the agent is at
  spillway drain                                take this node out of service until `spillway resume`
  spillway undo                                 put back everything that was changed, agent or none
  spillway check-config --print-defaults > spillway.toml";

/// Sees memory leaks and overloaded listeners before they become outages.
#[derive(Parser)]
#[command(name = "spillway", version, after_help = EXIT_CODES)]
struct Cli {
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch this host until stopped. Verdicts go to standard output, logs to standard error.
    Run {
        /// Configuration file; every default without one.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line instead of sentences.
        #[arg(long)]
        json: bool,
        /// Use no BPF, only /proc and sock_diag.
        #[arg(long)]
        no_bpf: bool,
    },
    /// Check a configuration file and report everything that is wrong with it.
    CheckConfig {
        /// The file.
        #[arg(required_unless_present = "print_defaults")]
        file: Option<PathBuf>,
        /// Print every option with its default instead.
        #[arg(long, conflicts_with = "file")]
        print_defaults: bool,
        /// Print the problems as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Record what the sensors see, as a trace.
    Record {
        /// Where to write; `-` for standard output. A file that exists is not overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long, as in 60s or 2h.
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Configuration file, for the intervals.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Use no BPF, only /proc and sock_diag.
        #[arg(long)]
        no_bpf: bool,
    },
    /// Run the detectors over a trace and print their verdicts, one JSON object a line.
    Replay {
        /// The trace; `-` for standard input.
        trace: PathBuf,
        /// Print what the policy would do, too.
        #[arg(long)]
        decisions: bool,
        /// Configuration file; every default without one.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Draw one process of a trace: its memory, what was claimed about it, and where that leads.
    Explain {
        /// The trace; `-` for standard input.
        trace: PathBuf,
        /// Which process.
        #[arg(long)]
        pid: u32,
        /// Where to write the picture (SVG); standard output without it. A file that exists is not
        /// overwritten.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Configuration file; every default without one.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop every action of an agent, even of one that hangs. What was changed stays until
    /// `spillway undo`.
    Pause {
        /// Configuration file, for record.state_dir.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Let the agent act again, and decide by itself whether this node is drained.
    Resume {
        /// Configuration file, for record.state_dir.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Take this node out of service, and keep it out, whatever the agent sees.
    Drain {
        /// Have balancers not even look at it, once it has no work.
        #[arg(long)]
        maintenance: bool,
        /// Configuration file, for record.state_dir.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Put this node into service, and keep it there, whatever the agent sees.
    Undrain {
        /// Configuration file, for record.state_dir.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Put back everything that was changed on this host, with or without an agent. Exits 1 if
    /// something cannot be.
    Undo {
        /// Configuration file, for record.state_dir.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Say what each probe attached to, what is degraded, and why. Exits 1 if nothing at all works.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Use no BPF, only /proc and sock_diag.
        #[arg(long)]
        no_bpf: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = match log_to_stderr(cli.verbose, matches!(cli.command, Command::Run { .. })) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("spillway: nothing can be logged: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match cli.command {
        Command::Run { config, json, no_bpf } => {
            commands::run(config.as_deref(), json, || sensors(no_bpf))
        }
        Command::CheckConfig { file, json, .. } => commands::check_config(file.as_deref(), json),
        Command::Record { out, duration, config, no_bpf } => {
            commands::record(&out, duration, config.as_deref(), || sensors(no_bpf))
        }
        Command::Replay { trace, decisions, config } => {
            commands::replay(&trace, decisions, config.as_deref())
        }
        Command::Explain { trace, pid, out, config } => {
            commands::explain(&trace, pid, out.as_deref(), config.as_deref())
        }
        Command::Pause { config } => commands::pause(config.as_deref(), true),
        Command::Resume { config } => commands::pause(config.as_deref(), false),
        Command::Drain { maintenance, config } => commands::say(
            config.as_deref(),
            if maintenance { Override::Maintenance } else { Override::Drain },
        ),
        Command::Undrain { config } => commands::say(config.as_deref(), Override::Undrain),
        Command::Undo { config, json } => commands::undo(config.as_deref(), json),
        Command::Doctor { json, no_bpf } => commands::doctor(json, sensors(no_bpf)),
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
        Err(CommandError::Told) => ExitCode::FAILURE,
        // Whoever read our output has what they wanted.
        Err(CommandError::OutputClosed) => ExitCode::SUCCESS,
    }
}

fn sensors(no_bpf: bool) -> Sensors {
    if no_bpf { Sensors::without_bpf("--no-bpf was given") } else { Sensors::start() }
}

/// The log of a daemon is written beside it, by what is given; that of a command, by itself.
fn log_to_stderr(verbose: u8, is_daemon: bool) -> io::Result<Option<NonblockingWriter>> {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_timer(uptime())
        .with_target(false)
        .with_max_level(level);
    if !is_daemon {
        log.with_writer(io::stderr).init();
        return Ok(None);
    }
    let outlet = NonblockingWriter::start("standard error", io::stderr())?;
    let writer = outlet.clone();
    log.with_writer(move || writer.clone()).init();
    Ok(Some(outlet))
}
