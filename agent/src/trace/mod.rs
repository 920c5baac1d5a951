//! Traces: recorded observations, as JSON Lines.

pub(crate) mod format;
mod line_reader;
mod skipped_line;

pub use format::{TRACE_VERSION, TraceError, TraceHeader, TraceReader, TraceWriter};
pub use skipped_line::{LineProblem, SkippedLine};
