//! The `spillway` command: from arguments to exit codes.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser as _;
use spillway_agent::{
    act::drain::Override,
    cli::{Cli, Command},
    commands::{
        self, CommandError,
        explain::{CountName, TraceSubject},
    },
    os::{
        allocator,
        journal_stream::stderr_is_journal,
        journald::{JournalLayer, JournalSocket},
        nonblocking_writer::NonblockingWriter,
    },
    sense::Sensors,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry,
    fmt::{
        MakeWriter, SubscriberBuilder,
        format::{DefaultFields, Format},
        time::SystemTime,
    },
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Maximum wait at exit for the rest of the log to be written.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    allocator::set_up();
    let cli = Cli::parse();
    let log = match log_to_stderr(cli.verbose, matches!(cli.command, Command::Run { .. })) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("spillway: cannot start logging: {error}");
            return ExitCode::FAILURE;
        }
    };
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    if let Err(error) = spillway_agent::net::dns::without_plugins() {
        eprintln!("spillway: cannot restrict lookups of names to /etc/hosts and DNS: {error}");
        return ExitCode::FAILURE;
    }
    let done = match cli.command {
        Command::Run { config, json, no_bpf } => {
            let log = log.as_ref().map(NonblockingWriter::dropped);
            commands::run::run(config.as_deref(), json, log, || sensors(no_bpf))
        }
        Command::CheckConfig { file, json, .. } => {
            commands::check_config::check_config(file.as_deref(), json)
        }
        Command::Record { out, last: Some(last), config, .. } => {
            commands::record::record_last(&out, last, config.as_deref())
        }
        Command::Record { out, duration, config, no_bpf, last: None } => {
            commands::record::record(&out, duration, config.as_deref(), || sensors(no_bpf))
        }
        Command::Replay { trace, decisions, config } => {
            commands::replay::run(&trace, decisions, config.as_deref())
        }
        Command::Explain { incident: Some(id), out, config, .. } => {
            commands::explain::incident(&id, out.as_deref(), config.as_deref())
        }
        Command::Explain { trace, pid, count, out, config, incident: None } => {
            // The command line requires a trace, and a pid or a count.
            let (trace, pid) = (trace.unwrap_or_default(), pid.unwrap_or_default());
            let subject = count.map_or(TraceSubject::Process(pid), |name| {
                TraceSubject::Count(CountName::from(&*name))
            });
            commands::explain::run(&trace, &subject, out.as_deref(), config.as_deref())
        }
        Command::Status { config, json } => commands::status::status(config.as_deref(), json),
        Command::Top { config } => commands::top::top(config.as_deref()),
        Command::Pause { config } => commands::pause::pause(config.as_deref()),
        Command::Resume { config } => commands::pause::resume(config.as_deref()),
        Command::Drain { maintenance, config } => commands::drain::set_override(
            config.as_deref(),
            if maintenance { Override::Maintenance } else { Override::Drain },
        ),
        Command::Undrain { config } => {
            commands::drain::set_override(config.as_deref(), Override::Undrain)
        }
        Command::Undo { config, keep_drain, json } => {
            commands::undo::undo(config.as_deref(), keep_drain, json)
        }
        Command::Fleet { config, json } => commands::fleet::fleet(config.as_deref(), json),
        Command::Doctor { config, json, no_bpf } => {
            commands::doctor::doctor(config.as_deref(), json, sensors(no_bpf))
        }
    };
    if let Some(log) = log {
        log.drain(LOGGED_WITHIN);
    }
    // systemd reads the priority from the beginning of a line.
    let prefix = if stderr_is_journal() { "<3>" } else { "" };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::BadInput(error)) => {
            eprintln!("{prefix}{error:#}");
            ExitCode::from(2)
        }
        Err(CommandError::Failed(error)) => {
            eprintln!("{prefix}spillway: {error:#}");
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
/// loop, and directly for a command. A service of systemd logs records with priorities and fields.
fn log_to_stderr(verbose: u8, is_daemon: bool) -> io::Result<Option<NonblockingWriter>> {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    if is_daemon
        && stderr_is_journal()
        && let Ok(journal) = JournalSocket::connect()
    {
        let writer = NonblockingWriter::start("stderr", journal)?;
        Registry::default().with(level).with(JournalLayer::new(writer.clone())).init();
        return Ok(Some(writer));
    }
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
