//! What growth looks like when it does not end: the rule of the leak detector, applied to one horizon of one process.
//!
//! A claim takes all of: a full horizon of floors (see [`super::window`]); a rising trend that is neither chance nor a
//! random walk; growth worth a word; new ground, so that a collector's sawtooth that climbs back to where it has been stays silent; and as much
//! growth at the beginning and at the end of the horizon as in the middle, and on every longer horizon too, so that a
//! cache that fills, a start-up and a logarithm stay silent. Tests run cheapest first: nearly every process
//! stops at the first. Cold start: a horizon must be three quarters full. It refuses nothing else and cannot fail.

use super::{
    trend::{Trend, evenness, mann_kendall, theil_sen},
    window::{BUCKETS, Horizons, KIB, Window},
};
use crate::config::LeakConfig;

/// Buckets of a horizon that must hold something: the design's 75 %.
const BUCKETS_MIN: usize = BUCKETS * 3 / 4;

/// Buckets at either end of a horizon that are looked at by themselves: five steps of fifteen, a third of it.
pub(super) const END_BUCKETS: usize = 6;

/// Growth at the beginning of the horizon, as a share of the whole horizon's, below which it began midway: a burst of
/// two thirds of a horizon then stays silent. Half leaves room for leaks that quicken.
const EARLY_SHARE_MIN: f64 = 0.5;

/// Growth at the end, as a share of the whole horizon's, of its beginning's and of any longer horizon's so far, below which
/// it is ending. Chosen with the survey in `leak/tests.rs`: at 0.5 many a logarithm passes, at 0.8 leaks under noise are late.
const RECENT_SHARE_MIN: f64 = 0.7;

/// Evenness of the steps below which growth may be a random walk. Chosen with the same survey: 3.5 silences half of the
/// walks that pass Mann-Kendall, 4 also keeps leaks under a sawtooth waiting for the next horizon.
const EVENNESS_MIN: f64 = 3.5;

/// Buckets that a longer horizon must hold before its slope may veto a shorter one: the fewest with a median slope.
const VETO_BUCKETS_MIN: usize = 3;

/// Growth as a share of the process's own size below which a big process merely breathes. A guess.
const RELATIVE_GROWTH_MIN: f64 = 0.01;

/// What one horizon says about one process.
pub(super) struct Growth {
    pub(super) slope_bytes_per_sec: f64,
    pub(super) recent_share: f64,
    pub(super) grown_bytes: f64,
    pub(super) grown_secs: f64,
    pub(super) trend: Trend,
    pub(super) completeness: f64,
    pub(super) base_kib: u32,
    pub(super) peak_kib: u32,
}

impl Growth {
    /// What a horizon shows, if it shows growth that deserves a forecast.
    pub(super) fn of(window: &Window, horizon: usize, config: &LeakConfig, horizons: &Horizons) -> Option<Self> {
        let floors = window.floors(horizon);
        let points = floors.points();
        let (first, last) = (points.first()?, points.last()?);
        // Nearly every process stops here.
        let grown_bytes = (last.y - first.y) * KIB;
        let worth_bytes = (config.min_growth_bytes as f64).max(last.y * KIB * RELATIVE_GROWTH_MIN);
        if grown_bytes < worth_bytes || points.len() < BUCKETS_MIN || !window.covers(horizon) {
            return None;
        }
        let past_peak_kib = f64::from(window.past_peak_kib(horizon));
        let new_ground_bytes = (last.y - first.y.max(past_peak_kib)) * KIB;
        if new_ground_bytes < (grown_bytes / 2.0).max(worth_bytes) {
            return None;
        }
        let trend = mann_kendall(points);
        if trend.p_value > config.significance || evenness(points) < EVENNESS_MIN {
            return None;
        }
        // The newest step still rises, and neither end of the horizon is markedly flatter than all of it.
        let rising_still = points.len() >= 2 && last.y > points[points.len() - 2].y;
        let overall = theil_sen(points)?;
        let early = theil_sen(floors.first(END_BUCKETS))?;
        let recent = theil_sen(floors.last(END_BUCKETS))?;
        if !rising_still || early < EARLY_SHARE_MIN * overall || recent < RECENT_SHARE_MIN * overall.max(early) {
            return None;
        }
        let per_sec = KIB / horizons.bucket_secs(horizon);
        if slows_on_a_longer_horizon(window, horizon, recent * per_sec, horizons) {
            return None;
        }
        Some(Self {
            slope_bytes_per_sec: overall * per_sec,
            recent_share: recent / overall,
            grown_bytes,
            grown_secs: (last.x - first.x) * horizons.bucket_secs(horizon),
            trend,
            completeness: points.len() as f64 / BUCKETS as f64,
            base_kib: first.y as u32,
            peak_kib: last.y as u32,
        })
    }

    /// Kendall's tau (how orderly), times how much of the pace is left at the end, times how much of the horizon was seen.
    pub(super) fn confidence(&self) -> f64 {
        (self.trend.tau * self.recent_share.min(1.0) * self.completeness).clamp(0.0, 1.0)
    }
}

/// Whether growth was markedly faster over some longer span, covered in full or not: then it is ending.
fn slows_on_a_longer_horizon(window: &Window, horizon: usize, recent_bytes_per_sec: f64, horizons: &Horizons) -> bool {
    (horizon + 1..horizons.count()).any(|longer| {
        let floors = window.floors(longer);
        let per_sec = KIB / horizons.bucket_secs(longer);
        floors.points().len() >= VETO_BUCKETS_MIN
            && theil_sen(floors.points()).is_some_and(|slope| recent_bytes_per_sec < RECENT_SHARE_MIN * slope * per_sec)
    })
}
