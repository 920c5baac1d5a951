//! Figures of ramps, as a table, and their requirements.

use std::time::{Duration, Instant};

use super::truth::History;

/// Maximum delay from the condition to a claim of the agent: two reads at the default of 100 ms,
/// and half of one for everything else.
pub const REPORTED_WITHIN: Duration = Duration::from_millis(250);

/// Time in which the shortest backlog here fills, at a rate that these machines can reach.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// One ramp; times are in seconds after its start, negative before.
pub struct Ramped {
    capacity_per_sec: f64,
    stands_at: Option<f64>,
    /// Time at which it had stood throughout `sustain`, and at which that was no chance.
    stood_at: Option<f64>,
    holds_at: Option<f64>,
    claimed_at: Option<f64>,
    overflows_at: Option<f64>,
    /// Connections per second in the second before the claim, as a share of the capacity.
    load_at_claim: f64,
    deepest: u64,
    longest_gap: Duration,
    gap_before_overflow: Duration,
}

impl Ramped {
    /// Combines observations and claims.
    pub fn new(
        history: &History,
        start: Instant,
        capacity_per_sec: f64,
        claimed: Option<Instant>,
        (target, sustain): (Duration, Duration),
    ) -> Self {
        let after_start = |at: Instant| match at.checked_duration_since(start) {
            Some(after) => after.as_secs_f64(),
            None => -(start - at).as_secs_f64(),
        };
        let stood = history.stood_throughout(target, sustain);
        let holds = history.overloaded(target, sustain);
        let until = claimed.or(holds).unwrap_or(start + Duration::from_secs(1));
        Self {
            capacity_per_sec,
            stands_at: stood.map(|stood| after_start(stood - sustain)),
            stood_at: stood.map(after_start),
            holds_at: holds.map(after_start),
            claimed_at: claimed.map(after_start),
            overflows_at: history.first_overflow().map(after_start),
            load_at_claim: history.arrivals_per_sec(until - Duration::from_secs(1), until)
                / capacity_per_sec,
            deepest: history.deepest(),
            longest_gap: history.longest_gap(),
            gap_before_overflow: history
                .first_overflow()
                .map_or(Duration::ZERO, |overflow| history.longest_gap_before(overflow)),
        }
    }

    /// Returns how long this host stalled, if that alone could fill the queue, before the first
    /// overflow and before the condition held: the sampling thread has priority over everything
    /// else here. Such a ramp says nothing about the agent.
    pub fn cut_short(&self) -> Option<Duration> {
        let holds_first = self
            .holds_at
            .is_some_and(|holds| self.overflows_at.is_none_or(|overflows| holds < overflows));
        (!holds_first && self.gap_before_overflow > STOOD_STILL).then_some(self.gap_before_overflow)
    }

    /// Returns the delay from the condition to the claim; negative before it.
    fn delay_secs(&self) -> f64 {
        match (self.claimed_at, self.holds_at) {
            (Some(claimed), Some(holds)) => claimed - holds,
            (Some(_), None) => f64::NEG_INFINITY,
            (None, _) => f64::INFINITY,
        }
    }

    /// Returns the lead of the claim over the first overflow; negative after it.
    fn lead_secs(&self) -> f64 {
        let overflows_at = self.overflows_at.unwrap_or(f64::INFINITY);
        self.claimed_at.map_or(f64::NEG_INFINITY, |claimed| overflows_at - claimed)
    }
}

/// Prints the ramps of a server and the worst of each figure.
pub fn print(server: &str, ramps: &[Ramped]) {
    println!("{server}, connections/s and seconds after the ramp's start:");
    println!(
        "  capacity | stands  sustain  condition  claimed  overflow | delay ms  lead s | load at \
         claim  deepest  unseen ms"
    );
    let secs = |at: Option<f64>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.2}"));
    for ramp in ramps {
        println!(
            "  {:>8.0} | {:>6}  {:>7}  {:>9}  {:>7}  {:>8} | {:>8.0}  {:>6.2} | \
             {:>13.2}  {:>7}  {:>9.0}",
            ramp.capacity_per_sec,
            secs(ramp.stands_at),
            secs(ramp.stood_at),
            secs(ramp.holds_at),
            secs(ramp.claimed_at),
            secs(ramp.overflows_at),
            ramp.delay_secs() * 1e3,
            ramp.lead_secs(),
            ramp.load_at_claim,
            ramp.deepest,
            ramp.longest_gap.as_secs_f64() * 1e3,
        );
    }
    let delay = ramps.iter().map(Ramped::delay_secs).fold(f64::NEG_INFINITY, f64::max);
    let lead = ramps.iter().map(Ramped::lead_secs).fold(f64::INFINITY, f64::min);
    println!(
        "  worst: claimed {:.0} ms after the condition, {lead:.2} s before the first overflow",
        delay * 1e3
    );
}

/// Checks that every ramp was claimed in time and before its queue overflowed, and that it did
/// overflow.
pub fn judge(ramps: &[Ramped]) {
    for (number, ramp) in ramps.iter().enumerate() {
        assert!(
            ramp.overflows_at.is_some(),
            "ramp {number} did not overflow, so that no forecast was tested"
        );
        assert!(
            ramp.lead_secs() > 0.0,
            "ramp {number} was claimed {:.2} s after its first overflow",
            -ramp.lead_secs()
        );
        let delay = ramp.delay_secs();
        assert!(
            delay <= REPORTED_WITHIN.as_secs_f64(),
            "ramp {number} was claimed {:.0} ms late",
            delay * 1e3
        );
    }
}
