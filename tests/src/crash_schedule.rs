//! When a process is killed, and how often: at random, spread over what it does, however fast the
//! machine is at the moment.

use std::{env, thread, time::Duration};

/// How often, in all lanes; more on request: `SPILLWAY_KILLS=10000 cargo xtask test NAME`.
const KILLS: u64 = 1_000;

/// Each kills a process of its own, so that the whole takes less than a minute.
const LANES: u64 = 2;

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

    /// Takes whether the last one came to the end of what it was to do. Half of them should: then
    /// the other half are killed evenly over it, and the first while what follows is under way.
    pub fn note(&mut self, was_done: bool) {
        self.span_secs = if was_done { self.span_secs / STEP } else { self.span_secs * STEP };
        self.span_secs = self.span_secs.clamp(SPAN_SECS[0], SPAN_SECS[1]);
    }
}

/// Runs lanes beside one another, each with its number and with a random number for each of its
/// kills; gives how many those are in all, and what came of each lane.
///
/// # Panics
///
/// Where a lane does.
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
        lanes.into_iter().map(|lane| lane.join().expect("each lane holds")).collect()
    });
    (kills, came)
}

/// A number for this one, in no order, the same in each run: splitmix64.
fn random(nth: u64) -> u64 {
    let mut bits = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
