//! Schedule of kills: at random times, spread over the whole of a process's work, however fast the
//! machine currently is.

use std::{env, thread, time::Duration};

/// Kills in all lanes together. For more: `SPILLWAY_KILLS=10000 cargo xtask test NAME`.
const KILLS: u64 = 1_000;

/// Parallel lanes, each killing its own process, so that all kills take less than a minute.
const LANES: u64 = 2;

/// Shortest and longest life of a process, in seconds.
const SPAN_SECS: [f64; 2] = [0.004, 0.4];

/// Factor by which a life is lengthened or shortened after each kill.
const STEP: f64 = 1.03;

/// Kills of one process after another.
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
    /// Life of the next process.
    pub fn after(&self, random: u64) -> Duration {
        Duration::from_secs_f64(self.span_secs * (random >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Records whether the last process finished its work. Half of them should: then the other half
    /// are killed evenly throughout the work, and the first half during what follows it.
    pub fn note(&mut self, was_done: bool) {
        self.span_secs = if was_done { self.span_secs / STEP } else { self.span_secs * STEP };
        self.span_secs = self.span_secs.clamp(SPAN_SECS[0], SPAN_SECS[1]);
    }
}

/// Runs all lanes in parallel, each with its number and a random number per kill. Returns the total
/// number of kills and each lane's result.
///
/// # Panics
///
/// Panics if a lane panics.
pub fn in_lanes<T: Send>(lane: impl Fn(u64, &[u64]) -> T + Sync) -> (u64, Vec<T>) {
    let kills =
        env::var("SPILLWAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let randoms = |nth: u64| {
        (0..kills / LANES).map(|kill| random(1 + kill * LANES + nth)).collect::<Vec<_>>()
    };
    let lane = &lane;
    let came = thread::scope(|scope| {
        let lanes: Vec<_> =
            (0..LANES).map(|nth| scope.spawn(move || lane(nth, &randoms(nth)))).collect();
        lanes.into_iter().map(|lane| lane.join().expect("no lane should panic")).collect()
    });
    (kills, came)
}

/// Pseudo-random number for kill `nth`, the same in every run: splitmix64.
fn random(nth: u64) -> u64 {
    let mut bits = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
