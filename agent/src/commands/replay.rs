//! Replay: the core over a trace, as fast as it reads, with the same answer every time.
//!
//! Prints one JSON object a line for each verdict, in the order in which the core came to them, and
//! with `decisions` what policy would do about each. The summary says what was read and what could
//! not be, so that silence about a broken trace is not mistaken for health.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
};

use thiserror::Error;

use crate::{
    config::Config,
    engine::{Engine, Output},
    trace::{
        LineProblem, SkippedLine,
        format::{TraceError, TraceReader, write_line},
    },
};

/// Problems that are kept word for word; the rest is counted. Enough to see a pattern.
const SKIPS_KEPT: usize = 10;

/// Unknown kinds that are counted by name; a hostile trace may make up any number.
const KINDS_KEPT: usize = 16;

/// What to print.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayOptions {
    /// Whether to print decisions too.
    pub decisions: bool,
}

/// What a replay read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplaySummary {
    /// Lines, the header and empty ones included.
    pub lines: u64,
    /// Observations that the core took.
    pub observations: u64,
    /// Lines that could not be used, unknown kinds included.
    pub skipped: u64,
    /// The same by sort of problem.
    pub skipped_by_sort: BTreeMap<&'static str, u64>,
    /// Lines of kinds that this version does not know, by name, for the first 16 names.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// The first 10 lines that could not be used.
    pub first_skips: Vec<SkippedLine>,
    /// Verdicts printed.
    pub verdicts: u64,
    /// Decisions made, printed or not.
    pub decisions: u64,
}

/// Why a replay ended early.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(TraceError),
    /// The output cannot be written.
    #[error("cannot write the verdicts: {0}")]
    Output(TraceError),
}

/// Runs the core over a trace and prints its verdicts.
///
/// # Errors
///
/// If the header is bad, the trace cannot be read to its end, or the output cannot be written.
pub fn replay<R: BufRead, W: Write>(
    input: R,
    config: &Config,
    out: &mut W,
    options: ReplayOptions,
) -> Result<ReplaySummary, ReplayError> {
    let mut reader = TraceReader::new(input).map_err(ReplayError::Trace)?;
    let mut core = Engine::new(config, reader.header().host);
    let mut summary = ReplaySummary::default();
    let mut output = Output::default();
    for observation in &mut reader {
        match observation {
            Ok(observation) => {
                summary.observations += 1;
                core.apply_into(&observation, &mut output);
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
