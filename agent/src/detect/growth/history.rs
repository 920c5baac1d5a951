//! What a process did before it grew: whether the growth is news, and how it began.
//!
//! Longer horizons reach further back than the one that shows the growth, in coarser buckets; both
//! are asked.

use super::{
    super::{
        regression::{Point, theil_sen},
        window::{BUCKETS, BucketFloors, KIB},
    },
    HorizonView, Stretch,
};

/// How much more than it varied while it was steady it must grow to have broken out.
pub(super) const BREAKOUT_OF_STEADY: f64 = 2.5;

/// Growth as a share of what is left to the limit that is enough to have broken out, where it is
/// less than `min_growth`.
const BREAKOUT_OF_HEADROOM: f64 = 0.1;

/// Slope before, as a share of the slope since, up to which a process was steady before it broke
/// out.
pub(super) const STEADY_SHARE_MAX: f64 = 0.1;

/// Buckets of the next longer horizon, and of the one after it, that must show the steady stretch.
pub(super) const STEADY_BUCKETS_MIN: [usize; 2] = [8, 5];

/// Slope before, as a share of the slope since, up to which growth has quickened. A guess.
pub(super) const QUICKENED_SHARE_MAX: f64 = 0.5;

/// Buckets by which the slope before is reckoned.
const BEFORE_BUCKETS: usize = 5;

impl HorizonView<'_> {
    /// Whether at least half of the climb, on this and on every longer horizon, leads where the
    /// process has not been before.
    pub(super) fn on_new_ground(&self, first: &Point, last: &Point) -> bool {
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

    /// How far the process ever came down from where it had been, as far as this and longer
    /// horizons remember.
    pub(super) fn gave_back_kib(&self) -> f64 {
        let horizons = self.horizon..self.horizons.count();
        let deepest = horizons.map(|horizon| {
            given_back(self.window.past_peak_kib(horizon), self.floors(horizon).points())
        });
        deepest.fold(0.0, f64::max)
    }

    /// For how long the process was steady before the stretch, within what it now left behind,
    /// where it left it by enough: the next two longer horizons must both say so.
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
        steady_secs(nearest, near).and_then(|_| steady_secs(nearest + 1, far))
    }

    /// Whether growth was markedly slower before: then what came earlier still is another matter.
    pub(super) fn quickened(&self, stretch: &Stretch<'_>) -> bool {
        let nearest = self.nearest_before(stretch, BEFORE_BUCKETS);
        self.before(stretch, nearest, BEFORE_BUCKETS).is_some_and(|(before, bucket_secs)| {
            theil_sen(before.points()).is_some_and(|slope| {
                slope * KIB / bucket_secs <= QUICKENED_SHARE_MAX * stretch.slope_bytes_per_sec
            })
        })
    }

    /// The shortest horizon that shows so many buckets before the stretch: of a short stretch this
    /// one itself.
    fn nearest_before(&self, stretch: &Stretch<'_>, buckets: usize) -> usize {
        if stretch.begins() >= buckets as f64 { self.horizon } else { self.horizon + 1 }
    }

    /// The last buckets of a horizon before the stretch, and how long each is; `None` where there
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
        // One bucket more of a longer horizon, for the one in which growth began.
        let begins = if horizon == self.horizon { 0.0 } else { 1.0 };
        let before = self
            .floors(horizon)
            .last_before(BUCKETS as f64 - since_secs / bucket_secs - begins, buckets)?;
        Some((before, bucket_secs))
    }
}

/// How far the points ever came down from where they, or what was before, had been.
pub(super) fn given_back<'a>(mut peak: f64, points: impl IntoIterator<Item = &'a Point>) -> f64 {
    let mut deepest = 0.0;
    for point in points {
        peak = f64::max(peak, point.y);
        deepest = f64::max(deepest, peak - point.y);
    }
    deepest
}
