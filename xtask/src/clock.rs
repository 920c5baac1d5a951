//! The only reader of time in these commands, so that everything else can be tested with a time it
//! is given.

use std::path::Path;
use std::time::{Duration, Instant};

/// The monotonic clock, now.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock here")]
pub fn now() -> Instant {
    Instant::now()
}

/// How long ago a file was written; `None` where there is none, or where it was written in the
/// future.
pub fn age(path: &Path) -> Option<Duration> {
    path.metadata().ok()?.modified().ok()?.elapsed().ok()
}
