//! Deceleration: decides whether growth whose beginning was not seen may still end below the limit.
//! Then it is not claimed yet.

use super::{
    super::{
        regression::{FittedLine, Point, theil_sen},
        window::{BUCKETS, KIB},
    },
    FAST_BYTES_PER_SEC, HorizonView, MINUTES_HORIZON_MIN, RECENT_SHARE_MIN, Stretch,
    history::STEADY_BUCKETS_MIN,
    impact::HEADROOM_SHARE,
};

/// Shortest stretch that is believed without a steady time before it.
const POINTS_MIN: usize = 7;

/// Shortest such stretch while a process starts under watch: what it still loads comes in steps
/// that a short line goes through.
const STARTING_POINTS_MIN: usize = 12;

/// Growth as a share of the process's own size below which it may be a slow swing, which goes both
/// ways. A guess.
const SWING_SHARE: f64 = 0.02;

/// Rate, a gibibyte in five minutes, above which half a minute of growth is enough.
const STEEP_BYTES_PER_SEC: f64 = 3_500_000.0;

/// Time to the limit up to which growth of a process met at work is believed before the warm-up is
/// over: a job in progress grows as fast, and most end before their limit. Enough to limit the
/// process and to drain the node.
const URGENT_SECS: f64 = 300.0;

/// Growth that counts on a host of any size: more than half of what is due to be found, and of the
/// process's own size, since a large one has larger caches.
const SUBSTANTIAL_BYTES: f64 = 36.0 * 1_048_576.0;
const SUBSTANTIAL_SHARE: f64 = 0.3;

/// Such growth as a share of the headroom in which it must not end: a limit as near as this.
const SUBSTANTIAL_HEADROOM_SHARE: f64 = 0.09;

/// Time for which a process must have been watched for that: longer than what most programs load at
/// their start, and most bursts and jobs in progress last.
const SUBSTANTIAL_WATCHED_SECS: f64 = 1_260.0;

/// Time for which it must have been watched if it is so large only over longer than the stretch:
/// files in a tmpfs are rotated, and heaps purged, that often.
const HELD_WATCHED_SECS: f64 = 1_800.0;

/// First horizon that shows it, a quarter of an hour by default.
pub(super) const SUBSTANTIAL_HORIZON_MIN: usize = 3;

/// Standard errors by which either half's slope may be off when the strongest possible deceleration
/// is computed: of a process that started under watch, of one whose growth has quickened since, and
/// of one that ran before.
pub(super) const YOUNG_ERRORS: f64 = 3.0;
pub(super) const QUICKENED_ERRORS: f64 = 1.5;
pub(super) const OLD_ERRORS: f64 = 0.5;

/// Such standard errors for growth that is a good part of the size of a process that started under
/// watch, while it starts and since: small steps that come ever more seldom do not make it.
const SUBSTANTIAL_STARTING_ERRORS: f64 = 2.0;
pub(super) const SUBSTANTIAL_ERRORS: f64 = 0.7;

/// Time after which a start is over: runtimes that warm up slow down for most of an hour.
const STARTED_SECS: f64 = 3_600.0;

/// Additional standard errors if only the workload's growth together is worth a claim: its
/// processes may all be in the same phase.
const POOL_ERRORS: f64 = 1.5;

/// Increase of the errors, divided by the degrees of freedom: few points tell little about their
/// scatter.
const FEW_POINTS: f64 = 2.0;

/// Buckets of a longer horizon by which its deceleration is computed: earlier ones may be another
/// matter.
const LATTER_BUCKETS: usize = 10;

/// Buckets that a longer horizon must hold before its slope may veto a shorter one: the fewest with
/// a median slope.
const VETO_BUCKETS_MIN: usize = 3;

impl HorizonView<'_> {
    /// Returns whether growth whose beginning was not seen is more than a start or a swing: long
    /// enough, so large that the limit comes nearer, about as fast over a longer time, and not
    /// about to end.
    pub(super) fn goes_on(&self, stretch: &Stretch<'_>, quickened: bool) -> bool {
        let slope = stretch.slope_bytes_per_sec;
        let together = slope * stretch.together_kib() / stretch.grown_kib;
        let is_urgent = self.headroom_bytes <= together * URGENT_SECS;
        let known = self.watched_secs >= self.config.warm_up.as_secs_f64();
        let fast = !self.young && slope >= FAST_BYTES_PER_SEC && (known || is_urgent);
        let soonest = if !fast {
            MINUTES_HORIZON_MIN
        } else if slope >= STEEP_BYTES_PER_SEC {
            0
        } else {
            1
        };
        // The first minutes say little about a process that ran before.
        let seen_enough =
            fast || self.young || self.watched_secs >= self.config.warm_up.as_secs_f64();
        let starts = self.young && !quickened && self.may_be_starting();
        // Two minutes are less than most bursts take.
        let is_brief = self.horizon == MINUTES_HORIZON_MIN;
        let points_min = if starts || is_brief { STARTING_POINTS_MIN } else { POINTS_MIN };
        let errors = if fast {
            0.0
        } else if !self.young {
            OLD_ERRORS
        } else if quickened {
            QUICKENED_ERRORS
        } else {
            YOUNG_ERRORS
        };
        let comes_nearer = stretch.together_kib() * KIB >= HEADROOM_SHARE * self.headroom_bytes;
        self.horizon >= soonest
            && stretch.points.len() >= points_min
            && seen_enough
            && stretch.grown_kib >= SWING_SHARE * stretch.points[stretch.points.len() - 1].y
            && self.is_as_fast_for_longer(slope)
            && ((fast || comes_nearer)
                && !self.may_end(stretch, self.headroom_bytes, errors, quickened)
                || self.is_substantial(stretch, quickened)
                || self.is_held_from_birth(stretch, quickened))
    }

    /// Returns whether growth is a leak however far the limit is: a good part of the process's own
    /// size, in a process watched for most of half an hour, and a leak if the limit were so near
    /// that growth brought it nearer.
    pub(super) fn is_substantial(&self, stretch: &Stretch<'_>, quickened: bool) -> bool {
        let points_min = if self.may_be_starting() { STARTING_POINTS_MIN } else { POINTS_MIN };
        if self.horizon < SUBSTANTIAL_HORIZON_MIN || stretch.points.len() < points_min {
            return false;
        }
        let Some(grown_bytes) = self.large_growth_bytes(stretch) else { return false };
        let near_bytes = self.substantial_headroom_bytes(grown_bytes);
        !self.may_end(stretch, near_bytes, self.substantial_errors(), quickened)
            || self.levels_off(stretch)
    }

    /// Returns the growth over a stretch, or else for as long as its pace has held, that counts on
    /// a host of any size.
    fn large_growth_bytes(&self, stretch: &Stretch<'_>) -> Option<f64> {
        let last_kib = stretch.points[stretch.points.len() - 1].y;
        let large_since = |kib: f64| {
            let grown_bytes = (last_kib - kib) * KIB;
            self.is_large(grown_bytes, kib * KIB).then_some(grown_bytes)
        };
        // What a start still loads comes in steps that a short line goes through.
        let is_short = stretch.points.len() < BUCKETS && self.young && self.may_be_starting();
        let counts = self.watched_secs >= HELD_WATCHED_SECS && !is_short;
        let held = || counts.then(|| self.held_from_kib(stretch)).and_then(large_since);
        large_since(stretch.points[0].y).or_else(held)
    }

    /// Returns whether the process may still be starting: one that ran before may have started
    /// shortly before.
    pub(super) fn may_be_starting(&self) -> bool {
        self.watched_secs < STARTED_SECS
    }

    /// Headroom in which growth that is a good part of the process's own size must not end.
    pub(super) fn substantial_headroom_bytes(&self, grown_bytes: f64) -> f64 {
        (grown_bytes / SUBSTANTIAL_HEADROOM_SHARE).min(self.headroom_bytes)
    }

    /// Standard errors by which either half's slope may be off if growth is a good part of the
    /// process's own size.
    pub(super) fn substantial_errors(&self) -> f64 {
        if !self.young {
            OLD_ERRORS
        } else if self.may_be_starting() {
            SUBSTANTIAL_STARTING_ERRORS
        } else {
            SUBSTANTIAL_ERRORS
        }
    }

    /// Returns whether growth that slows down levels off at a pace that lasts, and that has taken a
    /// good part of the process's size by itself.
    pub(super) fn levels_off(&self, stretch: &Stretch<'_>) -> bool {
        self.horizon >= SUBSTANTIAL_HORIZON_MIN
            && !self.may_be_starting()
            && self.lasting_pace().is_some_and(|(bytes_per_sec, secs)| {
                let leaked_bytes = bytes_per_sec * secs;
                let now_bytes = stretch.points[stretch.points.len() - 1].y * KIB;
                let rest_bytes = (now_bytes - leaked_bytes).max(0.0);
                self.is_large(leaked_bytes, rest_bytes)
            })
    }

    /// Returns whether growth counts on a host of any size, beside so many bytes.
    pub(super) fn is_large(&self, grown_bytes: f64, beside_bytes: f64) -> bool {
        self.watched_secs >= SUBSTANTIAL_WATCHED_SECS
            && grown_bytes >= SUBSTANTIAL_BYTES.max(SUBSTANTIAL_SHARE * beside_bytes)
    }

    /// Returns whether growth was markedly faster over some longer span, covered in full or not:
    /// then it is ending.
    pub(super) fn slows_on_a_longer_horizon(&self, recent_bytes_per_sec: f64) -> bool {
        (self.horizon + 1..self.horizons.count()).any(|longer| {
            let floors = self.window.floors(longer);
            let per_sec = KIB / self.horizons.bucket_secs(longer);
            let slope =
                theil_sen(floors.points()).filter(|_| floors.points().len() >= VETO_BUCKETS_MIN);
            slope.is_some_and(|slope| {
                recent_bytes_per_sec
                    < RECENT_SHARE_MIN * self.activity.fell_to(longer) * slope * per_sec
            })
        })
    }

    /// Returns whether the next longer horizon, if it shows enough, grows about as fast.
    fn is_as_fast_for_longer(&self, slope_bytes_per_sec: f64) -> bool {
        let longer = self.horizon + 1;
        if longer >= self.horizons.count() {
            return true;
        }
        let floors = self.window.floors(longer);
        let latter = floors.last(LATTER_BUCKETS);
        let per_sec = KIB / self.horizons.bucket_secs(longer);
        latter.len() < STEADY_BUCKETS_MIN[0]
            || theil_sen(latter)
                .is_none_or(|slope| slope * per_sec >= RECENT_SHARE_MIN * slope_bytes_per_sec)
    }

    /// Returns whether growth would end within so many bytes: by the stretch, if it slowed down as
    /// much as its scatter allows, or by the latter part of any longer horizon, if it slowed down
    /// as much as it does there. Growth that has quickened has left its longer past behind.
    pub(super) fn may_end(
        &self,
        stretch: &Stretch<'_>,
        left_bytes: f64,
        own: f64,
        quickened: bool,
    ) -> bool {
        let pooled = if stretch.grown_kib < self.worth_kib() { POOL_ERRORS } else { 0.0 };
        let pool = stretch.together_kib() / stretch.grown_kib;
        let ends = |horizon: usize, points: &[Point], errors: f64| {
            ends_below(left_bytes / pool / KIB, points, self.activity.fell_to(horizon), errors)
        };
        let mut longer = self.horizon + 1..self.horizons.count();
        ends(self.horizon, stretch.points, own + pooled).unwrap_or(true)
            || !quickened
                && longer.any(|horizon| {
                    ends(horizon, self.window.floors(horizon).last(LATTER_BUCKETS), pooled)
                        .unwrap_or(false)
                })
    }
}

/// Returns whether growth ends within `left_kib`.
///
/// If the rate falls by the same share in the same time, the growth still to come is the rate now
/// times the time in which it falls to its e-th part. Both halves are taken to scatter alike, and
/// either's slope may be off by so many standard errors. `fell` is the share of the activity that
/// is left. `None` if the rate may have reached zero.
pub(super) fn ends_below(left_kib: f64, points: &[Point], fell: f64, errors: f64) -> Option<bool> {
    let (earlier, later) = points.split_at(points.len() / 2);
    let (early, late) = (FittedLine::through(earlier)?, FittedLine::through(later)?);
    let freedom = f64::from(early.freedom + late.freedom);
    let scatter = ((early.squares + late.squares) / freedom).sqrt();
    let errors = errors * (1.0 + FEW_POINTS / freedom) * scatter;
    let early_rate = fell.sqrt() * early.slope + errors / early.spread.sqrt();
    let late_rate = late.slope - errors / late.spread.sqrt();
    if late_rate <= 0.0 {
        return None;
    }
    let falls_buckets = (later[0].x - earlier[0].x) / (early_rate / late_rate).ln();
    Some(late_rate < early_rate && late.slope * falls_buckets < left_kib)
}
