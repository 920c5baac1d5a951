//! Records: traces of what was seen, and what the core makes of them.

mod line;
mod print;
mod replay;
mod skip;
pub mod spool;
mod trace;

pub use print::Printer;
pub use replay::{ReplayError, ReplayOptions, ReplaySummary, replay};
pub use skip::{Problem, Skip};
pub use trace::{Header, Reader, TRACE_VERSION, TraceError, Writer};
