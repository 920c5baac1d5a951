//! Rule of the exhaustion detector: a count that has climbed in a straight line through a good part
//! of what was left.
//!
//! The floors of a count (see [`Window`]) are searched from the longest horizon to the shortest for
//! a climb that goes on now: the last floors, from the bend at which they began to rise. A climb is
//! believed once it has taken a share of what was left below the limit, to a level that is new,
//! without slowing down on its own or on any longer horizon. What fills up and stops,
//! such as a cache or a pool, slows down; what comes and goes, such as a log that is rotated, has
//! been at its level before. Shares make the rule the same for a table of 500 connections and a
//! disk of 10 TiB, and for an end in minutes and in weeks.

use std::{array, sync::LazyLock, time::Duration};

use crate::detect::{
    regression::{FittedLine, POINTS_MAX, Point, theil_sen},
    window::{BucketFloors, Horizons, Newest, Window},
};

/// Horizons in seconds, the longest some 39 hours. Each is three times as long as the one before,
/// so that a climb fills a good part of one of them.
const HORIZONS_SECS: [u64; 8] = [64, 192, 576, 1_728, 5_184, 15_552, 46_656, 139_968];

/// Fewest floors that show a climb.
const POINTS_MIN: usize = 6;

/// Fewest floors of a longer horizon that show the beginning of a climb.
const FEW_POINTS: usize = 3;

/// Probability that a line as straight is chance, at most; and that above which a line is no climb
/// at all. A host has a few dozen counts, each judged every few seconds.
const SIGNIFICANCE: f64 = 1e-5;
const CLIMBS_AT: f64 = 1e-3;

/// Share of the growth that may have been given back on the way.
const GAVE_BACK_SHARE_MAX: f64 = 1.0 / 3.0;

/// Rate now as a share of a longer horizon's, below which the climb is ending.
const LATE_SHARE_MIN: f64 = 0.8;

/// Share of what was left up to which there is time to wait for a climb that looks bent, be it by
/// chance; and standard errors by which a bend has to differ from a straight line later. Guesses.
const EARLY_SHARE: f64 = 0.21;
const BEND_ERRORS: f64 = 1.3;

/// Share of what was left that a climb has to take within so short a time: a copy, a build or a
/// dump writes as evenly for minutes, and ends.
const BURST_SECS: f64 = 600.0;
const BURST_SHARE: f64 = 0.17;

/// Growth that is worth a claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worth {
    /// Room below the limit now; `None` without a limit.
    pub(super) left: Option<f64>,
    /// Share of the room at the beginning that has to be taken.
    pub(super) share: f64,
    /// Growth that has to be reached in any case.
    pub(super) least: f64,
    /// Shortest climb that is judged, in seconds.
    pub(super) secs: f64,
}

/// A climb without an end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Climb {
    /// Level above which it is new, and the last floor.
    pub(super) from: f64,
    pub(super) highest: f64,
    /// Difference between the last floor and the first, and the time between them.
    pub(super) grown: f64,
    pub(super) secs: f64,
    pub(super) per_sec: f64,
    /// Standard error of that rate.
    pub(super) per_sec_error: f64,
    /// Length of the buckets that show it.
    pub(super) bucket_secs: f64,
    /// Share of what was left at its beginning that it has taken; `None` without a limit.
    pub(super) taken_share: Option<f64>,
}

/// Horizons of all counts.
pub(super) fn horizons() -> &'static Horizons {
    static HORIZONS: LazyLock<Horizons> =
        LazyLock::new(|| Horizons::new(&HORIZONS_SECS.map(Duration::from_secs)));
    &HORIZONS
}

/// Returns the climb that a window shows, if it does not look like one that ends by itself.
pub(super) fn climb(window: &Window, worth: &Worth) -> Option<Climb> {
    let horizons = horizons();
    let floors: [BucketFloors; HORIZONS_SECS.len()] =
        array::from_fn(|horizon| window.floors_to(horizon, Newest::Open));
    // Nearly every count stops here.
    if !may_be_worth_it(&floors, worth) {
        return None;
    }
    let mut fastest_longer: f64 = 0.0;
    for (horizon, floors_here) in floors.iter().enumerate().rev() {
        let points = floors_here.points();
        let begin = bend(points, POINTS_MIN);
        let rising = &points[begin..];
        let (Some(line), true) = (FittedLine::through(rising), rising.len() >= POINTS_MIN) else {
            continue;
        };
        let p_value = line.p_value();
        if p_value > CLIMBS_AT {
            continue;
        }
        let bucket_secs = horizons.bucket_secs(horizon);
        let per_sec = line.slope / bucket_secs;
        if per_sec < LATE_SHARE_MIN * fastest_longer {
            return None;
        }
        fastest_longer = fastest_longer.max(per_sec);
        let (first, last) = (rising[0], rising[rising.len() - 1]);
        let secs = (last.x - first.x) * bucket_secs;
        let before = before(window, &floors, horizon, secs);
        let from = first.y.max(before);
        let climb = Climb {
            from,
            highest: last.y,
            grown: last.y - first.y,
            secs,
            per_sec,
            per_sec_error: line.slope_error() / bucket_secs,
            bucket_secs,
            taken_share: worth.left.map(|left| share_taken(last.y - from, left)),
        };
        if p_value > SIGNIFICANCE || !is_worth_it(&climb, worth) {
            continue;
        }
        let is_early = climb.taken_share.is_some_and(|share| share < EARLY_SHARE);
        let errors = if is_early { 0.0 } else { BEND_ERRORS };
        let (widest, since_secs) = beginning(&floors, horizon, begin, secs);
        if fills_up(&resolved(window, &floors, widest, since_secs), worth.left, errors) {
            return None;
        }
        if goes_on(rising, climb.grown) {
            return Some(climb);
        }
    }
    None
}

/// Rate at which a window climbs now, by the later half of the horizon that showed the climb.
pub(super) fn rate_now(window: &Window, bucket_secs: f64) -> Option<f64> {
    let horizons = horizons();
    let horizon =
        (0..horizons.count()).find(|horizon| horizons.bucket_secs(*horizon) >= bucket_secs)?;
    let floors = window.floors_to(horizon, Newest::Open);
    let points = floors.points();
    let latter = &points[points.len().saturating_sub(POINTS_MAX / 2)..];
    theil_sen(latter).map(|slope| slope / bucket_secs)
}

/// Share of what was left that is taken, if so much is left now.
pub(super) fn share_taken(taken: f64, left: f64) -> f64 {
    taken / (left + taken).max(1.0)
}

fn may_be_worth_it(floors: &[BucketFloors], worth: &Worth) -> bool {
    let ys = || floors.iter().flat_map(BucketFloors::points).map(|point| point.y);
    let last = floors.iter().find_map(|floors| floors.points().last()).map_or(0.0, |last| last.y);
    let lowest = ys().fold(last, f64::min);
    takes_enough(last - lowest, worth.share, worth)
}

fn takes_enough(grown: f64, share: f64, worth: &Worth) -> bool {
    grown >= worth.least && worth.left.is_none_or(|left| grown >= share * (left + grown))
}

fn is_worth_it(climb: &Climb, worth: &Worth) -> bool {
    let share = if climb.secs < BURST_SECS { worth.share.max(BURST_SHARE) } else { worth.share };
    climb.secs >= worth.secs && takes_enough(climb.highest - climb.from, share, worth)
}

/// Returns the point at which the last floors, `least` or more, begin to rise: that from which a
/// straight line, after a level one before it, fits all of them best.
fn bend(points: &[Point], least: usize) -> usize {
    let candidates = 0..points.len().saturating_sub(least - 1);
    let misfit = |begin: usize| {
        let (level, rising) = points.split_at(begin);
        misfit_of_level(level) + misfit_of_line(rising)
    };
    let misfits = candidates.map(|begin| (begin, misfit(begin)));
    // The earliest of equals: points on the line belong to it.
    misfits.min_by(|one, other| one.1.total_cmp(&other.1)).map_or(0, |(begin, _)| begin)
}

/// Returns the horizon that shows the beginning of a climb, and the time since then. A horizon that
/// is full of the climb does not: the next longer one does, if only by a few floors.
fn beginning(floors: &[BucketFloors], horizon: usize, begin: usize, secs: f64) -> (usize, f64) {
    let longer = horizon + 1;
    let Some(points) = floors.get(longer).filter(|_| begin == 0).map(BucketFloors::points) else {
        return (horizon, secs);
    };
    let rising = &points[bend(points, FEW_POINTS)..];
    let longer_secs = match rising {
        [first, .., last] => (last.x - first.x) * horizons().bucket_secs(longer),
        _ => 0.0,
    };
    if longer_secs > secs { (longer, longer_secs) } else { (horizon, secs) }
}

fn mean(points: &[Point], of: impl Fn(&Point) -> f64) -> f64 {
    points.iter().map(of).sum::<f64>() / (points.len() as f64).max(1.0)
}

fn misfit_of_level(points: &[Point]) -> f64 {
    let level = mean(points, |point| point.y);
    points.iter().map(|point| (point.y - level).powi(2)).sum()
}

fn misfit_of_line(points: &[Point]) -> f64 {
    let (x, y) = (mean(points, |point| point.x), mean(points, |point| point.y));
    let sum = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
    let spread = sum(&|point| (point.x - x).powi(2));
    let slope = sum(&|point| (point.x - x) * (point.y - y)) / spread.max(f64::MIN_POSITIVE);
    sum(&|point| (point.y - y - slope * (point.x - x)).powi(2))
}

/// Returns the highest level that this horizon and the longer ones have shown before the last
/// `secs`.
fn before(window: &Window, floors: &[BucketFloors], horizon: usize, secs: f64) -> f64 {
    let horizons = horizons();
    let mut highest: f64 = 0.0;
    for (longer, floors) in floors.iter().enumerate().skip(horizon) {
        highest = highest.max(window.past_peak_kib(longer));
        let Some(last) = floors.points().last() else { continue };
        let earlier = floors.before(last.x - secs / horizons.bucket_secs(longer));
        highest = earlier.iter().map(|point| point.y).fold(highest, f64::max);
    }
    highest
}

/// Returns the floors of the last `secs`, the newer ones as finely as the next shorter horizon
/// shows them; `x` in seconds, negative. Six points hide a bend that twenty show. Still shorter
/// buckets hold so few samples that their floors lie higher. A climbing count is lowest at the
/// beginning of a bucket, so that is the time of a floor.
fn resolved(window: &Window, floors: &[BucketFloors], horizon: usize, secs: f64) -> Vec<Point> {
    let at = |horizon: usize| {
        let points = floors[horizon].points();
        let (open_secs, bucket_secs) =
            (window.open_secs(horizons(), horizon), horizons().bucket_secs(horizon));
        let last_x = points.last().map_or(0.0, |last| last.x);
        points
            .iter()
            .map(move |point| Point { x: (point.x - last_x) * bucket_secs - open_secs, ..*point })
    };
    let from = -secs - horizons().bucket_secs(horizon);
    let shorter = horizon.checked_sub(1).filter(|at| floors[*at].points().len() >= POINTS_MIN);
    let to = shorter.and_then(|shorter| at(shorter).next()).map_or(1.0, |first| first.x);
    let finer = shorter.into_iter().flat_map(at);
    at(horizon).filter(|point| point.x < to).chain(finer).filter(|point| point.x >= from).collect()
}

/// Returns whether the last floor is the highest, and little was given back on the way.
fn goes_on(points: &[Point], grown: f64) -> bool {
    let Some((last, earlier)) = points.split_last() else { return false };
    let (mut highest, mut gave_back): (f64, f64) = (f64::MIN, 0.0);
    for point in earlier {
        highest = highest.max(point.y);
        gave_back = gave_back.max(highest - point.y);
    }
    last.y > highest && gave_back <= GAVE_BACK_SHARE_MAX * grown
}

/// Returns whether a climb bends down so that it ends below the limit, as what fills up does. A
/// parabola through it shows by how much its rate has fallen; if it goes on to fall by as much in
/// the same time, the climb ends after a rest that can be foretold. The bend has to be so many
/// standard `errors` away from a straight line.
fn fills_up(points: &[Point], left: Option<f64>, errors: f64) -> bool {
    let n = points.len() as f64;
    let x_mean = mean(points, |point| point.x);
    let y_mean = mean(points, |point| point.y);
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        points.iter().map(|point| of(point.x - x_mean, point.y - y_mean)).sum::<f64>()
    };
    let (x2, x3, x4) = (sum(&|x, _| x * x), sum(&|x, _| x.powi(3)), sum(&|x, _| x.powi(4)));
    // The parabola without its mean and its line, so that the two coefficients are independent.
    let curve = |x: f64| x * x - x2 / n - x * x3 / x2;
    let spread = x4 - x2 * x2 / n - x3 * x3 / x2;
    if x2 <= 0.0 || spread <= 0.0 || points.len() < POINTS_MIN {
        return false;
    }
    let slope = sum(&|x, y| x * y) / x2;
    let bend = sum(&|x, y| curve(x) * y) / spread;
    let squares = sum(&|x, y| (y - slope * x - bend * curve(x)).powi(2));
    let bend_error = (squares / (n - 3.0) / spread).sqrt();
    let rate = |x: f64| slope + bend * (2.0 * x - x3 / x2);
    if bend >= -errors * bend_error {
        return false;
    }
    let ends = [points[0].x, points[points.len() - 1].x];
    let [first, last] = ends.map(|x| rate(x - x_mean));
    if last <= 0.0 || first <= last {
        return true;
    }
    let rest = last * (ends[1] - ends[0]) / (first / last).ln();
    left.is_some_and(|left| rest < left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORTH: Worth = Worth { left: Some(900.0), share: 0.1, least: 10.0, secs: 60.0 };

    fn points(ys: impl IntoIterator<Item = f64>) -> Vec<Point> {
        ys.into_iter().enumerate().map(|(x, y)| Point { x: x as f64, y }).collect()
    }

    /// Returns the first time at which counts, one every ten seconds, are a climb.
    fn found(limit: f64, count: impl Fn(f64) -> f64, secs: u32) -> Option<(f64, Climb)> {
        let mut window = Window::default();
        (0..secs / 10).find_map(|sample| {
            let (t, used) = (f64::from(sample) * 10.0, count(f64::from(sample) * 10.0));
            window.observe(horizons(), t, (used * 1_024.0) as u64);
            let worth = Worth { left: Some(limit - used), ..WORTH };
            climb(&window, &worth).map(|climb| (t, climb))
        })
    }

    #[test]
    fn bend_is_where_the_last_floors_begin_to_rise() {
        let level_then_up = (0..16).map(|x: i32| f64::from((x - 7).max(0)));
        assert_eq!(bend(&points(level_then_up), POINTS_MIN), 7);
        assert_eq!(bend(&points((0..16).map(f64::from)), POINTS_MIN), 0);
    }

    #[test]
    fn what_fills_up_bends_down_and_lines_and_stairs_do_not() {
        let filling = |x: i32| 100.0 * (1.0 - (-f64::from(x) / 10.0).exp());
        let ends_within = |left: f64, ys: &dyn Fn(i32) -> f64| {
            fills_up(&points((0..16).map(ys)), Some(left), BEND_ERRORS)
        };
        // It has 22 to go.
        assert!(ends_within(30.0, &filling) && !ends_within(5.0, &filling));
        assert!(!ends_within(1e9, &|x| 3.0 * f64::from(x)));
        assert!(!ends_within(1e9, &|x| f64::from(x / 3)));
        assert!(!ends_within(1e9, &|x| f64::from(x * x)));
    }

    #[test]
    fn straight_climb_is_found_by_a_tenth_of_what_was_left() {
        for (secs_to_end, quiet) in [(36_000.0, 0.0), (36_000.0, 50_000.0), (400_000.0, 90_000.0)] {
            let count = |t: f64| 100_000.0 + ((t - quiet).max(0.0) / secs_to_end) * 900_000.0;
            let (t, climb) = found(1_000_000.0, count, 1_000_000).expect("it climbs");
            let taken = (count(t) - 100_000.0) / 900_000.0;
            assert!((0.1..0.16).contains(&taken), "{taken} after {quiet}: {climb:?}");
            let ratio = climb.per_sec / (900_000.0 / secs_to_end);
            assert!((0.8..1.25).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn what_levels_off_or_comes_and_goes_is_no_climb() {
        let cache = |t: f64| 100_000.0 + 360_000.0 * (1.0 - (-t / 5_000.0).exp());
        assert!(found(1_000_000.0, cache, 100_000).is_none());
        let rotated = |t: f64| 100_000.0 + 80_000.0 * (t / 3_600.0).fract();
        assert!(found(1_000_000.0, rotated, 200_000).is_none());
        assert!(found(1_000_000.0, |_| 970_000.0, 100_000).is_none());
    }
}
