//! Pace of passes over every connection: each rests for long enough that passes together stay under
//! a share of one core. A calm host with few connections spends a smaller one.

/// Share of one core for hosts with up to [`FEW`] connections.
const SHARE_OF_FEW: f64 = 0.005;

/// Share of one core from [`MANY`] connections on; in between it grows with their number.
const SHARE_OF_MANY: f64 = 0.01;

/// Share of one core while no request is in flight, and the longest rest for its sake. Guesses: an
/// overload is noticed a second later at most.
const SHARE_OF_CALM: f64 = 0.001;
const CALM_SECS_MAX: f64 = 1.0;

/// Part of the share that takes what was noted, and again that finds what was not, if connections
/// are visited.
pub(super) const SHARE_OF_FINDING: f64 = 0.1;

/// Share of one core for finding who holds a connection, while requests of a pool wait for long. A
/// guess: at 10,000 connections the holder is known two or three seconds later.
const SHARE_OF_HOLDERS: f64 = 0.005;

const FEW: f64 = 10_000.0;
const MANY: f64 = 100_000.0;

/// Time of the next pass.
#[derive(Debug, Default)]
pub(super) struct RequestPace {
    due: f64,
}

impl RequestPace {
    /// Returns whether a pass is due at `now`, in seconds on any monotonic clock.
    pub(super) fn is_due(&self, now: f64) -> bool {
        now >= self.due
    }

    /// Ends a pass that began at `now` and took so much processor time. `is_calm` says that it saw
    /// no request in flight.
    pub(super) fn rest(&mut self, now: f64, took_secs: f64, connections: usize, is_calm: bool) {
        let rest_secs = took_secs / share(connections);
        let calm_secs = if is_calm { took_secs / SHARE_OF_CALM } else { 0.0 };
        self.due = now + rest_secs.max(calm_secs.min(CALM_SECS_MAX));
    }
}

/// Returns the rest of one that finds connections, of which so many are known.
pub(super) fn rest_of_finding(took_secs: f64, connections: usize) -> f64 {
    took_secs / (share(connections) * SHARE_OF_FINDING)
}

/// Returns the rest of one that was made early, to find who holds a connection.
pub(super) fn rest_of_holders(took_secs: f64) -> f64 {
    took_secs / SHARE_OF_HOLDERS
}

fn share(connections: usize) -> f64 {
    let many = ((connections as f64 - FEW) / (MANY - FEW)).clamp(0.0, 1.0);
    SHARE_OF_FEW + many * (SHARE_OF_MANY - SHARE_OF_FEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_grows_with_the_number_of_connections() {
        let shares = [0, 10_000, 55_000, 100_000, 1_000_000].map(share);
        let expected = [0.005, 0.005, 0.0075, 0.01, 0.01];
        for (share, expected) in shares.into_iter().zip(expected) {
            assert!((share - expected).abs() < 1e-9, "{share}, not {expected}");
        }
    }

    #[test]
    fn pass_rests_in_proportion_to_its_cost() {
        let mut pace = RequestPace::default();
        assert!(pace.is_due(0.0));
        pace.rest(5.0, 0.003, 9_000, false);
        assert!(!pace.is_due(5.59) && pace.is_due(5.61));
        pace.rest(5.61, 0.0001, 10, false);
        assert!(pace.is_due(5.71), "a cheap pass is made at every tick");
        pace.rest(6.0, 0.0005, 10, true);
        assert!(!pace.is_due(6.49) && pace.is_due(6.51), "less often on a calm host");
        pace.rest(7.0, 0.003, 10, true);
        assert!(!pace.is_due(7.99) && pace.is_due(8.01), "but once a second");
        pace.rest(9.0, 0.012, 10_000, true);
        assert!(!pace.is_due(11.39) && pace.is_due(11.41), "unless that costs more than its share");
    }
}
