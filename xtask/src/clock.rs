//! The only reader of time in these commands, so that everything else can be tested with a time it is given.

use std::time::Instant;

/// The monotonic clock, now.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock here")]
pub fn now() -> Instant {
    Instant::now()
}
