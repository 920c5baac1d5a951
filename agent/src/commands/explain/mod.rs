//! `spillway explain`: draws one process of a trace, with its verdicts and its forecast, or an
//! incident of the last day from the agent's history.
//!
//! The trace is replayed through the same engine as `spillway replay`, so the picture shows the
//! verdicts that the agent gave. A trace may not fit in memory, so a long series is thinned to
//! every other point, repeatedly if necessary.

mod incident;
mod svg;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write as _},
    path::Path,
    sync::Arc,
};

use anyhow::anyhow;
use thiserror::Error;

use super::{CommandError, create_new, load, open_trace};
use crate::{
    act::notify::printable,
    clock::Clock,
    config::Config,
    detect::{Claim, Verdict},
    engine::{Engine, Output},
    history::StoredHistory,
    sense::{Fact, ProcessFact},
    trace::{TraceError, TraceReader},
};

pub use svg::{BLUE, GREY, VERMILLION, draw};

/// Maximum points kept for one process: four per pixel of the picture.
const POINTS_MAX: usize = 4_096;

/// Maximum length of an id in a message, in characters.
const ID_CHARS_MAX: usize = 200;

/// Maximum processes listed if the requested one is missing.
const NAMED_MAX: usize = 10;

/// Failure to draw a picture.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The trace has no such process.
    #[error("the trace has no process with pid {pid}\n  hint: {others}")]
    NoProcess {
        /// Requested pid.
        pid: u32,
        /// Hint that lists the largest processes of the trace.
        others: String,
    },
}

/// History of one pid.
#[derive(Debug, Default)]
pub struct Explained {
    /// Process id.
    pub pid: u32,
    /// Processes that had this pid, in order.
    pub lives: Vec<Life>,
    /// Leak verdicts about it, raised and cleared, in order.
    pub verdicts: Vec<Verdict>,
    /// First and last time of the trace, in seconds of its clock.
    pub span: Option<(f64, f64)>,
    /// Limit of the process's memory when it was last seen, in bytes; `None` if the trace does not
    /// say.
    pub limit_bytes: Option<u64>,
}

/// One process, from its start to its exit.
#[derive(Debug)]
pub struct Life {
    /// Start time in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_ticks: u64,
    /// Command name when it was last seen.
    pub comm: Arc<str>,
    /// Cgroup when it was last seen.
    pub cgroup: Arc<str>,
    /// Time in seconds of the trace's clock, and private memory in bytes.
    pub points: Vec<(f64, u64)>,
    /// One sample in `stride` is kept.
    stride: usize,
    seen: usize,
}

impl Life {
    fn of(fact: &ProcessFact) -> Self {
        let (comm, cgroup) = (fact.comm.clone(), fact.cgroup.clone());
        Self {
            start_ticks: fact.id.start_ticks,
            comm,
            cgroup,
            points: Vec::new(),
            stride: 1,
            seen: 0,
        }
    }

    fn add(&mut self, t: f64, fact: &ProcessFact) {
        self.comm = fact.comm.clone();
        self.cgroup = fact.cgroup.clone();
        if self.seen.is_multiple_of(self.stride) {
            self.points.push((t, fact.private_bytes()));
        }
        self.seen += 1;
        if self.points.len() > POINTS_MAX {
            let mut kept = 0;
            self.points.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

/// Writes the picture to a new file, or to standard output.
///
/// # Errors
///
/// Returns an error if the trace cannot be read or has no such process, or if the file exists or
/// cannot be written.
pub fn run(
    trace: &Path,
    pid: u32,
    out: Option<&Path>,
    config: Option<&Path>,
) -> Result<(), CommandError> {
    let config = load(config)?;
    let explained = explain(open_trace(trace)?, &config, pid).map_err(|error| {
        CommandError::BadInput(anyhow::Error::new(error).context(trace.display().to_string()))
    })?;
    let svg = draw(&explained)
        .map_err(|error| CommandError::Failed(anyhow!("cannot draw the picture: {error}")))?;
    write(&svg, out)
}

/// Draws an incident of the last day from the agent's history, to a new file or to standard output.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the history has no such incident, or the file
/// exists or cannot be written.
pub fn incident(id: &str, out: Option<&Path>, config: Option<&Path>) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let clock = Clock::start();
    let history = StoredHistory::below(state_dir.clone(), clock);
    let events = history.events(|event| event.ids.iter().any(|one| one == id));
    let svg = events.and_then(|events| incident::draw(id, &events, &history, clock.unix_ms()));
    let svg = svg.ok_or_else(|| {
        CommandError::BadInput(anyhow!(
            "the history of the last day below {} has no incident {}\n  hint: `spillway status \
             --json` has the ids of those that are open; with another record.state_dir use \
             --config FILE, and sudo if the directory is root's",
            state_dir.display(),
            printable(id, ID_CHARS_MAX)
        ))
    })?;
    write(&svg, out)
}

fn write(svg: &str, out: Option<&Path>) -> Result<(), CommandError> {
    match out {
        Some(file) => create_new(file)?.write_all(svg.as_bytes())?,
        None => io::stdout().lock().write_all(svg.as_bytes())?,
    }
    Ok(())
}

/// Replays a trace and collects the history of one pid. Skips invalid lines.
///
/// # Errors
///
/// Returns an error if the trace cannot be read or has no such process.
pub fn explain<R: BufRead>(input: R, config: &Config, pid: u32) -> Result<Explained, ExplainError> {
    let mut reader = TraceReader::new(input)?;
    let mut engine = Engine::new(config, reader.header().host);
    let mut output = Output::default();
    let mut explained = Explained { pid, ..Explained::default() };
    let mut others: BTreeMap<u32, (Arc<str>, u64)> = BTreeMap::new();
    let mut available_bytes = None;
    for observation in (&mut reader).flatten() {
        let t = observation.t;
        explained.span = Some(explained.span.map_or((t, t), |(first, last)| (first, t.max(last))));
        engine.apply_into(&observation, &mut output);
        output.decisions.clear();
        let of_pid =
            |verdict: &Verdict| matches!(&verdict.claim, Claim::Leak(claim) if claim.id.pid == pid);
        explained.verdicts.extend(output.verdicts.drain(..).filter(of_pid));
        match &observation.fact {
            Fact::Host(host) => available_bytes = Some(host.mem_available_bytes),
            Fact::Process(fact) if fact.id.pid == pid => explained.add(t, fact, available_bytes),
            Fact::Process(fact) => {
                others.insert(fact.id.pid, (fact.comm.clone(), fact.private_bytes()));
            }
            _ => {}
        }
    }
    reader.finish().map_err(TraceError::from)?;
    if explained.lives.is_empty() {
        return Err(ExplainError::NoProcess { pid, others: largest(&others) });
    }
    Ok(explained)
}

impl Explained {
    fn add(&mut self, t: f64, fact: &ProcessFact, available_bytes: Option<u64>) {
        if self.lives.last().is_none_or(|life| life.start_ticks != fact.id.start_ticks) {
            self.lives.push(Life::of(fact));
        }
        if let Some(life) = self.lives.last_mut() {
            life.add(t, fact);
        }
        let of_host =
            available_bytes.map(|available| fact.private_bytes().saturating_add(available));
        self.limit_bytes = fact.memory_max_bytes.into_iter().chain(of_host).min();
    }
}

fn largest(others: &BTreeMap<u32, (Arc<str>, u64)>) -> String {
    let mut others: Vec<_> = others.iter().collect();
    others.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let named: Vec<_> =
        others.iter().take(NAMED_MAX).map(|(pid, (comm, _))| format!("{pid} ({comm})")).collect();
    match named.len() {
        0 => "it has no processes at all".to_owned(),
        count => format!("the largest of its {} are {}", others.len().max(count), named.join(", ")),
    }
}
