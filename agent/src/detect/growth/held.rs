//! Growth for as long as it has held its pace, which may be longer than the stretch that shows it
//! best.
//!
//! Short buckets tell soonest that growth does not slow down, long ones how much it has taken by
//! then. Both must hold for a leak that is far from its limit, on whichever horizons.

use super::{
    super::{regression::Point, window::KIB},
    HorizonView, Stretch,
};

/// Fewest buckets of a longer horizon that show a pace.
const POINTS_MIN: usize = 4;

/// Share by which the paces of the earlier and of the later half may differ from the stretch's: a
/// cache that fills within hours loses more in one.
const PACE_SHARE_MAX: f64 = 0.1;

impl HorizonView<'_> {
    /// Returns the size from which a process has grown at the pace of a stretch, in KiB, as this
    /// and longer horizons show.
    pub(super) fn held_from_kib(&self, stretch: &Stretch<'_>) -> f64 {
        (self.horizon..self.horizons.count())
            .filter_map(|horizon| {
                let bucket_secs = self.horizons.bucket_secs(horizon);
                let pace_kib = stretch.slope_bytes_per_sec / KIB * bucket_secs;
                held_from(self.window.floors(horizon).points(), pace_kib)
            })
            .fold(stretch.points[0].y, f64::min)
    }
}

/// Returns the height of the earliest point from which points rise by about `pace` a bucket, in
/// both halves.
fn held_from(points: &[Point], pace: f64) -> Option<f64> {
    let last = points.last()?;
    let is_pace = |from: &Point, to: &Point| {
        ((to.y - from.y) / (to.x - from.x) / pace - 1.0).abs() <= PACE_SHARE_MAX
    };
    let longest = points.len().checked_sub(POINTS_MIN)?;
    let from = (0..=longest).find(|at| {
        let middle = &points[(at + points.len()) / 2];
        is_pace(&points[*at], middle) && is_pace(middle, last)
    })?;
    Some(points[from].y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(ys: &[f64]) -> Vec<Point> {
        ys.iter().enumerate().map(|(x, y)| Point { x: x as f64, y: *y }).collect()
    }

    #[test]
    fn pace_holds_since_the_start_was_over() {
        let since = |ys: &[f64]| held_from(&points(ys), 10.0);
        assert_eq!(since(&[0.0, 10.0, 20.0, 30.0, 40.0]), Some(0.0));
        assert_eq!(since(&[0.0, 90.0, 100.0, 110.0, 120.0, 130.0]), Some(90.0));
        // It was faster all the time before, or is slower now, or there is too little.
        assert_eq!(since(&[0.0, 60.0, 100.0, 130.0, 150.0, 160.0]), None);
        assert_eq!(since(&[0.0, 10.0, 20.0, 30.0, 32.0, 33.0]), None);
        assert_eq!(since(&[0.0, 10.0, 20.0]), None);
    }
}
