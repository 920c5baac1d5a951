//! Tracking of a claimed leak until it is over.
//!
//! A leak is tracked on the horizon that showed it, with the noise as judged there, or by the low
//! points of a sawtooth if those showed it.

use super::{
    super::{
        growth::Alone,
        regression::theil_sen,
        window::{Horizons, KIB, Newest},
    },
    process::{Leak, Process},
};
use crate::{
    config::LeakConfig,
    units::{Size, Span},
};

/// Buckets at the end of its horizon by which a leak is seen to stop.
const END_BUCKETS: usize = 6;

/// Share of the claimed slope below which growth has stopped.
const STOPPED_SHARE: f64 = 0.1;

/// Troughs by which it is seen to stop.
const END_TROUGHS: usize = 4;

/// Time for which growth must have stopped, and for its own horizon's buckets at the end: a pause
/// is not an end. A guess.
const STOPPED_SECS_MIN: f64 = 60.0;

/// Share of the growth since the claim's window began that, once given back, makes it no leak.
const GIVEN_BACK_SHARE: f64 = 0.5;

/// State of a tracked leak.
pub(super) enum Tracking {
    /// It grows on, so many bytes a second now.
    Grows(f64),
    /// It pauses.
    Pauses,
    /// It is no leak after all, or no longer, for this reason.
    Over(String),
}

/// Reason for which a leak is over.
struct Over {
    because: String,
    gave_back: bool,
}

impl Process {
    /// Tracks a leak when a bucket of its own horizon has closed.
    pub(super) fn follow(&mut self, mut leak: Leak, t: f64, horizons: &Horizons) -> Tracking {
        let horizon = usize::from(leak.horizon);
        if leak.by_troughs {
            let since_secs = self.window.since_trough_secs(horizons).unwrap_or(f64::INFINITY);
            if since_secs < END_BUCKETS as f64 * horizons.bucket_secs(horizon) {
                return Tracking::Pauses;
            }
            // Its sawtooth has ended: from here on floors count.
            leak.by_troughs = false;
        }
        let floors = self.window.floors(horizon);
        let (Some(last), Some(recent)) =
            (floors.points().last(), theil_sen(floors.last(END_BUCKETS)))
        else {
            return Tracking::Pauses;
        };
        let per_sec = KIB / horizons.bucket_secs(horizon);
        let last_kib = last.y;
        if let Some(over) =
            self.is_over(leak, t, last_kib, recent * per_sec, horizons.bucket_secs(horizon))
        {
            if over.gave_back {
                // Its memory comes and goes at a longer period than this horizon: from now on only
                // longer ones are trusted.
                self.trusted_from = (horizon + 1).min(horizons.count() - 1) as u8;
            }
            return Tracking::Over(over.because);
        }
        theil_sen(floors.points())
            .map_or(Tracking::Pauses, |slope| Tracking::Grows(slope * per_sec))
    }

    /// Tracks a leak when a trough was completed.
    pub(super) fn follow_troughs(&mut self, leak: Leak, t: f64, horizons: &Horizons) -> Tracking {
        let troughs = self.window.troughs(horizons);
        let points = troughs.points();
        let latest = &points[points.len().saturating_sub(END_TROUGHS)..];
        let (true, Some(last), Some(slope)) = (leak.by_troughs, latest.last(), theil_sen(latest))
        else {
            return Tracking::Pauses;
        };
        let tooth_secs = (last.x - latest[0].x) / (latest.len() - 1) as f64;
        match self.is_over(leak, t, last.y, slope * KIB, tooth_secs) {
            Some(over) => Tracking::Over(over.because),
            None => Tracking::Grows(slope * KIB),
        }
    }

    /// Returns why a leak is over, if it is, by its latest floor and its latest rate. Stores its
    /// state.
    fn is_over(
        &mut self,
        mut leak: Leak,
        t: f64,
        last_kib: f64,
        slope_bytes_per_sec: f64,
        still_secs_min: f64,
    ) -> Option<Over> {
        let last_kib = last_kib as u32;
        let (base_kib, peak_kib) = leak.floors_kib.unwrap_or((last_kib, last_kib));
        let peak_kib = peak_kib.max(last_kib);
        let (grown_kib, given_back_kib) =
            (f64::from(peak_kib.saturating_sub(base_kib)), f64::from(peak_kib - last_kib));
        let gave_back = given_back_kib > GIVEN_BACK_SHARE * grown_kib;
        // Memory that was given back is not settled: the process may grow there again, and may leak
        // below.
        leak.floors_kib = Some((base_kib, if gave_back { last_kib } else { peak_kib }));
        let still = slope_bytes_per_sec < STOPPED_SHARE * leak.slope_bytes_per_sec;
        leak.still_since_t = if still { leak.still_since_t.min(t) } else { f64::INFINITY };
        self.leak = Some(Box::new(leak));
        let because = if gave_back {
            let (back, grown) = (Size(given_back_kib * KIB), Size(grown_kib * KIB));
            format!("it gave back {back} of the {grown} that it grew by")
        } else if t - leak.still_since_t >= STOPPED_SECS_MIN.max(still_secs_min) {
            let still_for = Span(t - leak.still_since_t);
            format!(
                "it has not grown for {still_for} and holds {}",
                Size(f64::from(last_kib) * KIB)
            )
        } else {
            return None;
        };
        Some(Over { because, gave_back })
    }

    /// Returns the rate of a leak when a bucket of a shorter horizon than its own has closed: a
    /// leak that quickens, or a headroom that others use up, must not wait for its own horizon,
    /// whose buckets may last most of an hour.
    pub(super) fn quickened(
        &self,
        leak: &Leak,
        t: f64,
        horizon: usize,
        config: &LeakConfig,
        horizons: &Horizons,
    ) -> Option<f64> {
        if leak.still_since_t.is_finite() {
            return None;
        }
        let own = usize::from(leak.horizon);
        let own_slope = if leak.by_troughs {
            theil_sen(self.window.troughs(horizons).points()).unwrap_or(0.0) * KIB
        } else {
            theil_sen(self.window.floors(own).points()).unwrap_or(0.0) * KIB
                / horizons.bucket_secs(own)
        };
        let growth = self.judge(t, (horizon, Newest::Closed), config, horizons, &Alone(0.0));
        let faster = growth.map_or(0.0, |growth| growth.slope_bytes_per_sec);
        Some(own_slope.max(faster))
    }

    /// Ends the leak: its growth until now is settled.
    pub(super) fn end_leak(&mut self) {
        if let Some((_, peak_kib)) = self.leak.take().and_then(|leak| leak.floors_kib) {
            self.settled_kib = peak_kib;
        }
    }
}
