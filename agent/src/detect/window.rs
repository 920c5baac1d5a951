//! Window: the memory of a process over several time scales at once, in a few hundred bytes.
//!
//! Each horizon is a ring of [`BUCKETS`] equal buckets. A closed bucket keeps the *lowest* size
//! seen in it: the floor that a garbage collector returns to, so that a sawtooth shorter than a
//! bucket vanishes by itself, and a longer horizon, whose buckets are longer, hides longer ones. A
//! bucket in which nothing was seen is missing, never zero: a gap (a suspended host, a stalled
//! sensor) costs points and invents none. Floors are 16 bits wide in a unit that all share: a KiB
//! for small processes, doubled whenever a larger size comes, so that the error is never more than
//! a part in 32,768 of the largest. Beside them it keeps the troughs of teeth that are longer than
//! a bucket (see [`super::troughs`]), and the recent peak. Cold start: a window is empty until its
//! first bucket closes. Time that runs backwards is ignored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    regression::Point,
    troughs::{TROUGHS, Troughs},
};
use crate::config::LeakConfig;

/// Buckets a horizon: enough to tell a line's scatter from its slope, with room for gaps.
pub const BUCKETS: usize = LeakConfig::BUCKETS_PER_HORIZON as usize;
const _: () = assert!(BUCKETS <= super::regression::POINTS_MAX);

/// Horizons that a window has room for.
pub const HORIZONS_MAX: usize = LeakConfig::HORIZONS_MAX;

/// Bytes in a KiB, the unit of floors.
pub const KIB: f64 = 1024.0;

/// Converts bytes to whole KiB, as many as fit.
pub fn to_kib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX)
}

/// Horizon whose floors are read for troughs: 15 minutes by default, so that teeth shorter than a
/// minute make none.
const TROUGH_HORIZON: usize = 3;

/// Smallest decrease that counts: counters are off by some pages a CPU.
const FALL_MIN_KIB: f64 = 2_048.0;

/// Time in which a peak is forgotten to its e-th part if scans come often, and more slowly
/// otherwise. A guess: a batch of every hour or so is remembered.
const PEAK_SECS: f64 = 7_200.0;

/// Shift at which the largest size in KiB fits.
const SHIFT_MAX: u8 = 54 - 15;

/// Mark of a bucket in which nothing was seen.
const MISSING: u16 = u16::MAX;

/// Bucket lengths, which all windows share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Horizons {
    bucket_secs: [f64; HORIZONS_MAX],
    len: usize,
}

impl Horizons {
    /// Takes the first [`HORIZONS_MAX`] spans that are longer than zero, in ascending order.
    pub fn new(spans: &[Duration]) -> Self {
        let mut spans: Vec<f64> =
            spans.iter().map(Duration::as_secs_f64).filter(|secs| *secs > 0.0).collect();
        spans.sort_by(f64::total_cmp);
        let mut bucket_secs = [f64::INFINITY; HORIZONS_MAX];
        for (slot, secs) in bucket_secs.iter_mut().zip(&spans) {
            *slot = secs / BUCKETS as f64;
        }
        Self { bucket_secs, len: spans.len().min(HORIZONS_MAX) }
    }

    /// Number of horizons; zero turns the detector off.
    pub fn count(&self) -> usize {
        self.len
    }

    /// Length of one bucket of a horizon, in seconds.
    pub fn bucket_secs(&self, horizon: usize) -> f64 {
        self.bucket_secs[horizon]
    }

    /// Returns the shortest horizon that is so long, or the longest.
    pub fn covering(&self, secs: f64) -> usize {
        let longest = self.len.saturating_sub(1);
        (0..longest).find(|horizon| self.horizon_secs(*horizon) >= secs).unwrap_or(longest)
    }

    /// Length of a horizon, in seconds.
    pub fn horizon_secs(&self, horizon: usize) -> f64 {
        self.bucket_secs[horizon] * BUCKETS as f64
    }
}

/// One bounded window a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Floors of closed buckets, by bucket number modulo [`BUCKETS`].
    floors: [[u16; BUCKETS]; HORIZONS_MAX],
    /// Number of the open bucket, modulo [`BUCKETS`].
    open: [u8; HORIZONS_MAX],
    /// Time of the last size, in seconds after its origin.
    age_secs: f64,
    /// Floor of the open bucket so far; `MISSING` until something is seen.
    open_floor: [u16; HORIZONS_MAX],
    /// Highest floor that has left the ring: a level that the process has had before and left
    /// again.
    past_peak: [u16; HORIZONS_MAX],
    troughs: Troughs,
    /// Recent peak of the size, in KiB.
    peak_kib: f32,
    /// Number of times that the unit of floors, a KiB, was doubled.
    shift: u8,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            floors: [[MISSING; BUCKETS]; HORIZONS_MAX],
            open: [0; HORIZONS_MAX],
            age_secs: 0.0,
            open_floor: [MISSING; HORIZONS_MAX],
            past_peak: [0; HORIZONS_MAX],
            troughs: Troughs::default(),
            peak_kib: 0.0,
            shift: 0,
        }
    }
}

/// Bucket of a horizon that counts as its newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newest {
    /// The last one that has closed.
    Closed,
    /// The one that is being filled; earlier ones move up by one.
    Open,
}

/// Parts that an observation has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Closed {
    /// Horizons of which a bucket closed, a bit each.
    pub horizons: u8,
    /// Whether a trough was completed.
    pub trough: bool,
}

/// Floors of one horizon, oldest first; `x` in buckets from the start of the horizon, `y` in KiB.
#[derive(Debug, Clone, Copy)]
pub struct BucketFloors {
    points: [Point; BUCKETS],
    len: usize,
}

impl BucketFloors {
    /// All floors.
    pub fn points(&self) -> &[Point] {
        &self.points[..self.len]
    }

    /// Floors before the `x`-th bucket of the horizon.
    pub fn before(&self, x: f64) -> &[Point] {
        let points = self.points();
        &points[..points.partition_point(|point| point.x < x)]
    }

    /// The last `buckets` of the floors before `x`; `None` if there are fewer.
    pub fn last_before(&self, x: f64, buckets: usize) -> Option<Self> {
        let before = self.before(x);
        let last = &before[before.len().checked_sub(buckets)?..];
        let mut floors = Self { points: [Point::default(); BUCKETS], len: buckets };
        floors.points[..buckets].copy_from_slice(last);
        Some(floors)
    }

    /// Floors in the last `buckets` of the horizon.
    pub fn last(&self, buckets: usize) -> &[Point] {
        let points = self.points();
        &points[points.partition_point(|point| point.x < (BUCKETS - buckets) as f64)..]
    }
}

/// Returns the place of a bucket in its ring.
fn place(bucket: u32) -> u8 {
    (bucket as usize % BUCKETS) as u8
}

impl Window {
    /// Takes a size seen `age_secs` after the window's origin.
    pub fn observe(&mut self, horizons: &Horizons, age_secs: f64, size_bytes: u64) -> Closed {
        let size = self.scaled(size_bytes >> 10);
        let before_secs = self.age_secs;
        self.age_secs = before_secs.max(age_secs);
        self.remember_peak((size_bytes >> 10) as f32, self.age_secs - before_secs);
        let mut closed = Closed::default();
        for horizon in 0..horizons.len {
            let bucket_secs = horizons.bucket_secs[horizon];
            // Saturates: negative ages land in bucket 0, ages past 2^32 buckets in the last.
            let bucket = (age_secs / bucket_secs) as u32;
            // Nearly always the bucket is still the same, and within the ring its place says so.
            let within = age_secs >= before_secs
                && age_secs - before_secs < bucket_secs * (BUCKETS - 1) as f64;
            if within && place(bucket) == self.open[horizon] {
                self.open_floor[horizon] = self.open_floor[horizon].min(size);
                continue;
            }
            let open = (before_secs / bucket_secs) as u32;
            if bucket > open {
                let floor = self.close(horizon, open, bucket);
                closed.horizons |= u8::from(floor != MISSING) << horizon;
                if horizon == TROUGH_HORIZON && floor != MISSING {
                    let least = FALL_MIN_KIB / self.kib(1);
                    closed.trough = self.troughs.see(open, floor, least);
                }
            }
            if bucket >= open {
                self.open_floor[horizon] = self.open_floor[horizon].min(size);
            }
        }
        closed
    }

    fn remember_peak(&mut self, size_kib: f32, passed_secs: f64) {
        if size_kib >= self.peak_kib {
            self.peak_kib = size_kib;
            return;
        }
        // This approximates an exponential step by step, without its cost.
        let kept = 1.0 / (1.0 + (passed_secs / PEAK_SECS) as f32);
        self.peak_kib = size_kib + (self.peak_kib - size_kib) * kept;
    }

    /// Returns a size in this window's unit, which grows until the size fits.
    fn scaled(&mut self, size_kib: u64) -> u16 {
        while size_kib >> self.shift >= u64::from(MISSING) {
            self.shift += 1;
            let rings = self.floors.iter_mut().flatten();
            for floor in rings.chain(&mut self.open_floor).filter(|floor| **floor != MISSING) {
                *floor >>= 1;
            }
            self.past_peak.iter_mut().for_each(|peak| *peak >>= 1);
            self.troughs.halve();
        }
        (size_kib >> self.shift) as u16
    }

    fn kib(&self, floor: u16) -> f64 {
        (u64::from(floor) << self.shift) as f64
    }

    /// Closes the open bucket, marks those in between as missing, and opens `bucket`. Returns the
    /// floor of the closed one.
    fn close(&mut self, horizon: usize, open: u32, bucket: u32) -> u16 {
        let floor = self.open_floor[horizon];
        self.store(horizon, open, floor);
        let missing_from = (open + 1).max(bucket.saturating_sub(BUCKETS as u32));
        for missing in missing_from..bucket {
            self.store(horizon, missing, MISSING);
        }
        self.open[horizon] = place(bucket);
        self.open_floor[horizon] = MISSING;
        floor
    }

    fn store(&mut self, horizon: usize, bucket: u32, floor: u16) {
        let slot = &mut self.floors[horizon][bucket as usize % BUCKETS];
        let left = std::mem::replace(slot, floor);
        if left != MISSING {
            self.past_peak[horizon] = self.past_peak[horizon].max(left);
        }
    }

    /// Floors of the closed buckets of a horizon.
    pub fn floors(&self, horizon: usize) -> BucketFloors {
        self.floors_to(horizon, Newest::Closed)
    }

    /// Floors of the last buckets of a horizon.
    pub fn floors_to(&self, horizon: usize, newest: Newest) -> BucketFloors {
        let mut floors = BucketFloors { points: [Point::default(); BUCKETS], len: 0 };
        let open = newest == Newest::Open;
        let oldest = usize::from(self.open[horizon]) + usize::from(open);
        for x in 0..BUCKETS {
            let is_open = open && x + 1 == BUCKETS;
            let floor = if is_open {
                self.open_floor[horizon]
            } else {
                self.floors[horizon][(oldest + x) % BUCKETS]
            };
            if floor != MISSING {
                floors.points[floors.len] = Point { x: x as f64, y: self.kib(floor) };
                floors.len += 1;
            }
        }
        floors
    }

    /// Difference between the newest floor of a horizon and the one `back` buckets before, in KiB;
    /// `None` if either is missing. The cheapest test there is.
    pub fn rise_kib(&self, horizon: usize, back: usize) -> Option<f64> {
        let newest = usize::from(self.open[horizon]) + BUCKETS - 1;
        let [older, newest] =
            [newest.wrapping_sub(back), newest].map(|at| self.floors[horizon][at % BUCKETS]);
        (older != MISSING && newest != MISSING).then(|| self.kib(newest) - self.kib(older))
    }

    /// Highest floor that a horizon has forgotten, in KiB; zero if none.
    pub fn past_peak_kib(&self, horizon: usize) -> f64 {
        self.kib(self.past_peak[horizon])
    }

    /// Forgets the floors that have left the rings.
    pub fn forget_past_peaks(&mut self) {
        self.past_peak = [0; HORIZONS_MAX];
    }

    /// Troughs, oldest first; `x` in seconds from the oldest, `y` in KiB.
    pub fn troughs(&self, horizons: &Horizons) -> BucketFloors {
        const _: () = assert!(TROUGHS <= BUCKETS);
        let mut floors = BucketFloors { points: [Point::default(); BUCKETS], len: 0 };
        let (bucket_secs, unit_kib) = (horizons.bucket_secs[TROUGH_HORIZON], self.kib(1));
        for point in self.troughs.points() {
            floors.points[floors.len] = Point { x: point.x * bucket_secs, y: point.y * unit_kib };
            floors.len += 1;
        }
        floors
    }

    /// Highest trough that was forgotten, in KiB; zero if none.
    pub fn past_trough_kib(&self) -> f64 {
        self.kib(self.troughs.past_peak())
    }

    /// Seconds since the last trough; `None` before the first.
    pub fn since_trough_secs(&self, horizons: &Horizons) -> Option<f64> {
        let bucket_secs = horizons.bucket_secs[TROUGH_HORIZON];
        let buckets = self.troughs.since((self.age_secs / bucket_secs) as u32)?;
        Some(f64::from(buckets) * bucket_secs)
    }

    /// Returns whether a window that was read from a file is one that can have been written.
    pub fn is_sound(&self) -> bool {
        self.open.iter().all(|place| usize::from(*place) < BUCKETS)
            && self.age_secs.is_finite()
            && self.shift <= SHIFT_MAX
            && self.troughs.is_sound()
    }

    /// Time since the open bucket of a horizon began, in seconds.
    pub fn open_secs(&self, horizons: &Horizons, horizon: usize) -> f64 {
        self.age_secs.max(0.0) % horizons.bucket_secs[horizon]
    }

    /// Recent peak of the size, in KiB.
    pub fn peak_kib(&self) -> f64 {
        f64::from(self.peak_kib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn one(secs: u64) -> Horizons {
        Horizons::new(&[Duration::from_secs(secs)])
    }

    fn ys(window: &Window) -> Vec<f64> {
        window.floors(0).points().iter().map(|point| point.y / 1024.0).collect()
    }

    #[test]
    fn keeps_the_lowest_of_each_bucket() {
        let (horizons, mut window) = (one(32), Window::default());
        for (t, mib) in [(0.0, 9), (1.0, 4), (2.0, 7), (3.5, 8), (4.0, 1)] {
            window.observe(&horizons, t, mib * MIB);
        }
        assert_eq!(ys(&window), [4.0, 7.0]);
    }

    #[test]
    fn a_gap_is_missing_and_a_long_one_empties_the_ring() {
        let (horizons, mut window) = (one(16), Window::default());
        window.observe(&horizons, 0.0, MIB);
        assert_eq!(window.observe(&horizons, 3.0, 2 * MIB).horizons, 1);
        window.observe(&horizons, 4.0, 3 * MIB);
        assert_eq!(ys(&window), [1.0, 2.0]);
        assert_eq!(window.floors(0).points().iter().map(|p| p.x).collect::<Vec<_>>(), [12.0, 15.0]);
        window.observe(&horizons, 1e9, MIB);
        assert_eq!(ys(&window), [0.0; 0]);
        assert_eq!(window.past_peak_kib(0), 3.0 * 1024.0);
    }

    #[test]
    fn backwards_and_absurd_ages_do_no_harm() {
        let (horizons, mut window) = (one(16), Window::default());
        window.observe(&horizons, 5.0, MIB);
        assert_eq!(window.observe(&horizons, 1.0, 2 * MIB), Closed::default());
        for age in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1.0] {
            window.observe(&horizons, age, u64::MAX);
        }
    }

    #[test]
    fn holds_sixteen_and_remembers_the_peak_it_forgot() {
        let (horizons, mut window) = (one(16), Window::default());
        for t in 0..40 {
            window.observe(&horizons, f64::from(t), u64::from(t as u32 + 1) * MIB);
        }
        assert_eq!(ys(&window).len(), BUCKETS);
        assert_eq!(ys(&window)[0], 24.0);
        assert_eq!(window.past_peak_kib(0), 23.0 * 1024.0);
    }

    #[test]
    fn the_open_bucket_can_be_the_newest() {
        let (horizons, mut window) = (one(16), Window::default());
        for t in 0..20 {
            window.observe(&horizons, f64::from(t), u64::from(t as u32) * MIB);
        }
        let newest = |newest| {
            window.floors_to(0, newest).points().last().map(|point| (point.x, point.y / 1024.0))
        };
        assert_eq!(newest(Newest::Closed), Some((15.0, 18.0)));
        assert_eq!(newest(Newest::Open), Some((15.0, 19.0)));
        assert_eq!(window.floors_to(0, Newest::Open).points().len(), BUCKETS);
    }

    #[test]
    fn a_peak_is_remembered_for_hours_and_then_forgotten() {
        let (horizons, mut window) = (one(16), Window::default());
        let mut peak_mib = |t: f64, mib: u64| {
            window.observe(&horizons, t, mib * MIB);
            window.peak_kib() / 1024.0
        };
        assert_eq!(peak_mib(0.0, 500), 500.0);
        assert!((450.0..500.0).contains(&peak_mib(600.0, 100)));
        let later = (11..600)
            .map(|minute| peak_mib(f64::from(minute) * 60.0, 100))
            .fold(0.0, |_, peak| peak);
        assert!((100.0..105.0).contains(&later), "{later}");
    }
}
