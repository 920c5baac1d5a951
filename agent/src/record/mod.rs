//! Records: traces of what was seen, and what the core makes of them.

mod line;
mod print;
mod replay;
mod skip;
pub mod spool;
mod trace;

pub use print::EventPrinter;
pub use replay::{ReplayError, ReplayOptions, ReplaySummary, replay};
pub use skip::{LineProblem, SkippedLine};
pub use trace::{TRACE_VERSION, TraceError, TraceHeader, TraceReader, TraceWriter};
