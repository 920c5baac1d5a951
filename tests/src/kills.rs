//! When a process is killed: at random, spread over what it does, however fast the machine is at the moment.

use std::time::Duration;

/// Its longest and shortest span, in seconds, whatever it does.
const SPAN_SECS: [f64; 2] = [0.004, 0.4];

/// By how much a span follows what is seen.
const STEP: f64 = 1.03;

/// The kills of one process after another.
#[derive(Debug)]
pub struct Kills {
    span_secs: f64,
}

impl Default for Kills {
    fn default() -> Self {
        Self { span_secs: 0.03 }
    }
}

impl Kills {
    /// How long the next one lives.
    pub fn after(&self, random: u64) -> Duration {
        Duration::from_secs_f64(self.span_secs * (random >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Takes whether the last one came to the end of what it was to do. Half of them should: then the other half are killed evenly over it,
    /// and the first while what follows is under way.
    pub fn note(&mut self, was_done: bool) {
        self.span_secs = if was_done { self.span_secs / STEP } else { self.span_secs * STEP };
        self.span_secs = self.span_secs.clamp(SPAN_SECS[0], SPAN_SECS[1]);
    }
}

/// A number for this one, in no order, the same in each run: splitmix64.
pub fn random(nth: u64) -> u64 {
    let mut bits = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
