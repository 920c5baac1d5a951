//! A leak that was claimed, followed until it is over.
//!
//! It is followed on the horizon that showed it, where its noise was judged, or by its troughs
//! where those did. It refuses nothing.

use super::{
    super::{
        growth::{Growth, Surroundings},
        regression::theil_sen,
        window::{Horizons, KIB, Newest},
    },
    process::Process,
};
use crate::{
    config::LeakConfig,
    units::{Size, Span},
};

/// Buckets at the end of its horizon by which a leak is seen to stop.
const END_BUCKETS: usize = 6;

/// Share of the claimed slope below which growth has stopped.
const STOPPED_SHARE: f64 = 0.1;

/// Troughs by which the same is seen.
const END_TROUGHS: usize = 4;

/// Growth must have stopped for this long, and for its own horizon's buckets at the end: a pause is
/// not an end. A guess.
const STOPPED_SECS_MIN: f64 = 60.0;

/// Share of what was grown since the claim's window began that, once given back, makes it no leak.
const GIVEN_BACK_SHARE: f64 = 0.5;

/// That a process leaks, and by what it is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leak {
    pub(super) slope_bytes_per_sec: f64,
    /// Since when its horizon has shown no growth; infinite while it grows.
    still_since_t: f64,
    /// Floors since the claim; `None` after a restart, until the successor has one.
    floors_kib: Option<(u32, u32)>,
    pub(super) horizon: u8,
    /// Whether it is followed by its troughs.
    by_troughs: bool,
    pub(super) confidence: f32,
}

/// What came of a leak that was followed.
pub(super) enum Followed {
    /// It grows on: how fast now.
    Grows(f64),
    /// It pauses.
    Pauses,
    /// It is no leak after all, or no more, and why.
    Over(String),
}

/// No limit and no company: how fast a leak grows does not depend on them.
struct Alone;

impl Surroundings for Alone {
    fn headroom_bytes(&self) -> f64 {
        0.0
    }

    fn shmem_bytes(&self) -> f64 {
        0.0
    }

    fn others_grew_kib(&self, _horizon: usize, _buckets: usize) -> f64 {
        0.0
    }

    fn limit_rose_kib(&self, _secs: f64) -> Option<f64> {
        None
    }
}

/// Why a leak is over.
struct Over {
    because: String,
    gave_back: bool,
}

impl Process {
    /// A leak, when a bucket of its own horizon closed.
    pub(super) fn follow(&mut self, mut leak: Leak, t: f64, horizons: &Horizons) -> Followed {
        let horizon = usize::from(leak.horizon);
        if leak.by_troughs {
            let since_secs = self.window.since_trough_secs(horizons).unwrap_or(f64::INFINITY);
            if since_secs < END_BUCKETS as f64 * horizons.bucket_secs(horizon) {
                return Followed::Pauses;
            }
            // Its sawtooth has ended: from here on floors tell.
            leak.by_troughs = false;
        }
        let floors = self.window.floors(horizon);
        let (Some(last), Some(recent)) =
            (floors.points().last(), theil_sen(floors.last(END_BUCKETS)))
        else {
            return Followed::Pauses;
        };
        let per_sec = KIB / horizons.bucket_secs(horizon);
        let last_kib = last.y;
        if let Some(over) =
            self.is_over(leak, t, last_kib, recent * per_sec, horizons.bucket_secs(horizon))
        {
            if over.gave_back {
                // Its memory comes and goes at a longer period than this horizon: from now on only
                // longer ones are believed.
                self.trusted_from = (horizon + 1).min(horizons.count() - 1) as u8;
            }
            return Followed::Over(over.because);
        }
        theil_sen(floors.points())
            .map_or(Followed::Pauses, |slope| Followed::Grows(slope * per_sec))
    }

    /// A leak, when a trough was completed.
    pub(super) fn follow_troughs(&mut self, leak: Leak, t: f64, horizons: &Horizons) -> Followed {
        let troughs = self.window.troughs(horizons);
        let points = troughs.points();
        let latest = &points[points.len().saturating_sub(END_TROUGHS)..];
        let (true, Some(last), Some(slope)) = (leak.by_troughs, latest.last(), theil_sen(latest))
        else {
            return Followed::Pauses;
        };
        let tooth_secs = (last.x - latest[0].x) / (latest.len() - 1) as f64;
        match self.is_over(leak, t, last.y, slope * KIB, tooth_secs) {
            Some(over) => Followed::Over(over.because),
            None => Followed::Grows(slope * KIB),
        }
    }

    /// Whether a leak is over, by its latest floor and its latest pace; it is kept as it is now.
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
        // What it gave back is not settled: it may grow there again, and may leak below.
        leak.floors_kib = Some((base_kib, if gave_back { last_kib } else { peak_kib }));
        let still = slope_bytes_per_sec < STOPPED_SHARE * leak.slope_bytes_per_sec;
        leak.still_since_t = if still { leak.still_since_t.min(t) } else { f64::INFINITY };
        self.leak = Some(Box::new(leak));
        let because = if gave_back {
            let (back, grown) = (Size(given_back_kib * KIB), Size(grown_kib * KIB));
            format!("it gave back {back} of the {grown} it grew")
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

    /// How fast a leak grows now, when a bucket of a shorter horizon than its own closed: a leak
    /// that quickens, or a headroom that others eat, must not wait for its own horizon, whose
    /// buckets may be most of an hour.
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
        let growth = self.judge(t, (horizon, Newest::Closed), config, horizons, &Alone);
        let faster = growth.map_or(0.0, |growth| growth.slope_bytes_per_sec);
        Some(own_slope.max(faster))
    }

    /// It leaks no more: what it grew until now is settled.
    pub(super) fn end_leak(&mut self) {
        if let Some((_, peak_kib)) = self.leak.take().and_then(|leak| leak.floors_kib) {
            self.settled_kib = peak_kib;
        }
    }
}

impl Leak {
    pub(super) fn new(growth: &Growth, horizon: usize, confidence: f64) -> Self {
        Self {
            slope_bytes_per_sec: growth.slope_bytes_per_sec,
            still_since_t: f64::INFINITY,
            floors_kib: Some((growth.base_kib, growth.peak_kib)),
            horizon: horizon as u8,
            by_troughs: growth.under_sawtooth,
            confidence: confidence as f32,
        }
    }

    /// As the successor of the process takes it over.
    pub(super) fn inherited(self) -> Self {
        Self { still_since_t: f64::INFINITY, floors_kib: None, by_troughs: false, ..self }
    }
}
