//! `spillway explain`: draws one process or one count of a trace, with its verdicts and its
//! forecast, or an incident of the last day from the agent's history.
//!
//! The trace is replayed through the same engine as `spillway replay`, so the picture shows the
//! verdicts that the agent gave.

mod count;
mod ended_lives;
mod explained;
mod incident;
mod series;
mod svg;

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::anyhow;

use super::{CommandError, create_new, load, open_trace};
use crate::{act::notify::printable, clock::Clock, history::StoredHistory};

pub use count::{CountName, ExplainedCount};
pub use explained::{ExplainError, Explained, Life, explain};
pub use svg::{BLUE, GREY, Picture, VERMILLION, draw};

/// Maximum length of an id in a message, in characters.
const ID_CHARS_MAX: usize = 200;

/// Subject of a picture in a trace.
#[derive(Debug, Clone)]
pub enum TraceSubject {
    /// A process, by its pid.
    Process(u32),
    /// A count.
    Count(CountName),
}

/// Writes the picture to a new file, or to standard output.
///
/// # Errors
///
/// Returns an error if the trace cannot be read or has no such subject, or if the file exists or
/// cannot be written.
pub fn run(
    trace: &Path,
    subject: &TraceSubject,
    out: Option<&Path>,
    config: Option<&Path>,
) -> Result<(), CommandError> {
    let (config, input) = (load(config)?, open_trace(trace)?);
    let drawn = match subject {
        TraceSubject::Process(pid) => {
            explain(input, &config, *pid).map(|explained| draw(&explained.picture()))
        }
        TraceSubject::Count(name) => {
            ExplainedCount::read(input, &config, name).map(|explained| draw(&explained.picture()))
        }
    };
    let svg = drawn
        .map_err(|error| {
            CommandError::BadInput(anyhow::Error::new(error).context(trace.display().to_string()))
        })?
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
