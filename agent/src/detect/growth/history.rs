//! History of a process before it grew: whether the growth is news, and how it began.
//!
//! Longer horizons reach further back than the one that shows the growth, in coarser buckets; both
//! count.

use super::{
    super::{
        regression::{Point, theil_sen},
        window::{BUCKETS, BucketFloors, KIB},
    },
    HorizonView, Stretch,
};

/// Multiple of its variation while it was steady by which it must grow to have broken out.
pub(super) const BREAKOUT_OF_STEADY: f64 = 2.5;

/// Growth as a share of the headroom that is enough to have broken out, if that is less than
/// `min_growth`.
const BREAKOUT_OF_HEADROOM: f64 = 0.1;

/// Slope before, as a share of the slope since, up to which a process was steady before it broke
/// out.
pub(super) const STEADY_SHARE_MAX: f64 = 0.1;

/// Buckets of the next longer horizon, and of the one after it, that must show the steady time.
pub(super) const STEADY_BUCKETS_MIN: [usize; 2] = [8, 5];

/// Fewest buckets of the one after it if the process has been watched for no longer.
const STEADY_BUCKETS_MIN_OF_ALL: usize = 3;

/// Slope before, as a share of the slope since, up to which growth has quickened. A guess.
pub(super) const QUICKENED_SHARE_MAX: f64 = 0.5;

/// Buckets by which the slope before is computed.
const BEFORE_BUCKETS: usize = 5;

impl HorizonView<'_> {
    /// Returns whether at least half of the growth, on this and on every longer horizon, reaches a
    /// level that the process has not had before.
    pub(super) fn reaches_new_level(&self, first: &Point, last: &Point) -> bool {
        (self.horizon..self.horizons.count()).all(|horizon| {
            let floors = self.floors(horizon);
            let points = floors.points();
            let lowest = points
                .iter()
                .enumerate()
                .min_by(|a, b| a.1.y.total_cmp(&b.1.y))
                .map_or(0, |(at, _)| at);
            let past = points[..lowest]
                .iter()
                .map(|p| p.y)
                .fold(self.window.past_peak_kib(horizon), f64::max);
            let foot = points.get(lowest).map_or(first.y, |p| p.y.min(first.y));
            last.y - past.max(foot) >= (last.y - foot) / 2.0
        })
    }

    /// Largest decrease of the process from an earlier level, as far as this and longer horizons
    /// remember.
    pub(super) fn gave_back_kib(&self) -> f64 {
        let horizons = self.horizon..self.horizons.count();
        let deepest = horizons.map(|horizon| {
            given_back(self.window.past_peak_kib(horizon), self.floors(horizon).points())
        });
        deepest.fold(0.0, f64::max)
    }

    /// Returns how long the process was steady before the stretch, within the range that it now
    /// left, if it left it by enough: the next two longer horizons must both show it.
    pub(super) fn steady_secs_before(&self, stretch: &Stretch<'_>) -> Option<f64> {
        let enough_bytes =
            (self.config.min_growth_bytes as f64).min(BREAKOUT_OF_HEADROOM * self.headroom_bytes);
        if stretch.together_kib() * KIB < enough_bytes {
            return None;
        }
        let steady_secs = |horizon: usize, buckets: usize| {
            let (before, bucket_secs) = self.before(stretch, horizon, buckets)?;
            let before = before.points();
            let (first, last) = (before.first()?, before.last()?);
            let slope_bytes_per_sec = theil_sen(before)? * KIB / bucket_secs;
            let (low, high) = before
                .iter()
                .fold((f64::INFINITY, 0.0), |(l, h), p| (f64::min(l, p.y), f64::max(h, p.y)));
            let steady = slope_bytes_per_sec.abs()
                <= STEADY_SHARE_MAX * stretch.slope_bytes_per_sec
                && stretch.grown_kib >= BREAKOUT_OF_STEADY * (high - low);
            steady.then_some((last.x - first.x + 1.0) * bucket_secs)
        };
        let [near, far] = STEADY_BUCKETS_MIN;
        let nearest = self.nearest_before(stretch, near);
        steady_secs(nearest, near)?;
        // Of a short watch all that there was must have been steady, and growth beyond doubt.
        let longer = nearest + 1;
        let shown = (STEADY_BUCKETS_MIN_OF_ALL..far)
            .rev()
            .filter(|_| stretch.is_beyond_doubt())
            .find(|buckets| self.before(stretch, longer, *buckets).is_some());
        let known = self.before(stretch, longer, far).is_some();
        steady_secs(longer, if known { far } else { shown? })
    }

    /// Returns whether growth was markedly slower before: then still earlier growth is another
    /// matter.
    pub(super) fn quickened(&self, stretch: &Stretch<'_>) -> bool {
        let nearest = self.nearest_before(stretch, BEFORE_BUCKETS);
        self.before(stretch, nearest, BEFORE_BUCKETS).is_some_and(|(before, bucket_secs)| {
            theil_sen(before.points()).is_some_and(|slope| {
                slope * KIB / bucket_secs <= QUICKENED_SHARE_MAX * stretch.slope_bytes_per_sec
            })
        })
    }

    /// Returns the shortest horizon that shows so many buckets before the stretch: for a short
    /// stretch this one itself.
    fn nearest_before(&self, stretch: &Stretch<'_>, buckets: usize) -> usize {
        if stretch.begins() >= buckets as f64 { self.horizon } else { self.horizon + 1 }
    }

    /// Returns the last buckets of a horizon before the stretch, and their length; `None` if there
    /// are fewer.
    fn before(
        &self,
        stretch: &Stretch<'_>,
        horizon: usize,
        buckets: usize,
    ) -> Option<(BucketFloors, f64)> {
        let bucket_secs =
            (horizon < self.horizons.count()).then(|| self.horizons.bucket_secs(horizon))?;
        let since_secs =
            (BUCKETS as f64 - stretch.begins()) * self.horizons.bucket_secs(self.horizon);
        // A longer horizon takes one bucket more, for the one in which growth began.
        let begins = if horizon == self.horizon { 0.0 } else { 1.0 };
        let before = self
            .floors(horizon)
            .last_before(BUCKETS as f64 - since_secs / bucket_secs - begins, buckets)?;
        Some((before, bucket_secs))
    }
}

/// Returns the largest decrease of the points from an earlier one or from an earlier peak.
pub(super) fn given_back<'a>(mut peak: f64, points: impl IntoIterator<Item = &'a Point>) -> f64 {
    let mut deepest = 0.0;
    for point in points {
        peak = f64::max(peak, point.y);
        deepest = f64::max(deepest, peak - point.y);
    }
    deepest
}
