//! Rule of the leak detector, applied to one horizon of one process: recognises growth that does
//! not end.
//!
//! Floors (see [`super::window`]) must rise in a line that chance does not draw, from one end of a
//! stretch to the other, to a new level, and faster than the work that the process does. Then its
//! beginning matters ([`history`]). Growth that *broke out* of a long steady time is believed at
//! once. Growth whose beginning was not seen, or that never was steady, may be a cache that fills
//! or a slow start; it is believed once even the strongest deceleration that its scatter allows
//! would not let it end below the limit ([`deceleration`]). So each claim knows what it would take
//! to be wrong. And it must be worth a claim ([`impact`]): it brings the limit nearer, and it has
//! lasted. If teeth are longer than buckets, the troughs between them are judged in the same way
//! ([`sawtooth`]). Tests run cheapest first: nearly every process stops at the first.

mod deceleration;
mod held;
mod history;
mod impact;
mod paces;
mod sawtooth;

use super::{
    activity::Activity,
    regression::{FittedLine, Point},
    window::{BUCKETS, BucketFloors, Horizons, KIB, Newest, Window},
};
use crate::config::LeakConfig;

/// Lengths of the stretches that are judged, in buckets, the longest first: a long one is more
/// certain, a short one sooner. On the horizons of seconds only the longest: growth for half a
/// minute is a request.
const STRETCHES: [usize; 4] = [BUCKETS, 12, 8, 6];

fn stretches(horizon: usize) -> &'static [usize] {
    let lengths = if horizon < MINUTES_HORIZON_MIN { 1 } else { horizon.max(3) };
    &STRETCHES[..lengths.min(STRETCHES.len())]
}

/// First horizon, 45 minutes by default, whose buckets take minutes to close: they are judged while
/// they fill, too.
const LONG_HORIZON_MIN: usize = 4;

/// Share of a stretch's buckets that must hold a floor.
const PRESENT_MIN: f64 = LeakConfig::BUCKETS_SEEN_MIN as f64 / BUCKETS as f64;

/// Slope at the beginning of a stretch, as a share of the whole stretch's, below which growth began
/// midway. Half leaves room for leaks that quicken.
const EARLY_SHARE_MIN: f64 = 0.5;

/// Slope at the end, as a share of the whole stretch's and of any longer horizon's so far, below
/// which growth is ending.
const RECENT_SHARE_MIN: f64 = 0.7;

/// Minimum rate of growth that is no older than the horizons of seconds: slower growth can be
/// watched for longer.
const FAST_BYTES_PER_SEC: f64 = 800_000.0;

/// First horizon that is not one of seconds: five minutes by default.
pub(super) const MINUTES_HORIZON_MIN: usize = 2;

/// Growth as a share of the process's own size below which it is fluctuation. A guess.
const BREATHING_SHARE: f64 = 0.01;

/// Multiple of the memory that it has ever given back by which a process must grow.
const BREAKOUT: f64 = 3.0;

/// Growth still goes on if the lowest of the next shorter horizon's newest buckets lies above the
/// lowest of as many buckets some time before, by this share of what the slope yields in between;
/// so neither of them may be a tooth of a sawtooth.
const NOW_NEWEST_BUCKETS: usize = 3;
const NOW_BUCKETS_BETWEEN: usize = 7;
const NOW_SHARE_MIN: f64 = 0.5;

/// The same share on the horizon below that, in whose time a staircase may pause.
const NOW_SHARE_OF_STAIRS_MIN: f64 = 0.1;

/// First horizon that shows stairs, a quarter of an hour by default; rise from one bucket to the
/// next, as a share of the slope, up to which they pause; and the fewest such pauses.
const STAIRS_HORIZON_MIN: usize = 3;
const STAIR_SHARE: f64 = 0.1;
const STAIR_PAUSES_MIN: usize = 3;

/// Least strict significance of any horizon.
const SIGNIFICANCE_MAX: f64 = 1e-3;

/// Confidence that is left in a line that scatters as much as it rises, if the configuration lets
/// such lines be believed.
const CONFIDENCE_MIN: f64 = 0.05;

/// Standard errors on either side of a slope in its interval: Student's t of 95 % at the fewest
/// degrees of freedom that occur is 2.8, and floors scatter to one side.
const INTERVAL_ERRORS: f64 = 4.0;

/// Beginning of growth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Beginning {
    /// After so many seconds in which the process was steady.
    BrokeOut { steady_secs: f64 },
    /// Unseen, or out of other growth.
    Unseen,
}

/// Growth that one horizon of one process shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    pub(super) headroom_bytes: f64,
    pub(super) slope_bytes_per_sec: f64,
    /// Rate at which the other processes of the workload grow together.
    pub(super) others_bytes_per_sec: f64,
    /// Half of the slope's 95 % interval.
    pub(super) slope_error_bytes_per_sec: f64,
    pub(super) recent_share: f64,
    pub(super) grown_bytes: f64,
    pub(super) grown_secs: f64,
    pub(super) completeness: f64,
    /// Number of floors or troughs that show it.
    pub(super) points: usize,
    pub(super) base_kib: u32,
    pub(super) peak_kib: u32,
    pub(super) beginning: Beginning,
    /// Whether troughs show it.
    pub(super) under_sawtooth: bool,
    /// Set if it comes in steps that are longer than a bucket: then it pauses without an end.
    pub(super) in_steps: bool,
}

/// One horizon of one process, with what it takes to judge it.
pub(super) struct HorizonView<'a> {
    pub(super) window: &'a Window,
    pub(super) horizon: usize,
    /// Whether the horizon's open bucket counts, too.
    pub(super) newest: Newest,
    pub(super) config: &'a LeakConfig,
    pub(super) horizons: &'a Horizons,
    pub(super) activity: &'a Activity,
    /// Whether the process started under watch.
    pub(super) young: bool,
    /// Set if that is so recent that growth is its start, unless it was steady before.
    pub(super) starts: bool,
    /// Time for which it has been watched.
    pub(super) watched_secs: f64,
    /// Bytes to the nearest limit.
    pub(super) headroom_bytes: f64,
    pub(super) around: &'a dyn Surroundings,
}

/// Growth that a process shares with others.
pub(super) trait Surroundings {
    /// Bytes to the nearest limit.
    fn headroom_bytes(&self) -> f64;
    /// The process's resident shared memory.
    fn shmem_bytes(&self) -> f64;
    /// Growth of the workload's other processes over so many of a horizon's last buckets, in KiB.
    fn others_grew_kib(&self, horizon: usize, buckets: usize) -> f64;
    /// Size at which the workload's processes are replaced, in KiB; 0 if unknown.
    fn recycled_kib(&self) -> u32;
    /// Rise of the memory in use of the nearest limit over so many seconds, in KiB; `None` if
    /// unknown.
    fn limit_rose_kib(&self, secs: f64) -> Option<f64>;
}

/// Surroundings of what stands alone: its headroom in bytes, on which the rate of a leak does not
/// depend.
pub(super) struct Alone(pub(super) f64);

impl Surroundings for Alone {
    fn headroom_bytes(&self) -> f64 {
        self.0
    }

    fn shmem_bytes(&self) -> f64 {
        0.0
    }

    fn others_grew_kib(&self, _horizon: usize, _buckets: usize) -> f64 {
        0.0
    }

    fn recycled_kib(&self) -> u32 {
        0
    }

    fn limit_rose_kib(&self, _secs: f64) -> Option<f64> {
        None
    }
}

/// Last buckets of the horizon that is judged, and the line through them.
struct Stretch<'a> {
    points: &'a [Point],
    slope_bytes_per_sec: f64,
    grown_kib: f64,
    /// Growth of the workload's other processes meanwhile.
    others_kib: f64,
    /// Standard error of the slope, as a share of it.
    error_share: f64,
    /// Set if it rises in steps that are longer than a bucket.
    in_steps: bool,
}

/// Standard error of a slope, as a share of it, up to which growth is beyond doubt.
const BEYOND_DOUBT_SHARE: f64 = 0.1;

impl Stretch<'_> {
    /// Returns whether growth is far above its scatter. Steps scatter by themselves, but never
    /// fall.
    fn is_beyond_doubt(&self) -> bool {
        self.in_steps || self.error_share <= BEYOND_DOUBT_SHARE
    }

    /// Beginning on the horizon, in buckets.
    fn begins(&self) -> f64 {
        self.points[0].x
    }

    fn together_kib(&self) -> f64 {
        self.grown_kib + self.others_kib
    }
}

/// Returns the horizons to judge when buckets of some of them have closed, a bit each.
pub(super) fn due(closed: u8, horizons: usize) -> impl Iterator<Item = (usize, Newest)> {
    (0..horizons).filter_map(move |horizon| {
        let is_closed = |horizon: usize| closed & (1 << horizon) != 0;
        let fills = || horizon >= LONG_HORIZON_MIN && is_closed(horizon - 1);
        match is_closed(horizon) {
            true => Some((horizon, Newest::Closed)),
            false => fills().then_some((horizon, Newest::Open)),
        }
    })
}

impl HorizonView<'_> {
    /// Returns the growth that the horizon shows, if it is a leak.
    pub(super) fn growth(&self) -> Option<Growth> {
        // Nearly every process stops here.
        let floor_kib = self.own_worth_kib();
        let stretches = stretches(self.horizon);
        let rises = |stretch: usize| {
            self.window.rise_kib(self.horizon, stretch - 1).is_none_or(|kib| kib >= floor_kib)
        };
        if !stretches.iter().any(|stretch| rises(*stretch)) {
            return None;
        }
        let floors = self.floors(self.horizon);
        stretches.iter().find_map(|stretch| self.stretch(&floors, *stretch))
    }

    /// Returns the growth that so many of the last buckets show, if it is a leak.
    fn stretch(&self, floors: &BucketFloors, buckets: usize) -> Option<Growth> {
        let points = floors.last(buckets);
        let (first, last) = (points.first()?, points.last()?);
        let grown_kib = last.y - first.y;
        let own_worth_kib = self.own_worth_kib().max(last.y * BREATHING_SHARE);
        let spans = last.x - first.x >= (buckets - 1) as f64;
        if !spans
            || grown_kib < own_worth_kib
            || (points.len() as f64) < PRESENT_MIN * buckets as f64
        {
            return None;
        }
        // What processes share each of them shows, and their limit is charged for it once.
        let is_shared = self.is_of_shared_memory(grown_kib);
        let others_kib =
            if is_shared { 0.0 } else { self.around.others_grew_kib(self.horizon, buckets) };
        if grown_kib + others_kib < self.worth_kib() {
            return None;
        }
        let line = FittedLine::through(points)?;
        if line.p_value() > self.significance()
            || !self.reaches_new_level(first, last)
            || grown_kib < BREAKOUT * self.gave_back_kib()
        {
            return None;
        }
        let bucket_secs = self.horizons.bucket_secs(self.horizon);
        let per_sec = KIB / bucket_secs;
        let error_share = line.slope_error() / line.slope;
        let slope_bytes_per_sec = line.slope * per_sec;
        let in_steps = self.horizon >= STAIRS_HORIZON_MIN && is_staircase(points, line.slope);
        let stretch =
            Stretch { points, slope_bytes_per_sec, grown_kib, others_kib, error_share, in_steps };
        // The newest step still rises, and neither end is markedly flatter than all of it.
        let rising_still = last.y > points[points.len() - 2].y
            && (in_steps || self.grows_now(stretch.slope_bytes_per_sec));
        let late_slope =
            even(points, &line, self.activity.fell_to(self.horizon)).filter(|_| rising_still)?;
        if self.horizon < MINUTES_HORIZON_MIN && stretch.slope_bytes_per_sec < FAST_BYTES_PER_SEC {
            return None;
        }
        let grown_secs = (last.x - first.x) * bucket_secs;
        if !self.has_lasted(&stretch, grown_secs)
            || !self.nears_limit(grown_kib, stretch.together_kib(), grown_secs)
        {
            return None;
        }
        let quickened = self.quickened(&stretch);
        let slows = !quickened && self.slows_on_a_longer_horizon(late_slope * per_sec);
        if slows && !self.levels_off(&stretch)
            || self.activity.explains(self.horizons, self.horizon, grown_kib / first.y.max(1.0))
        {
            return None;
        }
        let beginning = match self.steady_secs_before(&stretch) {
            Some(steady_secs) => Beginning::BrokeOut { steady_secs },
            None if !self.starts && self.goes_on(&stretch, quickened) => Beginning::Unseen,
            None => return None,
        };
        Some(Growth {
            headroom_bytes: self.headroom_bytes,
            others_bytes_per_sec: others_kib * KIB / grown_secs,
            slope_bytes_per_sec: stretch.slope_bytes_per_sec,
            slope_error_bytes_per_sec: line.slope_error() * INTERVAL_ERRORS * per_sec,
            recent_share: late_slope / line.slope,
            grown_bytes: grown_kib * KIB,
            grown_secs,
            completeness: points.len() as f64 / buckets as f64,
            points: points.len(),
            base_kib: first.y as u32,
            peak_kib: last.y as u32,
            beginning,
            under_sawtooth: false,
            in_steps,
        })
    }

    /// Floors of this or a longer horizon.
    fn floors(&self, horizon: usize) -> BucketFloors {
        let newest = if horizon == self.horizon { self.newest } else { Newest::Closed };
        self.window.floors_to(horizon, newest)
    }

    /// Returns whether the shorter horizons, whose newest buckets are newer, still show some of the
    /// growth.
    fn grows_now(&self, slope_bytes_per_sec: f64) -> bool {
        let Some(shorter) = self.horizon.checked_sub(1) else { return true };
        let floors = self.window.floors(shorter);
        let lowest = |to: usize| {
            let from = (to - NOW_NEWEST_BUCKETS) as f64;
            let ys = floors
                .before(to as f64)
                .iter()
                .filter(|point| point.x >= from)
                .map(|point| point.y);
            ys.reduce(f64::min)
        };
        let makes_kib = |horizon: usize| {
            slope_bytes_per_sec * NOW_BUCKETS_BETWEEN as f64 * self.horizons.bucket_secs(horizon)
                / KIB
        };
        let rose_kib =
            lowest(BUCKETS).zip(lowest(BUCKETS - NOW_BUCKETS_BETWEEN)).map(|(new, old)| new - old);
        if rose_kib.is_some_and(|kib| kib < NOW_SHARE_MIN * makes_kib(shorter)) {
            return false;
        }
        let Some(shortest) = shorter.checked_sub(1) else { return true };
        let rose_kib = self.window.rise_kib(shortest, NOW_BUCKETS_BETWEEN);
        rose_kib.is_none_or(|kib| kib >= NOW_SHARE_OF_STAIRS_MIN * makes_kib(shortest))
    }

    /// Significance of the horizon. Each may err as often a day: one whose buckets are longer is
    /// judged less often, and may be less strict.
    fn significance(&self) -> f64 {
        let share = self.horizons.bucket_secs(self.horizon) / self.horizons.bucket_secs(0);
        (self.config.significance * share).min(SIGNIFICANCE_MAX)
    }
}

/// Returns whether points rise in steps longer than the time between two of them, and never fall: a
/// shorter horizon shows pauses that are no end.
fn is_staircase(points: &[Point], slope: f64) -> bool {
    let least = STAIR_SHARE * slope;
    let rises = || points.windows(2).map(|pair| pair[1].y - pair[0].y);
    rises().all(|rise| rise > -least)
        && rises().filter(|rise| *rise < least).count() >= STAIR_PAUSES_MIN
}

/// Returns the slope of the later half if neither half is markedly flatter than the whole; if the
/// activity fell to a share, so may the rate.
fn even(points: &[Point], line: &FittedLine, fell: f64) -> Option<f64> {
    let half = points.len().div_ceil(2);
    let (early, late) = (
        FittedLine::through(&points[..half])?,
        FittedLine::through(&points[points.len() - half..])?,
    );
    let is_even = early.slope >= EARLY_SHARE_MIN * line.slope
        && late.slope >= RECENT_SHARE_MIN * fell * line.slope.max(early.slope);
    is_even.then_some(late.slope)
}

/// Returns the slope of points that rise in a line of which neither half is markedly flatter.
pub(super) fn climb(points: &[Point]) -> Option<f64> {
    let line = FittedLine::through(points).filter(|line| line.p_value() <= SIGNIFICANCE_MAX)?;
    even(points, &line, 1.0).map(|_| line.slope)
}

impl Growth {
    /// Time to the limit, with all of the workload's growth.
    pub(super) fn exhaustion_secs(&self) -> f64 {
        self.headroom_bytes / (self.slope_bytes_per_sec + self.others_bytes_per_sec)
    }

    /// Certainty of the line's slope, times the share of the rate that is left at the end, times
    /// the share of buckets that were seen.
    pub(super) fn confidence(&self) -> f64 {
        let standard_error = self.slope_error_bytes_per_sec / INTERVAL_ERRORS;
        let sure = (1.0 - standard_error / self.slope_bytes_per_sec).max(CONFIDENCE_MIN);
        (sure * self.recent_share.min(1.0) * self.completeness).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_buckets_are_looked_at_while_they_fill() {
        let looks = |closed: u8| due(closed, 8).collect::<Vec<_>>();
        assert_eq!(looks(0b0000_0101), [(0, Newest::Closed), (2, Newest::Closed)]);
        assert_eq!(looks(0b0000_1000), [(3, Newest::Closed), (4, Newest::Open)]);
        assert_eq!(
            looks(0b0001_1000),
            [(3, Newest::Closed), (4, Newest::Closed), (5, Newest::Open)]
        );
    }
}
