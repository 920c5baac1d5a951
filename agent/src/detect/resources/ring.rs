//! Ring of a count's floors since it began to rise: at most sixteen, however long that is.
//!
//! A floor is the lowest count of a bucket, so that what comes and goes within one bucket vanishes.
//! When the ring is full, its floors are merged in pairs and buckets last twice as long, so that it
//! spans the whole rise at a resolution of an eighth to a sixteenth: a fast leak is judged within
//! minutes and a slow one over days by the same sixteen numbers. Cold start: it begins empty, at a
//! level that was new. A bucket without a count is missing, never zero. Time that runs backwards is
//! ignored.

use crate::detect::regression::{POINTS_MAX, Point, theil_sen};

/// Buckets of a ring.
const BUCKETS: usize = POINTS_MAX;

/// Floors from which a ring can be called still: its second half then has four.
const STILL_POINTS_MIN: usize = 8;

/// Mark of a bucket without a count; counts stop below it.
const MISSING: u32 = u32::MAX;

/// Floors of a count.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    origin_t: f64,
    bucket_secs: f64,
    /// Buckets before `open` are closed, the one at `open` is being filled, those after it are
    /// missing.
    floors: [u32; BUCKETS],
    open: usize,
    /// Highest closed floor.
    peak: u32,
    /// Largest difference between a closed floor and a higher one before it.
    gave_back: u32,
    /// Highest floor known from before: counts below it are nothing new.
    top: u32,
    /// Open files when the ring began.
    files_from: u32,
}

/// Closed floors of a ring; `x` in buckets, `y` in counts.
pub(super) struct CountFloors {
    points: [Point; BUCKETS],
    len: usize,
}

impl CountFloors {
    pub(super) fn points(&self) -> &[Point] {
        &self.points[..self.len]
    }

    /// Slopes of the first and of the second half, in counts per bucket.
    pub(super) fn halves(&self) -> Option<[f64; 2]> {
        let (former, latter) = self.points().split_at(self.len / 2);
        Some([theil_sen(former)?, theil_sen(latter)?])
    }
}

impl Ring {
    pub(super) fn new(t: f64, bucket_secs: f64, top: u32, files: u32) -> Self {
        Self {
            origin_t: t,
            bucket_secs,
            floors: [MISSING; BUCKETS],
            open: 0,
            peak: 0,
            gave_back: 0,
            top,
            files_from: files,
        }
    }

    /// Takes a count. Returns whether a bucket closed.
    pub(super) fn observe(&mut self, t: f64, count: u32) -> bool {
        let mut at = self.bucket(t);
        if at < self.open {
            return false;
        }
        let closed = self.floors[self.open];
        let closes = at > self.open && closed != MISSING;
        if closes {
            self.peak = self.peak.max(closed);
            self.gave_back = self.gave_back.max(self.peak - closed);
        }
        while at >= BUCKETS {
            self.merge();
            at = self.bucket(t);
        }
        self.open = at;
        self.floors[at] = self.floors[at].min(count.min(MISSING - 1));
        closes
    }

    /// Returns the bucket of a time. Saturates: time before the origin lies in the first bucket,
    /// not a number as well.
    fn bucket(&self, t: f64) -> usize {
        ((t - self.origin_t) / self.bucket_secs) as usize
    }

    fn merge(&mut self) {
        for i in 0..BUCKETS {
            self.floors[i] = if i < BUCKETS / 2 {
                self.floors[2 * i].min(self.floors[2 * i + 1])
            } else {
                MISSING
            };
        }
        self.open /= 2;
        self.bucket_secs *= 2.0;
    }

    /// Floors of the closed buckets.
    pub(super) fn floors(&self) -> CountFloors {
        let mut floors = CountFloors { points: [Point::default(); BUCKETS], len: 0 };
        for (x, &floor) in
            self.floors[..self.open].iter().enumerate().filter(|(_, floor)| **floor != MISSING)
        {
            floors.points[floors.len] = Point { x: x as f64, y: f64::from(floor) };
            floors.len += 1;
        }
        floors
    }

    /// Whether it has been watched for `patience_secs` and its second half does not rise.
    pub(super) fn is_still(&self, patience_secs: f64) -> bool {
        let floors = self.floors();
        floors.len >= STILL_POINTS_MIN
            && self.span_secs() >= patience_secs
            && floors.halves().is_some_and(|[_, latter]| latter <= 0.0)
    }

    /// Time that the closed buckets span.
    pub(super) fn span_secs(&self) -> f64 {
        self.open as f64 * self.bucket_secs
    }

    pub(super) fn bucket_secs(&self) -> f64 {
        self.bucket_secs
    }

    /// Highest closed floor, of this rise and of those before it.
    pub(super) fn ground(&self) -> u32 {
        self.top.max(self.peak)
    }

    pub(super) fn top(&self) -> u32 {
        self.top
    }

    pub(super) fn gave_back(&self) -> u32 {
        self.gave_back
    }

    pub(super) fn files_from(&self) -> u32 {
        self.files_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ys(ring: &Ring) -> Vec<f64> {
        ring.floors().points().iter().map(|point| point.y).collect()
    }

    #[test]
    fn it_spans_the_whole_rise_in_half_to_all_of_its_buckets() {
        let mut ring = Ring::new(0.0, 20.0, 0, 0);
        for look in 0..100_000_u32 {
            let t = f64::from(look) * 10.0;
            ring.observe(t, look);
            let (span, closed) = (ring.span_secs(), ring.floors().len);
            assert!(t - span <= ring.bucket_secs, "{t}: {span}");
            assert!(t < 160.0 || (7..16).contains(&closed), "{t}: {closed}");
        }
        let floors = ys(&ring);
        assert_eq!(floors[0], 0.0);
        assert!(
            floors.windows(2).all(|pair| pair[1] - pair[0] == ring.bucket_secs / 10.0),
            "{floors:?}"
        );
        assert!(!ring.is_still(0.0));
    }

    #[test]
    fn floors_forget_what_comes_and_goes_and_a_gap_is_missing() {
        let mut ring = Ring::new(0.0, 20.0, 0, 0);
        for (t, count) in [(0.0, 9), (10.0, 300), (20.0, 400), (30.0, 7), (70.0, 11), (80.0, 12)] {
            ring.observe(t, count);
        }
        assert_eq!(ys(&ring), [9.0, 7.0, 11.0]);
        assert_eq!((ring.ground(), ring.gave_back()), (11, 2));
        assert!(!ring.observe(5.0, 1), "time does not run backwards");
    }

    #[test]
    fn absurd_times_and_counts_do_no_harm() {
        let mut ring = Ring::new(-f64::MAX, 20.0, 0, 0);
        for t in [f64::MAX, 0.0, f64::MIN, 1e300, f64::MAX] {
            ring.observe(t, u32::MAX);
            let _ = (ring.floors(), ring.is_still(1.0));
        }
    }

    #[test]
    fn it_is_still_once_its_latter_half_no_longer_rises() {
        let mut ring = Ring::new(0.0, 20.0, 0, 0);
        let still = |ring: &mut Ring, from: u32, to: u32, count: &dyn Fn(u32) -> u32| {
            (from..to).find(|&look| {
                ring.observe(f64::from(look) * 10.0, count(look)) && ring.is_still(600.0)
            })
        };
        assert_eq!(still(&mut ring, 0, 60, &|look| 20 + look), None);
        let end = still(&mut ring, 60, 600, &|_| 80);
        assert!(end.is_some_and(|look| look < 130), "{end:?}");
    }
}
