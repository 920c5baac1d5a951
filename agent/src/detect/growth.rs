//! What growth looks like when it does not end: the rule of the leak detector, applied to one horizon of one process.
//!
//! Floors (see [`super::window`]) must rise in a line that chance does not draw, from one end of a stretch to the other, onto new
//! ground, and faster than the work that the process does. Then it matters how it began. Growth that *broke out* of a
//! long steady stretch is believed as it is. Growth of which the beginning was not seen, or that never was steady, may
//! be a cache that fills or a start that takes its time; it is believed once even the strongest deceleration that its scatter
//! allows would not let it end below the limit. So each claim knows what it would take to be wrong.
//! Tests run cheapest first: nearly every process stops at the first. It refuses nothing else and cannot fail.

use super::{
    load::Load,
    trend::{Line, Point, theil_sen},
    window::{BUCKETS, Floors, Horizons, KIB, Window},
};
use crate::config::LeakConfig;

/// Stretches that are looked at, in buckets, the longest first: a long one is surer, a short one sooner. On the horizons of seconds
/// only the longest: what grows for half a minute is a request.
const STRETCHES: [usize; 4] = [BUCKETS, 12, 8, 6];

/// The shortest stretch: believed only after a steady time.
const SHORTEST: usize = 6;

fn stretches(horizon: usize) -> &'static [usize] {
    &STRETCHES[..(horizon + 1).saturating_sub(1).clamp(1, STRETCHES.len())]
}

/// Share of a stretch's buckets that must hold something: the design's 75 %.
const PRESENT_MIN: f64 = 0.75;

/// Growth at the beginning of a stretch, as a share of the whole stretch's, below which it began midway. Half leaves room
/// for leaks that quicken.
const EARLY_SHARE_MIN: f64 = 0.5;

/// Growth at the end, as a share of the whole stretch's and of any longer horizon's so far, below which it is ending.
const RECENT_SHARE_MIN: f64 = 0.7;

/// Growth as a share of what is left to the limit above which it is worth a claim even where it is less than `min_growth`.
const HEADROOM_SHARE: f64 = 0.07;

/// The least that is ever worth a claim: counters are off by some pages a CPU.
const WORTH_MIN_BYTES: f64 = 2_097_152.0;

/// Processes of one workload that may leak together, each so little that only their sum is worth a claim. A guess.
const POOL_MAX: f64 = 16.0;

/// Growth that is no older than the horizons of seconds must be at least so fast: slower growth can be watched for longer.
const FAST_BYTES_PER_SEC: f64 = 800_000.0;

/// Growth as a share of the process's own size below which it merely breathes. A guess.
const BREATHING_SHARE: f64 = 0.02;

/// The same for growth whose beginning was not seen: slow swings go both ways. A guess.
const SWING_SHARE: f64 = 0.03;

/// How much more than it has ever given back a process must grow.
const BREAKOUT: f64 = 1.5;

/// How much more than it varied while it was steady it must grow to have broken out.
const BREAKOUT_OF_STEADY: f64 = 2.5;

/// Slope before, as a share of the slope since, up to which a process was steady before it broke out.
const STEADY_SHARE_MAX: f64 = 0.1;

/// Buckets of the next longer horizon, and of the one after it, that must show the steady stretch.
const STEADY_BUCKETS_MIN: [usize; 2] = [8, 5];

/// Buckets that a longer horizon must hold before its slope may veto a shorter one: the fewest with a median slope.
const VETO_BUCKETS_MIN: usize = 3;

/// Growth whose beginning was not seen is judged from this horizon on: five minutes by default. Where it is fast and no start
/// it is judged from the one before, and where it is steep from the first on.
const UNSEEN_HORIZON_MIN: usize = 2;

/// A gibibyte in five minutes.
const STEEP_BYTES_PER_SEC: f64 = 3_500_000.0;

/// How many standard errors either half's slope may be off when the strongest possible deceleration is reckoned.
const ERRORS: f64 = 3.0;

/// Buckets of the shorter horizons by which growth still goes on.
const NOW_BUCKETS: usize = 8;

/// Shares of the slope that they must still show, the next shorter first.
const NOW_SHARES: [f64; 2] = [0.5, 0.1];

/// The least strict that any horizon may be.
const SIGNIFICANCE_MAX: f64 = 1e-3;

/// Buckets of a longer horizon by which its deceleration is reckoned: what came before may have been another matter.
const LATTER_BUCKETS: usize = 10;

/// What is left of the confidence in a line that scatters as much as it rises, where so much is configured to be believed.
const CONFIDENCE_MIN: f64 = 0.05;

/// Standard errors on either side of a slope in its interval: Student's t of 95 % at the fewest degrees of freedom that occur is 2.8,
/// and floors scatter to one side.
const INTERVAL_ERRORS: f64 = 4.0;

/// How growth began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Beginning {
    /// After so many seconds in which the process was steady.
    BrokeOut { steady_secs: f64 },
    /// Unseen, or out of other growth.
    Unseen,
}

/// What one horizon says about one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    pub(super) headroom_bytes: f64,
    pub(super) slope_bytes_per_sec: f64,
    /// How fast the other processes of the workload grow together.
    pub(super) others_bytes_per_sec: f64,
    /// 95 % of it.
    pub(super) slope_error_bytes_per_sec: f64,
    pub(super) recent_share: f64,
    pub(super) grown_bytes: f64,
    pub(super) grown_secs: f64,
    pub(super) completeness: f64,
    pub(super) base_kib: u32,
    pub(super) peak_kib: u32,
    pub(super) beginning: Beginning,
}

/// One horizon of one process, and what else it takes to judge it.
pub(super) struct Look<'a> {
    pub(super) window: &'a Window,
    pub(super) horizon: usize,
    pub(super) config: &'a LeakConfig,
    pub(super) horizons: &'a Horizons,
    pub(super) load: &'a Load,
    /// Whether the process started under watch.
    pub(super) young: bool,
    /// Bytes to the nearest limit.
    pub(super) headroom_bytes: f64,
    /// How much the other processes of the workload grew over so many of this horizon's last buckets, in KiB.
    pub(super) others_grew_kib: &'a dyn Fn(usize) -> f64,
}

impl Look<'_> {
    /// What the horizon shows, if it shows growth that is a leak.
    pub(super) fn growth(&self) -> Option<Growth> {
        // Nearly every process stops here.
        let floor_kib = self.own_worth_kib();
        let stretches = stretches(self.horizon);
        let rises = |stretch: usize| self.window.rise_kib(self.horizon, stretch - 1).is_none_or(|kib| kib >= floor_kib);
        if !stretches.iter().any(|stretch| rises(*stretch)) {
            return None;
        }
        let floors = self.window.floors(self.horizon);
        stretches.iter().find_map(|stretch| self.stretch(&floors, *stretch))
    }

    /// What so many of the last buckets show.
    fn stretch(&self, floors: &Floors, buckets: usize) -> Option<Growth> {
        let points = floors.last(buckets);
        let (first, last) = (points.first()?, points.last()?);
        let grown_kib = last.y - first.y;
        let own_worth_kib = self.own_worth_kib().max(last.y * BREATHING_SHARE);
        let spans = last.x - first.x >= (buckets - 1) as f64;
        if !spans || grown_kib < own_worth_kib || (points.len() as f64) < PRESENT_MIN * buckets as f64 {
            return None;
        }
        let others_kib = (self.others_grew_kib)(buckets);
        if grown_kib + others_kib < self.worth_kib() {
            return None;
        }
        let line = Line::through(points)?;
        if line.p_value() > self.significance()
            || !self.on_new_ground(first, last)
            || grown_kib < BREAKOUT * self.gave_back_kib()
        {
            return None;
        }
        let bucket_secs = self.horizons.bucket_secs(self.horizon);
        let per_sec = KIB / bucket_secs;
        // The newest step still rises, and neither end is markedly flatter than all of it.
        let half = points.len() / 2;
        let (early, late) = (Line::through(&points[..half])?, Line::through(&points[points.len() - half..])?);
        let rising_still = last.y > points[points.len() - 2].y && self.grows_now(line.slope * per_sec);
        // Where the load fell, so may the pace.
        let fell = self.load.fell_to(self.horizon);
        let even = early.slope >= EARLY_SHARE_MIN * line.slope
            && late.slope >= RECENT_SHARE_MIN * fell * line.slope.max(early.slope);
        if !rising_still || !even {
            return None;
        }
        if self.horizon < UNSEEN_HORIZON_MIN && line.slope * per_sec < FAST_BYTES_PER_SEC {
            return None;
        }
        if self.slows_on_a_longer_horizon(late.slope * per_sec)
            || self.load.explains(self.horizon, grown_kib / first.y.max(1.0))
        {
            return None;
        }
        let broke_out = || self.steady_secs_before(first.x, line.slope * per_sec, grown_kib);
        let suffices = (grown_kib + others_kib) * KIB >= self.config.min_growth_bytes as f64;
        let beginning = match suffices.then(broke_out).flatten() {
            Some(steady_secs) => Beginning::BrokeOut { steady_secs },
            None if points.len() > SHORTEST
                && self.goes_on(points, 1.0 + others_kib / grown_kib, grown_kib, line.slope * per_sec) =>
            {
                Beginning::Unseen
            }
            None => return None,
        };
        let grown_secs = (last.x - first.x) * bucket_secs;
        Some(Growth {
            headroom_bytes: self.headroom_bytes,
            others_bytes_per_sec: others_kib * KIB / grown_secs,
            slope_bytes_per_sec: line.slope * per_sec,
            slope_error_bytes_per_sec: line.slope_error * INTERVAL_ERRORS * per_sec,
            recent_share: late.slope / line.slope,
            grown_bytes: grown_kib * KIB,
            grown_secs,
            completeness: points.len() as f64 / buckets as f64,
            base_kib: first.y as u32,
            peak_kib: last.y as u32,
            beginning,
        })
    }

    /// Whether at least half of the climb, on this and on every longer horizon, leads where the process has not been before.
    fn on_new_ground(&self, first: &Point, last: &Point) -> bool {
        (self.horizon..self.horizons.count()).all(|horizon| {
            let floors = self.window.floors(horizon);
            let points = floors.points();
            let lowest = points.iter().enumerate().min_by(|a, b| a.1.y.total_cmp(&b.1.y)).map_or(0, |(at, _)| at);
            let past = points[..lowest].iter().map(|p| p.y).fold(self.window.past_peak_kib(horizon), f64::max);
            let foot = points.get(lowest).map_or(first.y, |p| p.y.min(first.y));
            last.y - past.max(foot) >= (last.y - foot) / 2.0
        })
    }

    /// Whether the shorter horizons, whose newest buckets are newer, still show some of the growth: half of it over some three
    /// of this horizon's buckets, and a little over the last, in which a stair may stand.
    fn grows_now(&self, slope_bytes_per_sec: f64) -> bool {
        NOW_SHARES.iter().enumerate().all(|(shorter, share)| {
            let Some(horizon) = self.horizon.checked_sub(shorter + 1) else { return true };
            let secs = (NOW_BUCKETS - 1) as f64 * self.horizons.bucket_secs(horizon);
            let rose_kib = self.window.rise_kib(horizon, NOW_BUCKETS - 1);
            rose_kib.is_none_or(|kib| kib * KIB >= share * slope_bytes_per_sec * secs)
        })
    }

    /// How far the process ever came down from where it had been, as far as this and longer horizons remember.
    fn gave_back_kib(&self) -> f64 {
        let horizons = self.horizon..self.horizons.count();
        let deepest = horizons.map(|horizon| {
            let (mut peak, mut deepest) = (self.window.past_peak_kib(horizon), 0.0);
            for point in self.window.floors(horizon).points() {
                peak = f64::max(peak, point.y);
                deepest = f64::max(deepest, peak - point.y);
            }
            deepest
        });
        deepest.fold(0.0, f64::max)
    }

    /// For how long the process was steady before the stretch, within what it now left behind: the next two longer horizons
    /// must both say so.
    fn steady_secs_before(&self, x: f64, slope_bytes_per_sec: f64, grown_kib: f64) -> Option<f64> {
        let since_secs = (BUCKETS as f64 - x) * self.horizons.bucket_secs(self.horizon);
        let steady_secs = |longer: usize, buckets_min: usize| {
            let bucket_secs = (longer < self.horizons.count()).then(|| self.horizons.bucket_secs(longer))?;
            let floors = self.window.floors(longer);
            // One bucket more, for the one in which growth began.
            let begins = if longer == self.horizon { 0.0 } else { 1.0 };
            let before = floors.before(BUCKETS as f64 - since_secs / bucket_secs - begins);
            let before = &before[before.len().saturating_sub(buckets_min)..];
            let (first, last) = (before.first()?, before.last()?);
            let slope = theil_sen(before)? * KIB / bucket_secs;
            let (low, high) =
                before.iter().fold((f64::INFINITY, 0.0), |(l, h), p| (f64::min(l, p.y), f64::max(h, p.y)));
            let steady = before.len() >= buckets_min
                && slope.abs() <= STEADY_SHARE_MAX * slope_bytes_per_sec
                && grown_kib >= BREAKOUT_OF_STEADY * (high - low);
            steady.then_some((last.x - first.x + 1.0) * bucket_secs)
        };
        let [near, far] = STEADY_BUCKETS_MIN;
        // Of a short stretch the horizon itself shows what was before.
        let own = x >= near as f64;
        let nearest = if own { self.horizon } else { self.horizon + 1 };
        steady_secs(nearest, near).and_then(|_| steady_secs(nearest + 1, far))
    }

    /// Whether growth whose beginning was not seen is more than a start or a swing: long enough, so much that the limit comes
    /// nearer, alike over a longer time, and not to end before. `pool` is how many times its growth the workload grows.
    fn goes_on(&self, points: &[Point], pool: f64, grown_kib: f64, slope_bytes_per_sec: f64) -> bool {
        let longer = self.horizon + 1;
        let alike = || {
            if longer >= self.horizons.count() {
                return true;
            }
            let floors = self.window.floors(longer);
            let latter = floors.last(LATTER_BUCKETS);
            let per_sec = KIB / self.horizons.bucket_secs(longer);
            theil_sen(latter).is_none_or(|slope| {
                latter.len() < STEADY_BUCKETS_MIN[0] || slope * per_sec >= RECENT_SHARE_MIN * slope_bytes_per_sec
            })
        };
        let fast = !self.young && slope_bytes_per_sec >= FAST_BYTES_PER_SEC;
        let soonest = match slope_bytes_per_sec {
            slope if fast && slope >= STEEP_BYTES_PER_SEC => 0,
            _ if fast => 1,
            _ => UNSEEN_HORIZON_MIN,
        };
        let comes_nearer = pool * grown_kib * KIB >= HEADROOM_SHARE * self.headroom_bytes;
        self.horizon >= soonest
            && grown_kib >= SWING_SHARE * points[points.len() - 1].y
            && (fast || comes_nearer)
            && alike()
            && !self.may_end(points, pool, if fast { 0.0 } else { ERRORS })
    }

    /// Whether growth would end below the limit: by the stretch, if it slowed as much as its scatter, taken so many times, allows, or by what
    /// the latter part of any longer horizon shows, if it slowed as much as it does there.
    fn may_end(&self, points: &[Point], pool: f64, errors: f64) -> bool {
        let longer = self.horizon + 1..self.horizons.count();
        self.ends_below_the_limit(points, pool, self.load.fell_to(self.horizon), errors).unwrap_or(true)
            || longer.into_iter().any(|horizon| {
                let (floors, fell) = (self.window.floors(horizon), self.load.fell_to(horizon));
                self.ends_below_the_limit(floors.last(LATTER_BUCKETS), pool, fell, 0.0).unwrap_or(false)
            })
    }

    /// With a pace that falls by the same share in the same time, what is still to come is the pace of now times the time in
    /// which it falls to its e-th part. Either half's slope may be off by so many standard errors. `None` where no pace is left.
    fn ends_below_the_limit(&self, points: &[Point], pool: f64, fell: f64, errors: f64) -> Option<bool> {
        let (earlier, later) = points.split_at(points.len() / 2);
        let (early, late) = (Line::through(earlier)?, Line::through(later)?);
        let early_pace = fell.sqrt() * early.slope + errors * early.slope_error;
        let late_pace = late.slope - errors * late.slope_error;
        if late_pace <= 0.0 {
            return None;
        }
        let falls_buckets = (later[0].x - earlier[0].x) / (early_pace / late_pace).ln();
        Some(late_pace < early_pace && pool * late.slope * falls_buckets * KIB < self.headroom_bytes)
    }

    /// Each horizon may err as often a day: one whose buckets are longer is asked less often, and may be less strict.
    fn significance(&self) -> f64 {
        let share = self.horizons.bucket_secs(self.horizon) / self.horizons.bucket_secs(0);
        (self.config.significance * share).min(SIGNIFICANCE_MAX)
    }

    /// What one process must have grown by, with others or alone.
    fn own_worth_kib(&self) -> f64 {
        (self.worth_kib() / POOL_MAX).max(WORTH_MIN_BYTES / KIB).min(self.worth_kib())
    }

    fn worth_kib(&self) -> f64 {
        let least = (self.headroom_bytes * HEADROOM_SHARE).max(WORTH_MIN_BYTES);
        least.min(self.config.min_growth_bytes as f64) / KIB
    }

    /// Whether growth was markedly faster over some longer span, covered in full or not: then it is ending.
    fn slows_on_a_longer_horizon(&self, recent_bytes_per_sec: f64) -> bool {
        (self.horizon + 1..self.horizons.count()).any(|longer| {
            let floors = self.window.floors(longer);
            let per_sec = KIB / self.horizons.bucket_secs(longer);
            let slope = theil_sen(floors.points()).filter(|_| floors.points().len() >= VETO_BUCKETS_MIN);
            slope.is_some_and(|slope| {
                recent_bytes_per_sec < RECENT_SHARE_MIN * self.load.fell_to(longer) * slope * per_sec
            })
        })
    }
}

impl Growth {
    /// When the limit is met, with all of the workload's growth.
    pub(super) fn exhaustion_secs(&self) -> f64 {
        self.headroom_bytes / (self.slope_bytes_per_sec + self.others_bytes_per_sec)
    }

    /// How little the line's slope is in doubt, times how much of the pace is left at the end, times how much was seen.
    pub(super) fn confidence(&self) -> f64 {
        let standard_error = self.slope_error_bytes_per_sec / INTERVAL_ERRORS;
        let sure = (1.0 - standard_error / self.slope_bytes_per_sec).max(CONFIDENCE_MIN);
        (sure * self.recent_share.min(1.0) * self.completeness).clamp(0.0, 1.0)
    }
}
