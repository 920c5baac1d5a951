//! The only reader of the clock in these commands, so that tests can pass in any time elsewhere.

use std::path::Path;
use std::time::{Duration, Instant};

/// Reads the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock here")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since a file was written; `None` if it does not exist, or if its time is in the future.
pub fn age(path: &Path) -> Option<Duration> {
    path.metadata().ok()?.modified().ok()?.elapsed().ok()
}
