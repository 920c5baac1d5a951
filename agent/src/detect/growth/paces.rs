//! Paces of a process over its whole watched life, in octaves of time: whether growth that slows
//! down levels off at a pace that lasts.
//!
//! A leak beside a start-up, a cache that warms up or an allocator that keeps ever less does slow
//! down, and is not refuted by it. The pace in the last half of the life is compared with those in
//! the quarter and the eighth before. From octave to octave saturating growth loses ever more of
//! its pace, growth with the logarithm or a root of time the same share of it. If the same share
//! goes on being lost (Aitken's delta-squared), of either no pace is left, and of a leak its own.
//! Cold start: half of a horizon.

use super::{
    super::{
        regression::{FittedLine, Point, theil_sen},
        window::KIB,
    },
    HorizonView,
};

/// Fewest floors of the life that tell three octaves apart.
const POINTS_MIN: usize = 8;

/// Share of the present pace that must last.
const LASTS_SHARE_MIN: f64 = 0.6;

/// Octaves of a life.
struct Paces {
    /// Pace of the last half, of the quarter and of the eighth before it, in KiB a bucket.
    half: f64,
    quarter: f64,
    eighth: f64,
    /// Standard errors of each.
    errors: [f64; 3],
    /// Length of the life, in buckets.
    buckets: f64,
    bucket_secs: f64,
}

impl HorizonView<'_> {
    /// Returns the pace at which growth levels off, in bytes a second, and for how long the process
    /// has been watched; `None` if it may come to an end.
    pub(super) fn lasting_pace(&self) -> Option<(f64, f64)> {
        let covering = self.horizons.covering(self.watched_secs);
        let paces = self.paces(covering).or_else(|| self.paces(covering.checked_sub(1)?))?;
        let Paces { half, quarter, eighth, errors, .. } = paces;
        // Each may be off by a standard error, to the disadvantage of a leak.
        let lost_late = (quarter + errors[1]) - (half - errors[0]);
        let lost_early = (eighth - errors[2]) - (quarter + errors[1]);
        if lost_late <= 0.0 || lost_early <= lost_late {
            return None;
        }
        let lasts = half - lost_late * lost_late / (lost_early - lost_late);
        let lasts = (lasts >= LASTS_SHARE_MIN * half).then_some(lasts)?;
        Some((lasts * KIB / paces.bucket_secs, paces.buckets * paces.bucket_secs))
    }

    /// Returns the paces that a horizon shows; `None` if it shows too little.
    fn paces(&self, horizon: usize) -> Option<Paces> {
        let floors = self.window.floors(horizon);
        let points = floors.points();
        let bucket_secs = self.horizons.bucket_secs(horizon);
        let last = points.last().filter(|_| points.len() >= POINTS_MIN)?;
        // Buckets since the first sight, of which the horizon may have forgotten the earliest.
        let buckets = (self.watched_secs / bucket_secs).floor() - 1.0;
        let since = |share: f64| {
            let x = last.x - buckets * (1.0 - share);
            let from = points.partition_point(|point| point.x < x - 0.5);
            from.min(points.len() - 1)
        };
        let [at_eighth, at_quarter, at_half] = [0.125, 0.25, 0.5].map(since);
        if at_eighth >= at_quarter || at_quarter >= at_half {
            return None;
        }
        let late = &points[at_half..];
        let line = FittedLine::through(late)?;
        let scatter = (line.squares / f64::from(line.freedom)).sqrt();
        let error = |part: &[Point]| scatter / (part[part.len() - 1].x - part[0].x);
        let [quarter, eighth] = [&points[at_quarter..=at_half], &points[at_eighth..=at_quarter]];
        Some(Paces {
            half: line.slope,
            quarter: theil_sen(quarter)?,
            eighth: theil_sen(eighth)?,
            errors: [line.slope_error(), error(quarter), error(eighth)],
            buckets,
            bucket_secs,
        })
    }
}
