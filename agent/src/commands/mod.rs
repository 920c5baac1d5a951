//! What each command does, from its arguments to what it prints.

pub mod doctor;
pub mod explain;
pub mod replay;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use doctor::Diagnosis;
use replay::{ReplayError, ReplayOptions, ReplaySummary, replay as replay_trace};

use crate::{
    act::{
        FileProblem, Journal, Outcome, OutcomeKind, Pause, check_files,
        drain::{DrainPhase, Override, OverrideFile, StateFile},
        undo_all,
    },
    agent,
    config::{self, Config, ConfigErrors, ConfigProblem},
    os::{proc_reader, sandbox},
    sense::{Hierarchy, Sensors},
    trace::TraceError,
};

/// Why a command did not do what it was asked, by what the exit code says of it.
#[derive(Debug)]
pub enum CommandError {
    /// What the user gave is wrong: exit 2.
    BadInput(anyhow::Error),
    /// It was right and could not be done: exit 1.
    Failed(anyhow::Error),
    /// As above, and the output says it already.
    Told,
    /// The reader of our output closed it.
    OutputClosed,
}

/// `spillway run`. Sensors are started only once the configuration is known to be good.
///
/// # Errors
///
/// A bad configuration; a runtime that cannot start.
pub fn run(
    config: Option<&Path>,
    json: bool,
    sensors: impl FnOnce() -> Sensors,
) -> Result<(), CommandError> {
    let file = config;
    let config = load(file)?;
    Ok(agent::run(&config, file, json, sensors)?)
}

/// `spillway record`.
///
/// # Errors
///
/// A bad configuration; a file that exists or cannot be written.
pub fn record(
    out: &Path,
    duration: Duration,
    config: Option<&Path>,
    sensors: impl FnOnce() -> Sensors,
) -> Result<(), CommandError> {
    let config = load(config)?;
    let to_stdout = out == Path::new("-");
    let writer: Box<dyn Write> =
        if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(create(out)?) };
    let recorded = agent::record(&config, duration, BufWriter::new(writer), sensors)?;
    eprintln!(
        "recorded {} observations in {:.0} s to {}",
        recorded.observations,
        recorded.secs,
        out.display()
    );
    Ok(())
}

/// `spillway check-config`; without a file it prints every default.
///
/// # Errors
///
/// Everything that is wrong with the file.
pub fn check_config(file: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let Some(file) = file else {
        print!("{}", config::commented_defaults());
        return Ok(());
    };
    match config::load(file).and_then(|config| check_named(file, &config)) {
        Ok(_) if json => println!("{}", serde_json::json!({ "file": file, "problems": [] })),
        Ok(_) => println!("{}: ok", file.display()),
        Err(errors) if json => {
            println!("{}", serde_json::to_string(&errors)?);
            return Err(CommandError::BadInput(anyhow!(
                "{}: {} problems",
                file.display(),
                errors.problems().len()
            )));
        }
        Err(errors) => return Err(CommandError::BadInput(errors.into())),
    }
    Ok(())
}

/// Checks the files that a configuration names. Credentials are there only for the service that
/// they are handed to.
fn check_named(file: &Path, config: &Config) -> Result<(), ConfigErrors> {
    let (unknown, wrong): (Vec<_>, Vec<_>) =
        check_files(config).into_iter().partition(|problem| problem.is_unknown);
    for FileProblem { key, message, .. } in unknown {
        eprintln!("{}: {key} is not checked: {message}", file.display());
    }
    let problem = |FileProblem { key, message, hint, .. }| ConfigProblem {
        line: None,
        message: format!("{key}: {message}"),
        hint,
    };
    let problems: Vec<_> = wrong.into_iter().map(problem).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors::new(&file.display().to_string(), problems))
    }
}

/// `spillway replay`.
///
/// # Errors
///
/// A bad configuration, a trace without a header, or a stream that fails.
pub fn replay(trace: &Path, decisions: bool, config: Option<&Path>) -> Result<(), CommandError> {
    let config = load(config)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match replay_trace(open(trace)?, &config, &mut out, ReplayOptions { decisions }) {
        Ok(summary) => {
            report_skips(trace, &summary);
            Ok(())
        }
        Err(ReplayError::Output(TraceError::Io(error))) => Err(error.into()),
        Err(error @ ReplayError::Output(_)) => Err(CommandError::Failed(error.into())),
        Err(ReplayError::Trace(error)) => Err(CommandError::BadInput(
            anyhow::Error::new(error).context(trace.display().to_string()),
        )),
    }
}

fn open(trace: &Path) -> Result<Box<dyn BufRead>, CommandError> {
    if trace == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(trace).with_context(|| format!("cannot open trace {}", trace.display()));
    Ok(Box::new(BufReader::new(file.map_err(CommandError::BadInput)?)))
}

/// `spillway explain`.
///
/// # Errors
///
/// A trace that cannot be read or has no such process; a file that exists or cannot be written.
pub fn explain(
    trace: &Path,
    pid: u32,
    out: Option<&Path>,
    config: Option<&Path>,
) -> Result<(), CommandError> {
    let config = load(config)?;
    let explained = explain::explain(open(trace)?, &config, pid).map_err(|error| {
        CommandError::BadInput(anyhow::Error::new(error).context(trace.display().to_string()))
    })?;
    let svg = explain::draw(&explained)
        .map_err(|error| CommandError::Failed(anyhow!("the picture failed: {error}")))?;
    match out {
        Some(file) => create(file)?.write_all(svg.as_bytes())?,
        None => io::stdout().lock().write_all(svg.as_bytes())?,
    }
    Ok(())
}

/// Silence about a broken trace must not be mistaken for health.
fn report_skips(trace: &Path, summary: &ReplaySummary) {
    if summary.skipped == 0 {
        return;
    }
    let trace = trace.display();
    for skip in &summary.first_skips {
        eprintln!("{trace}: {skip}");
    }
    let sorts: Vec<_> =
        summary.skipped_by_sort.iter().map(|(sort, count)| format!("{count} {sort}")).collect();
    eprintln!(
        "{trace}: skipped {} of {} lines: {}",
        summary.skipped,
        summary.lines,
        sorts.join(", ")
    );
    for (kind, count) in &summary.unknown_kinds {
        eprintln!("{trace}: {count} of unknown kind {kind:?}");
    }
}

/// `spillway doctor`.
///
/// # Errors
///
/// [`Failure::Told`] where nothing at all can be sensed.
pub fn doctor(json: bool, sensors: Sensors) -> Result<(), CommandError> {
    let diagnosis = Diagnosis::make(sensors);
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&diagnosis)?)?;
    } else {
        diagnosis.print(&mut out)?;
    }
    if diagnosis.works() { Ok(()) } else { Err(CommandError::Told) }
}

/// `spillway pause` and `spillway resume`.
///
/// # Errors
///
/// A bad configuration; a file that cannot be made or removed.
pub fn pause(config: Option<&Path>, is_on: bool) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let (pause, word) = (Pause::below(&state_dir), OverrideFile::below(&state_dir));
    let path = pause.path().display();
    let done = if is_on { pause.turn_on() } else { pause.turn_off().and_then(|()| word.clear()) };
    done.with_context(|| format!("{path} cannot be {}", if is_on { "made" } else { "removed" }))
        .map_err(CommandError::Failed)?;
    match is_on {
        true => println!(
            "paused: nothing new is done while {path} is there; `spillway undo` puts back what was"
        ),
        false => println!(
            "not paused, and nothing is said of this node: what is called for is done again"
        ),
    }
    Ok(())
}

/// `spillway drain` and `spillway undrain`. They need no agent, and hold once there is one.
///
/// # Errors
///
/// A bad configuration; a file that cannot be written.
pub fn say(config: Option<&Path>, word: Override) -> Result<(), CommandError> {
    let file = OverrideFile::below(&load(config)?.record.state_dir);
    let path = file.path().display();
    file.say(word)
        .with_context(|| format!("{path} cannot be written"))
        .map_err(CommandError::Failed)?;
    let done = match word {
        Override::Drain => "out of service",
        Override::Maintenance => "out of service, and in maintenance once it has no work",
        Override::Undrain => "in service, and not drained",
    };
    println!(
        "{done}: so it stays, whatever the agent sees, until `spillway resume` removes {path}"
    );
    Ok(())
}

/// `spillway undo`. It needs no agent, and does not wait for one.
///
/// # Errors
///
/// A bad configuration; [`Failure::Told`] where something cannot be put back, or may be there to be
/// put back and cannot be read.
pub fn undo(config: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    // What a journal says may have been written by somebody else: it leads to cgroups, and nowhere
    // else.
    if state_dir.exists() {
        proc_reader::start()?;
        sandbox::files(&state_dir, Hierarchy::detect().mount());
    }
    let journal = Journal::find(&state_dir)
        .with_context(|| format!("cannot look into {}", state_dir.display()));
    let (undone, unread) = match journal {
        Ok(journal) => (journal.map(|journal| undo_all(&journal)).unwrap_or_default(), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    // Neither waits for the other: a journal that is refused keeps nobody's work away.
    let undrained = undrain(&state_dir)?;
    let outcomes: Vec<_> = undone.iter().map(|one| one.outcome(0.0)).chain(undrained).collect();
    let mut out = io::stdout().lock();
    for outcome in &outcomes {
        match outcome.event {
            _ if json => writeln!(out, "{}", serde_json::to_string(&outcome)?)?,
            OutcomeKind::UndrainRequested => writeln!(out, "{}", outcome.why)?,
            event => writeln!(out, "{event} {}: {}", outcome.cgroup, outcome.why)?,
        }
    }
    if let Some(error) = unread {
        return Err(CommandError::Failed(error));
    }
    if outcomes.is_empty() && !json {
        writeln!(out, "nothing to undo: {} says that nothing is changed", state_dir.display())?;
    }
    let has_failed = outcomes
        .iter()
        .any(|one| matches!(one.event, OutcomeKind::Failed | OutcomeKind::UndrainFailed));
    if has_failed { Err(CommandError::Told) } else { Ok(()) }
}

/// Has a node that is drained, or about to be, put back into service, and kept there. Gives what
/// there was to do, and what cannot be read.
fn undrain(state_dir: &Path) -> Result<Vec<Outcome>, CommandError> {
    let store = StateFile::below(state_dir);
    let outcome = |event, why| Outcome {
        t: 0.0,
        event,
        id: "".into(),
        cgroup: "node".into(),
        limit_bytes: None,
        why,
    };
    let unreadable = store.unreadable().into_iter().map(|why| {
        // One hint is enough.
        let why = why.split("\n  hint: ").next().unwrap_or_default();
        let hint = "look at the file, undrain the node if need be, and remove the file";
        outcome(
            OutcomeKind::UndrainFailed,
            format!("whether it is drained is not known: {why}\n  hint: {hint}"),
        )
    });
    let mut outcomes: Vec<_> = unreadable.collect();
    if store.peek().is_some_and(|kept| kept.phase != DrainPhase::Healthy) {
        let word = OverrideFile::below(state_dir);
        let path = word.path().display();
        word.say(Override::Undrain)
            .with_context(|| format!("{path} cannot be written"))
            .map_err(CommandError::Failed)?;
        let why = "this node is undrained by its agent, now or when it is started, until `spillway resume`";
        outcomes.push(outcome(OutcomeKind::UndrainRequested, why.to_owned()));
    }
    Ok(outcomes)
}

fn load(file: Option<&Path>) -> Result<Config, CommandError> {
    file.map_or_else(|| Ok(Config::default()), config::load)
        .map_err(|errors| CommandError::BadInput(errors.into()))
}

/// A new file that only its owner may read: a trace names what runs on the host.
fn create(path: &Path) -> Result<File, CommandError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let hint = if fs::exists(path).unwrap_or(false) {
            "\n  hint: remove it, or name another file"
        } else {
            ""
        };
        CommandError::BadInput(anyhow!("cannot create {}: {error}{hint}", path.display()))
    })
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(error.into())
        }
    }
}

impl From<serde_json::Error> for CommandError {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TraceError> for CommandError {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Io(error) => error.into(),
            error => Self::Failed(error.into()),
        }
    }
}
