//! Growth under a sawtooth whose teeth are longer than the buckets: the troughs rise from tooth to
//! tooth.
//!
//! The tests are those of a horizon's floors, put to the last troughs. Teeth that hide a leak from
//! floors, which catch them now at half of their height and then at a third, hide nothing from
//! troughs; and a process's growth and decrease on a tooth are not held against it.

use super::{
    super::{
        regression::{FittedLine, Point, theil_sen},
        window::KIB,
    },
    BREAKOUT, BREATHING_SHARE, Beginning, Growth, HorizonView, INTERVAL_ERRORS, SIGNIFICANCE_MAX,
    deceleration::{OLD_ERRORS, QUICKENED_ERRORS, YOUNG_ERRORS, ends_below},
    even,
    history::{BREAKOUT_OF_STEADY, QUICKENED_SHARE_MAX, STEADY_SHARE_MAX, given_back},
    impact::HEADROOM_SHARE,
};

/// Fewest troughs that show a leak.
const STRETCH_MIN: usize = 5;

/// Fewest troughs for a process that started under watch and has not quickened since.
const YOUNG_STRETCH_MIN: usize = 7;

/// Fewest troughs that show the slope before.
const BEFORE_MIN: usize = 3;

impl HorizonView<'_> {
    /// Returns the growth that the troughs show, if it is a leak.
    pub(in super::super) fn growth_of_troughs(&self) -> Option<Growth> {
        let troughs = self.window.troughs(self.horizons);
        let troughs = troughs.points();
        let stretches = (STRETCH_MIN..=troughs.len()).rev();
        stretches
            .map(|stretch| troughs.split_at(troughs.len() - stretch))
            .find_map(|(before, points)| self.stretch_of_troughs(before, points))
    }

    /// Returns the growth that some troughs show after those before them.
    fn stretch_of_troughs(&self, before: &[Point], points: &[Point]) -> Option<Growth> {
        let (first, last) = (points.first()?, points.last()?);
        let grown_kib = last.y - first.y;
        if grown_kib < self.worth_kib().max(last.y * BREATHING_SHARE) {
            return None;
        }
        let line = FittedLine::through(points)?;
        let past_kib =
            before.iter().map(|point| point.y).fold(self.window.past_trough_kib(), f64::max);
        let (low_kib, high_kib) = range(before);
        let gave_back_kib = given_back(self.window.past_trough_kib(), before.iter().chain(points));
        if line.p_value() > SIGNIFICANCE_MAX
            || last.y - past_kib.max(first.y) < grown_kib / 2.0
            || grown_kib < BREAKOUT * gave_back_kib
            || last.y <= points[points.len() - 2].y
        {
            return None;
        }
        let grown_secs = last.x - first.x;
        if !self.nears_limit(grown_kib, grown_kib, grown_secs) {
            return None;
        }
        // Teeth take their time, and so does the activity.
        let horizons = self.horizons.covering(grown_secs)..self.horizons.count();
        let late_slope = even(points, &line, 1.0)?;
        if horizons.into_iter().any(|horizon| {
            self.activity.explains(self.horizons, horizon, grown_kib / first.y.max(1.0))
        }) {
            return None;
        }
        let slope_before = (before.len() >= BEFORE_MIN).then(|| theil_sen(before)).flatten();
        let steady = grown_kib >= BREAKOUT_OF_STEADY * (high_kib - low_kib)
            && slope_before.is_some_and(|slope| slope.abs() <= STEADY_SHARE_MAX * line.slope);
        let quickened = slope_before.is_some_and(|slope| slope <= QUICKENED_SHARE_MAX * line.slope);
        let beginning = if steady {
            Beginning::BrokeOut { steady_secs: before.last()?.x - before.first()?.x }
        } else if !self.starts && self.teeth_go_on(points, grown_kib, quickened) {
            Beginning::Unseen
        } else {
            return None;
        };
        Some(Growth {
            headroom_bytes: self.headroom_bytes,
            others_bytes_per_sec: 0.0,
            slope_bytes_per_sec: line.slope * KIB,
            slope_error_bytes_per_sec: line.slope_error() * INTERVAL_ERRORS * KIB,
            recent_share: late_slope / line.slope,
            grown_bytes: grown_kib * KIB,
            grown_secs,
            completeness: 1.0,
            points: points.len(),
            base_kib: first.y as u32,
            peak_kib: last.y as u32,
            beginning,
            under_sawtooth: true,
            in_steps: false,
        })
    }

    /// Returns whether growth goes on, as [`HorizonView::goes_on`] does for a stretch of floors.
    fn teeth_go_on(&self, points: &[Point], grown_kib: f64, quickened: bool) -> bool {
        let (points_min, errors) = match (self.young, quickened) {
            (false, _) => (STRETCH_MIN, OLD_ERRORS),
            (true, true) => (STRETCH_MIN, QUICKENED_ERRORS),
            (true, false) => (YOUNG_STRETCH_MIN, YOUNG_ERRORS),
        };
        points.len() >= points_min
            && self.watched_secs >= self.config.warm_up.as_secs_f64()
            && (grown_kib * KIB >= HEADROOM_SHARE * self.headroom_bytes
                && !ends_below(self.headroom_bytes / KIB, points, 1.0, errors).unwrap_or(true)
                || self.teeth_are_substantial(points, grown_kib))
    }

    /// Returns whether growth is a leak however far the limit is, as
    /// [`HorizonView::is_substantial`] does for a stretch of floors.
    fn teeth_are_substantial(&self, points: &[Point], grown_kib: f64) -> bool {
        let near_kib = self.substantial_headroom_bytes(grown_kib * KIB) / KIB;
        let errors = self.substantial_errors();
        self.is_large(grown_kib * KIB, points[0].y * KIB)
            && !ends_below(near_kib, points, 1.0, errors).unwrap_or(true)
    }
}

/// Returns the lowest and the highest point; zero twice if there is none.
fn range(points: &[Point]) -> (f64, f64) {
    let ys = || points.iter().map(|point| point.y);
    (ys().reduce(f64::min).unwrap_or(0.0), ys().reduce(f64::max).unwrap_or(0.0))
}
