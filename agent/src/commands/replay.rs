//! `spillway replay`: runs the engine over a trace, as fast as it can be read, deterministically.
//!
//! Prints one JSON object per line for each verdict, in order, and with `--decisions` those of the
//! policy as well. The summary counts the lines that were skipped, so that an empty output from a
//! broken trace is not mistaken for a healthy host.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufWriter, Write},
    path::Path,
};

use thiserror::Error;

use super::{CommandError, load, open_trace};
use crate::{
    config::Config,
    engine::{Engine, Output},
    trace::{
        LineProblem, SkippedLine,
        format::{TraceError, TraceReader, write_line},
    },
};

/// Skipped lines that the summary quotes; the others are only counted. Enough to see a pattern.
const SKIPS_KEPT: usize = 10;

/// Unknown kinds that are counted by name. Bounded, because a hostile trace can invent any number.
const KINDS_KEPT: usize = 16;

/// Output of a replay.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayOptions {
    /// Prints decisions as well as verdicts.
    pub decisions: bool,
}

/// Totals of a replay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplaySummary {
    /// Lines read, including the header and empty lines.
    pub lines: u64,
    /// Observations passed to the engine.
    pub observations: u64,
    /// Lines skipped, including those of unknown kinds.
    pub skipped: u64,
    /// Lines skipped, by reason.
    pub skipped_by_sort: BTreeMap<&'static str, u64>,
    /// Lines of kinds unknown to this version, for the first 16 kinds.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// First 10 lines that were skipped.
    pub first_skips: Vec<SkippedLine>,
    /// Verdicts printed.
    pub verdicts: u64,
    /// Decisions made, printed or not.
    pub decisions: u64,
}

/// Failure that ended a replay early.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(TraceError),
    /// The output cannot be written.
    #[error("cannot write the verdicts: {0}")]
    Output(TraceError),
}

/// Replays a trace to standard output, and reports skipped lines on standard error.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the trace has no valid header, or a stream
/// fails.
pub fn run(trace: &Path, decisions: bool, config: Option<&Path>) -> Result<(), CommandError> {
    let config = load(config)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match replay(open_trace(trace)?, &config, &mut out, ReplayOptions { decisions }) {
        Ok(summary) => {
            report_skipped(trace, &summary);
            Ok(())
        }
        Err(ReplayError::Output(TraceError::Io(error))) => Err(error.into()),
        Err(error @ ReplayError::Output(_)) => Err(CommandError::Failed(error.into())),
        Err(ReplayError::Trace(error)) => Err(CommandError::BadInput(
            anyhow::Error::new(error).context(trace.display().to_string()),
        )),
    }
}

fn report_skipped(trace: &Path, summary: &ReplaySummary) {
    if summary.skipped == 0 {
        return;
    }
    let trace = trace.display();
    for skipped in &summary.first_skips {
        eprintln!("{trace}: {skipped}");
    }
    let reasons: Vec<_> =
        summary.skipped_by_sort.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    eprintln!(
        "{trace}: skipped {} of {} lines: {}",
        summary.skipped,
        summary.lines,
        reasons.join(", ")
    );
    for (kind, count) in &summary.unknown_kinds {
        eprintln!("{trace}: {count} of unknown kind {kind:?}");
    }
}

/// Runs the engine over a trace and writes its verdicts to `out`.
///
/// # Errors
///
/// Returns an error if the header is invalid, the trace cannot be read to its end, or `out` cannot
/// be written.
pub fn replay<R: BufRead, W: Write>(
    input: R,
    config: &Config,
    out: &mut W,
    options: ReplayOptions,
) -> Result<ReplaySummary, ReplayError> {
    let mut reader = TraceReader::new(input).map_err(ReplayError::Trace)?;
    let mut engine = Engine::new(config, reader.header().host);
    let mut summary = ReplaySummary::default();
    let mut output = Output::default();
    for observation in &mut reader {
        match observation {
            Ok(observation) => {
                summary.observations += 1;
                engine.apply_into(&observation, &mut output);
            }
            Err(skip) => summary.count(skip),
        }
        for verdict in output.verdicts.drain(..) {
            summary.verdicts += 1;
            write_line(out, &verdict).map_err(ReplayError::Output)?;
        }
        for decision in output.decisions.drain(..) {
            summary.decisions += 1;
            if options.decisions {
                write_line(out, &decision).map_err(ReplayError::Output)?;
            }
        }
    }
    summary.lines = reader.lines();
    reader.finish().map_err(|error| ReplayError::Trace(error.into()))?;
    out.flush().map_err(|error| ReplayError::Output(error.into()))?;
    Ok(summary)
}

impl ReplaySummary {
    fn count(&mut self, skip: SkippedLine) {
        self.skipped += 1;
        *self.skipped_by_sort.entry(skip.problem.sort()).or_default() += 1;
        if let LineProblem::UnknownKind(kind) = &skip.problem
            && (self.unknown_kinds.len() < KINDS_KEPT || self.unknown_kinds.contains_key(kind))
        {
            *self.unknown_kinds.entry(kind.clone()).or_default() += 1;
        }
        if self.first_skips.len() < SKIPS_KEPT {
            self.first_skips.push(skip);
        }
    }
}
