//! Tracker of one count of one process that has begun to rise: decides whether that is a leak, and
//! when it ends.
//!
//! Two rings hold its floors. One spans the whole rise, so that a slow leak under a busy load is
//! found over hours; the other begins anew whenever the count stops rising, so that a fast leak
//! after a long calm need not wait for buckets of a day. Both refuse a count that only returns to
//! where it was before: that has leaked nothing yet. Load also makes counts rise in a straight
//! line, each morning for hours. It is told from a leak by how near the end is, by the factor of
//! the rise or by its length; sockets that only the program can close need no such proof. Cold
//! start: ten minutes of rising. A rise that slows down, or that has given back a third of itself,
//! is not claimed.

use super::{kind::CountSample, ring::Ring};
use crate::{
    detect::{regression::FittedLine, resource::Resource},
    units::{Count, Span},
};

/// Length of each ring's first buckets. The short one's is between the long one's and its double,
/// so that one of them is nearly full at any time. Two samples, ten seconds apart, fit into either.
const BUCKET_SECS: [f64; 2] = [28.0, 20.0];

/// Time for which each ring must have been watched to be called still. The long one is shorter than
/// a night, so that a morning finds yesterday's level and not the night's.
const PATIENCE_SECS: [f64; 2] = [600.0, 6.0 * 3_600.0];

/// Shortest rise that is judged: a start, a deployment or a burst is over by then. A guess.
const RISE_SECS_MIN: f64 = 600.0;

/// Fewest floors by which it is judged, of the fifteen that a ring can have closed.
const POINTS_MIN: usize = 12;

/// Probability that a line as straight is noise. As small as the default for memory: hosts have as
/// many counts as processes.
const SIGNIFICANCE: f64 = 1e-6;

/// Slope of the second half as a share of the first half's, at least: counts that fill up slow
/// down.
const LATTER_SHARE_MIN: f64 = 0.7;

/// Share of the growth that may have been given back on the way.
const GAVE_BACK_SHARE_MAX: f64 = 1.0 / 3.0;

/// Growth worth a claim, as a share of the count that it began from, or of what was left to the
/// limit then. Guesses.
const GROWN_SHARE_MIN: f64 = 0.5;
const GROWN_LEFT_SHARE_MIN: f64 = 0.1;

/// A day with some to spare: a rise for so long without a night is not load.
const DAY_SECS: f64 = 26.0 * 3_600.0;

/// Factor by which a count grows on hardly any morning, a guess: a day brings three to five times
/// the night's load. An end further off than this multiple of the rise can wait for the day to
/// prove it.
const LOAD_FACTOR: f64 = 8.0;
const REACH_OUTGROWN: f64 = 24.0;

/// Count below which factors say nothing.
const LOAD_FROM_MIN: f64 = 32.0;

/// Ends nearer than this multiple of the rise so far are worth a claim even if the rise is a
/// morning's. Mornings take hours, so a rise within an hour is believed sooner.
const REACH: f64 = 1.0;
const REACH_WITHIN_HOUR: f64 = 2.0;
const HOUR_SECS: f64 = 3_600.0;

/// Files for each thread, at least, if threads come with connections.
const FILES_A_THREAD: f64 = 0.5;

/// Threads of a pool that may still be filling, which takes some pools an hour: the default of the
/// largest (Tomcat's).
const POOL_THREADS_MAX: f64 = 200.0;

/// Share of the growth since the claim that, once given back, ends the claim.
const ENDED_SHARE: f64 = 0.5;

/// A count has stopped when it has not grown for the longest of ten minutes, so many of the buckets
/// that showed the rise, and the time in which so many should have come. The latter two are
/// guesses.
const STOPPED_SECS_MIN: f64 = 600.0;
const STOPPED_BUCKETS: f64 = 3.0;
const STOPPED_HANDLES: f64 = 8.0;

/// Second half's slope as a multiple of the whole's above which the leak quickens rather than
/// scatters.
const QUICKENS: f64 = 1.25;

/// A rise that is a leak.
#[derive(Debug, Clone, Copy)]
pub(super) struct SteadyRise {
    /// Difference between the last floor and the first, and the time between them.
    pub(super) grown: u32,
    pub(super) secs: f64,
    pub(super) per_sec: f64,
    /// Standard error of the slope.
    pub(super) per_sec_error: f64,
    ring: usize,
    bucket_secs: f64,
    /// Count above which the rise is new, and the last floor.
    from: u32,
    highest: u32,
}

/// State of a count.
#[derive(Debug, Clone)]
pub(super) struct Tracker {
    /// Ring that begins anew, and ring that spans the whole rise.
    rings: [Ring; 2],
    pub(super) open: Option<OpenRise>,
}

/// An open claim.
#[derive(Debug, Clone)]
pub(super) struct OpenRise {
    pub(super) rise: SteadyRise,
    pub(super) confidence: f64,
    /// Lowest count of the bucket that closes at `closes_t`.
    floor: u32,
    closes_t: f64,
    highest: u32,
    grew_t: f64,
}

/// Result of a sample.
#[derive(Debug)]
pub(super) enum TrackerUpdate {
    /// Nothing new.
    Nothing,
    /// The count no longer rises, and never held more than this.
    Still(u32),
    /// The count rises as leaks do.
    Leaks(SteadyRise),
    /// The claimed leak goes on at this rate.
    Grows(f64),
    /// The claimed leak is over, for this reason.
    Over(String),
}

impl Tracker {
    /// Tracks a count that has held `top` before and now rises above it.
    pub(super) fn new(t: f64, top: u32, sample: &CountSample) -> Self {
        Self { rings: [0, 1].map(|ring| begin(t, ring, top, sample)), open: None }
    }

    /// Takes a count.
    pub(super) fn observe(&mut self, t: f64, sample: &CountSample) -> TrackerUpdate {
        let closed = [0, 1].map(|ring| self.rings[ring].observe(t, sample.count));
        if let Some(open) = &mut self.open {
            let update = open.follow(t, sample, &self.rings);
            if matches!(update, TrackerUpdate::Over(_)) {
                *self = Self::new(t, self.ground(), sample);
            }
            return update;
        }
        let mut rises = [0, 1].into_iter().filter(|&ring| closed[ring]);
        if let Some(rise) = rises.find_map(|ring| rise(&self.rings[ring], ring, sample)) {
            return TrackerUpdate::Leaks(rise);
        }
        if closed[0] && self.rings[0].is_still(PATIENCE_SECS[0]) {
            if self.rings[1].is_still(PATIENCE_SECS[1]) {
                return TrackerUpdate::Still(self.ground());
            }
            self.rings[0] = begin(t, 0, self.rings[0].ground(), sample);
        }
        TrackerUpdate::Nothing
    }

    /// Records that a rise is claimed.
    pub(super) fn claim(
        &mut self,
        t: f64,
        sample: &CountSample,
        rise: SteadyRise,
        confidence: f64,
    ) {
        let (floor, closes_t, highest) = (sample.count, t + rise.bucket_secs, rise.highest);
        self.open = Some(OpenRise { rise, confidence, floor, closes_t, highest, grew_t: t });
    }

    fn ground(&self) -> u32 {
        self.rings[0].ground().max(self.rings[1].ground())
    }
}

fn begin(t: f64, ring: usize, top: u32, sample: &CountSample) -> Ring {
    let mut ring = Ring::new(t, BUCKET_SECS[ring], top, sample.files);
    ring.observe(t, sample.count);
    ring
}

/// Returns the rise that a ring shows, if it is a leak.
fn rise(ring: &Ring, number: usize, sample: &CountSample) -> Option<SteadyRise> {
    let floors = ring.floors();
    let points = floors.points();
    let ([first, .., before, last], true) = (points, points.len() >= POINTS_MIN) else {
        return None;
    };
    let (line, [former, latter]) = (FittedLine::through(points)?, floors.halves()?);
    let from = first.y.max(f64::from(ring.top()));
    let grown = last.y - from;
    let rises = line.p_value() <= SIGNIFICANCE
        && latter >= LATTER_SHARE_MIN * former
        && last.y > before.y
        && points.iter().all(|point| point.y <= last.y)
        && f64::from(ring.gave_back()) <= GAVE_BACK_SHARE_MAX * grown;
    let left = sample.left().map_or(f64::INFINITY, |left| left + grown);
    let is_worth_it = grown >= sample.grown_min
        && grown >= (GROWN_SHARE_MIN * from).min(GROWN_LEFT_SHARE_MIN * left);
    let rise = SteadyRise {
        grown: (last.y - first.y) as u32,
        secs: (last.x - first.x) * ring.bucket_secs(),
        per_sec: line.slope.max(if latter > QUICKENS * line.slope { latter } else { 0.0 })
            / ring.bucket_secs(),
        per_sec_error: line.slope_error() / ring.bucket_secs(),
        ring: number,
        bucket_secs: ring.bucket_secs(),
        from: from as u32,
        highest: last.y as u32,
    };
    (rises
        && is_worth_it
        && rise.secs >= RISE_SECS_MIN
        && !could_be_load(ring, sample, &rise, grown))
    .then_some(rise)
}

/// Returns whether work that comes by the day could explain a rise.
fn could_be_load(ring: &Ring, sample: &CountSample, rise: &SteadyRise, grown: f64) -> bool {
    let exhaustion_secs = sample.exhaustion_secs(rise.per_sec);
    let outgrows = grown >= LOAD_FACTOR * f64::from(rise.from).max(LOAD_FROM_MIN)
        && exhaustion_secs.is_none_or(|secs| secs <= REACH_OUTGROWN * rise.secs);
    if rise.secs >= DAY_SECS || outgrows {
        return false;
    }
    match sample.resource {
        // The peer is gone: load does not keep these.
        Resource::CloseWait => false,
        Resource::Threads => {
            let files = f64::from(sample.files.saturating_sub(ring.files_from()));
            grown <= POOL_THREADS_MAX || files >= FILES_A_THREAD * f64::from(rise.grown)
        }
        Resource::Files | Resource::Memory => {
            let reach = if rise.secs <= HOUR_SECS { REACH_WITHIN_HOUR } else { REACH };
            exhaustion_secs.is_none_or(|secs| secs > reach * rise.secs)
        }
    }
}

impl OpenRise {
    fn follow(&mut self, t: f64, sample: &CountSample, rings: &[Ring; 2]) -> TrackerUpdate {
        self.floor = self.floor.min(sample.count);
        if t < self.closes_t {
            return TrackerUpdate::Nothing;
        }
        let closed = std::mem::replace(&mut self.floor, sample.count);
        self.closes_t = t + self.rise.bucket_secs;
        let grew = closed > self.highest;
        if grew {
            (self.highest, self.grew_t) = (closed, t);
        }
        let (grown, gave_back) =
            (self.highest.saturating_sub(self.rise.from), self.highest - closed);
        let still_secs = t - self.grew_t;
        let stopped_secs = STOPPED_SECS_MIN
            .max(STOPPED_BUCKETS * self.rise.bucket_secs)
            .max(STOPPED_HANDLES / self.rise.per_sec);
        if f64::from(gave_back) >= ENDED_SHARE * f64::from(grown) {
            let (gave_back, grown) = (Count(gave_back.into()), Count(grown.into()));
            TrackerUpdate::Over(format!("{gave_back} of the {grown} new ones are gone again"))
        } else if still_secs >= stopped_secs && !sample.has_hit_limit() {
            TrackerUpdate::Over(format!(
                "their number has not grown for {} and is {}",
                Span(still_secs),
                Count(closed.into())
            ))
        } else if grew {
            TrackerUpdate::Grows(self.rate_now(&rings[self.rise.ring]))
        } else {
            TrackerUpdate::Nothing
        }
    }

    /// Rate now, per second, by the second half of its ring, which follows a leak that quickens or
    /// slows down.
    fn rate_now(&self, ring: &Ring) -> f64 {
        let latter = ring.floors().halves().map_or(0.0, |[_, latter]| latter / ring.bucket_secs());
        if latter > 0.0 { latter } else { self.rise.per_sec }
    }
}
