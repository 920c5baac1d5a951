//! Processor time of the thread that reads the sensors, by which they pace themselves.

use nix::time::{ClockId, clock_gettime};

/// Returns the processor time of this thread so far. Time in which a busy host ran something else
/// is no cost, and must not blind the agent.
pub(super) fn thread_secs() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
