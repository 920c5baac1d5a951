//! The only reader of time. Everything else is told.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Seconds since the clock was made, monotonic. Time that the machine spends suspended does not
/// pass.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that stands at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Milliseconds since 1970, by the host's clock, which may be set: for people and for other
    /// hosts, never for spans.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    /// Seconds since the host booted, those in which it was suspended included: for what outlives
    /// this process. Zero if the kernel does not tell.
    pub fn boot_secs(&self) -> f64 {
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
    }

    /// A moment that somebody else named, on this clock; zero for one before its start.
    pub fn at(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.origin).as_secs_f64()
    }
}
