//! Growth for as long as it has held its pace, which may be longer than the stretch that shows it
//! best.
//!
//! Short buckets tell soonest that growth does not slow down, long ones how much it has taken by
//! then. Both must hold for a leak that is far from its limit, on whichever horizons.

use super::{
    super::{regression::Point, window::KIB},
    HorizonView, Stretch,
    deceleration::{SUBSTANTIAL_ERRORS, SUBSTANTIAL_HORIZON_MIN},
};

/// Fewest buckets of a longer horizon that show a pace.
const POINTS_MIN: usize = 4;

/// Share by which the paces of the earlier and of the later half may differ from the stretch's: a
/// cache that fills within hours loses more in one.
const PACE_SHARE_MAX: f64 = 0.1;

/// Fewest points of a stretch that show it while a process may still be starting, and the largest
/// standard error of its slope, as a share of it: what is loaded step by step scatters more.
const STRETCH_POINTS_MIN: usize = 12;
const STRETCH_ERROR_SHARE_MAX: f64 = 0.02;

impl HorizonView<'_> {
    /// Returns whether a process that started under watch has grown by a good part of its size at
    /// one pace ever since: a stretch too short to show how much tells that it does not end.
    pub(super) fn is_held_from_birth(&self, stretch: &Stretch<'_>, quickened: bool) -> bool {
        if !self.young
            || !self.may_be_starting()
            || self.horizon < SUBSTANTIAL_HORIZON_MIN
            || stretch.points.len() < STRETCH_POINTS_MIN
            || stretch.error_share > STRETCH_ERROR_SHARE_MAX
        {
            return false;
        }
        let from_bytes = self.held_from_kib(stretch) * KIB;
        let grown_bytes = stretch.points[stretch.points.len() - 1].y * KIB - from_bytes;
        let near_bytes = self.substantial_headroom_bytes(grown_bytes);
        self.is_large(grown_bytes, from_bytes)
            && !self.may_end(stretch, near_bytes, SUBSTANTIAL_ERRORS, quickened)
    }

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
