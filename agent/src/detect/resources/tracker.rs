//! One count of one process that has begun to rise: whether that is a leak, and whether it still
//! is.
//!
//! Two rings watch it. One spans all of the rise, so that a slow leak under a busy load is found
//! over hours; the other begins anew whenever it stops rising, so that a fast leak after a long
//! calm need not wait for buckets of a day. Both refuse what is no new ground: a count that fell
//! and comes back to where it was has leaked nothing yet. What follows load rises in a straight
//! line too, each morning for hours. It is told from a leak by its end, its factor or its length;
//! what nobody but the program can end needs no such proof. Cold start: ten minutes of rising. It
//! refuses a rise that slows, and one that has given back a third of itself.

use super::{
    super::{regression::FittedLine, verdict::Resource},
    kind::CountSample,
    ring::Ring,
};
use crate::units::{Count, Span};

/// Length of each ring's first buckets. The short one's is between the long one's and its double,
/// so that one of them is nearly full at any time. Two looks of the sensor, ten seconds apart, fit
/// into either.
const BUCKET_SECS: [f64; 2] = [28.0, 20.0];

/// Time for which each ring must have been watched to be called still. The long one: less than a
/// night, so that a morning finds yesterday's ground and not the night's.
const PATIENCE_SECS: [f64; 2] = [600.0, 6.0 * 3_600.0];

/// Shortest rise that is judged: a start, a deployment or a burst is over by then. A guess.
const RISE_SECS_MIN: f64 = 600.0;

/// Floors by which it is judged, of fifteen that a ring can have closed.
const POINTS_MIN: usize = 12;

/// Chance that a line as straight is noise. As small as the default of memory leaks: hosts have as
/// many counts as processes.
const SIGNIFICANCE: f64 = 1e-6;

/// The latter half must rise this fast, against the former: what fills up slows down.
const LATTER_SHARE_MIN: f64 = 0.7;

/// Share of the growth that may have been given back on the way.
const GAVE_BACK_SHARE_MAX: f64 = 1.0 / 3.0;

/// Growth worth a claim, as a share of the count that it began from, or of what was left until the
/// limit then. Guesses.
const GROWN_SHARE_MIN: f64 = 0.5;
const GROWN_LEFT_SHARE_MIN: f64 = 0.1;

/// A day with some to spare: what has risen for so long without a night is no load.
const DAY_SECS: f64 = 26.0 * 3_600.0;

/// How many times a count grows on hardly any morning, a guess: a day brings three to five times
/// the night's load. An end further off than so many times the rise can wait for the day to prove
/// it.
const LOAD_FACTOR: f64 = 8.0;
const REACH_OUTGROWN: f64 = 24.0;

/// A smaller count than this says nothing about factors.
const LOAD_FROM_MIN: f64 = 32.0;

/// An end that is nearer than so many times the rise so far is worth a word even if it should be a
/// morning's. Mornings take hours: what rose for less is believed sooner.
const REACH: f64 = 1.0;
const REACH_WITHIN_HOUR: f64 = 2.0;
const HOUR_SECS: f64 = 3_600.0;

/// Threads that come with connections come with files: at least so many each.
const FILES_A_THREAD: f64 = 0.5;

/// Threads of a pool that may still be filling, which takes some of them an hour: the default of
/// the largest (Tomcat's).
const POOL_THREADS_MAX: f64 = 200.0;

/// Share of what it gained since the claim that, once given back, ends the claim.
const ENDED_SHARE: f64 = 0.5;

/// A count stops when it has not grown for the longest of ten minutes, so many of the buckets that
/// showed it, and the time in which so many handles should have come. The latter two are guesses.
const STOPPED_SECS_MIN: f64 = 600.0;
const STOPPED_BUCKETS: f64 = 3.0;
const STOPPED_HANDLES: f64 = 8.0;

/// A latter half so much steeper than the whole is no scatter: the leak quickens.
const QUICKENS: f64 = 1.25;

/// A rise that is a leak.
#[derive(Debug, Clone, Copy)]
pub(super) struct SteadyRise {
    /// By how much the last floor lies above the first, and how long after it.
    pub(super) grown: u32,
    pub(super) secs: f64,
    pub(super) per_sec: f64,
    /// Standard error of it.
    pub(super) per_sec_error: f64,
    ring: usize,
    bucket_secs: f64,
    /// The count above which it is new, and the last floor.
    from: u32,
    highest: u32,
}

/// All that is known of the count.
#[derive(Debug, Clone)]
pub(super) struct Tracker {
    /// The one that begins anew, and the one that spans all.
    rings: [Ring; 2],
    pub(super) standing: Option<OpenRise>,
}

/// A claim that stands.
#[derive(Debug, Clone)]
pub(super) struct OpenRise {
    pub(super) rise: SteadyRise,
    pub(super) confidence: f64,
    /// Lowest count of the bucket that closes then.
    floor: u32,
    closes_t: f64,
    highest: u32,
    grew_t: f64,
}

/// What a look says.
#[derive(Debug)]
pub(super) enum TrackerUpdate {
    /// Nothing new.
    Nothing,
    /// The count no longer rises, and was never higher than this.
    Still(u32),
    /// It rises as leaks do.
    Leaks(SteadyRise),
    /// What was claimed goes on, at this pace.
    Grows(f64),
    /// What was claimed is over, and why.
    Over(String),
}

impl Tracker {
    /// Of a count that has stood at `top` before and now rises above it.
    pub(super) fn new(t: f64, top: u32, look: &CountSample) -> Self {
        Self { rings: [0, 1].map(|ring| begin(t, ring, top, look)), standing: None }
    }

    /// Takes a count.
    pub(super) fn look(&mut self, t: f64, look: &CountSample) -> TrackerUpdate {
        let closed = [0, 1].map(|ring| self.rings[ring].observe(t, look.count));
        if let Some(standing) = &mut self.standing {
            let seen = standing.follow(t, look, &self.rings);
            if matches!(seen, TrackerUpdate::Over(_)) {
                *self = Self::new(t, self.ground(), look);
            }
            return seen;
        }
        let mut rises = [0, 1].into_iter().filter(|&ring| closed[ring]);
        if let Some(rise) = rises.find_map(|ring| rise(&self.rings[ring], ring, look)) {
            return TrackerUpdate::Leaks(rise);
        }
        if closed[0] && self.rings[0].is_still(PATIENCE_SECS[0]) {
            if self.rings[1].is_still(PATIENCE_SECS[1]) {
                return TrackerUpdate::Still(self.ground());
            }
            self.rings[0] = begin(t, 0, self.rings[0].ground(), look);
        }
        TrackerUpdate::Nothing
    }

    /// A rise is claimed.
    pub(super) fn claim(&mut self, t: f64, look: &CountSample, rise: SteadyRise, confidence: f64) {
        let (floor, closes_t, highest) = (look.count, t + rise.bucket_secs, rise.highest);
        self.standing = Some(OpenRise { rise, confidence, floor, closes_t, highest, grew_t: t });
    }

    fn ground(&self) -> u32 {
        self.rings[0].ground().max(self.rings[1].ground())
    }
}

fn begin(t: f64, ring: usize, top: u32, look: &CountSample) -> Ring {
    let mut ring = Ring::new(t, BUCKET_SECS[ring], top, look.files);
    ring.observe(t, look.count);
    ring
}

/// What a ring shows, if that is a leak.
fn rise(ring: &Ring, number: usize, look: &CountSample) -> Option<SteadyRise> {
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
    let left = look.left().map_or(f64::INFINITY, |left| left + grown);
    let is_worth_it = grown >= look.grown_min
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
    (rises && is_worth_it && rise.secs >= RISE_SECS_MIN && !could_be_load(ring, look, &rise, grown))
        .then_some(rise)
}

/// Whether work that comes by the day could explain a rise.
fn could_be_load(ring: &Ring, look: &CountSample, rise: &SteadyRise, grown: f64) -> bool {
    let exhaustion_secs = look.exhaustion_secs(rise.per_sec);
    let outgrows = grown >= LOAD_FACTOR * f64::from(rise.from).max(LOAD_FROM_MIN)
        && exhaustion_secs.is_none_or(|secs| secs <= REACH_OUTGROWN * rise.secs);
    if rise.secs >= DAY_SECS || outgrows {
        return false;
    }
    match look.resource {
        // The peer is gone: no load keeps these.
        Resource::CloseWait => false,
        Resource::Threads => {
            let files = f64::from(look.files.saturating_sub(ring.files_from()));
            grown <= POOL_THREADS_MAX || files >= FILES_A_THREAD * f64::from(rise.grown)
        }
        Resource::Files | Resource::Memory => {
            let reach = if rise.secs <= HOUR_SECS { REACH_WITHIN_HOUR } else { REACH };
            exhaustion_secs.is_none_or(|secs| secs > reach * rise.secs)
        }
    }
}

impl OpenRise {
    fn follow(&mut self, t: f64, look: &CountSample, rings: &[Ring; 2]) -> TrackerUpdate {
        self.floor = self.floor.min(look.count);
        if t < self.closes_t {
            return TrackerUpdate::Nothing;
        }
        let closed = std::mem::replace(&mut self.floor, look.count);
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
            TrackerUpdate::Over(format!("{gave_back} of the {grown} that had come are gone again"))
        } else if still_secs >= stopped_secs && !look.has_hit_limit() {
            TrackerUpdate::Over(format!(
                "they have not grown for {} and are {}",
                Span(still_secs),
                Count(closed.into())
            ))
        } else if grew {
            TrackerUpdate::Grows(self.pace(&rings[self.rise.ring]))
        } else {
            TrackerUpdate::Nothing
        }
    }

    /// How fast it grows now, per second: by the latter half of its ring, which follows a leak that
    /// quickens or slows.
    fn pace(&self, ring: &Ring) -> f64 {
        let latter = ring.floors().halves().map_or(0.0, |[_, latter]| latter / ring.bucket_secs());
        if latter > 0.0 { latter } else { self.rise.per_sec }
    }
}
