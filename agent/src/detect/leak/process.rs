//! One process under watch: its window, its load, and whether it leaks.
//!
//! It is judged by every horizon; once it leaks it is followed on the horizon that showed it, where its noise was judged,
//! but forecast on every shorter one too. Whoever cried wolf on a horizon is not believed on it again.
//! Cold start: a process that starts under watch is not judged before its warm-up is over, but what it weighs is kept from the
//! first minute on, so that a start that slows can be told from a leak. It refuses to hold more than [`STATE_BYTES_MAX`].

use std::{num::NonZeroU64, sync::Arc};

use super::super::{
    growth::{Growth, Look},
    load::Load,
    trend::theil_sen,
    window::{Closed, Floors, Horizons, KIB, Newest, Window},
    words::{Size, Span},
};
use super::workload::{Members, Workload};
use crate::{
    config::LeakConfig,
    sense::{HandlesFact, ProcessFact},
};

/// What one process may cost, whatever it does.
const STATE_BYTES_MAX: usize = 512;

/// What one process costs.
pub const PROCESS_STATE_BYTES: usize = size_of::<Process>();
const _: () = assert!(PROCESS_STATE_BYTES <= STATE_BYTES_MAX);

/// How long the image of a program is read in and its first tables are built; nothing of it is kept. A guess.
const LOADING_SECS: f64 = 60.0;

/// The same, where the whole warm-up is configured to be shorter.
pub(super) fn loading_secs(config: &LeakConfig) -> f64 {
    config.warm_up.as_secs_f64().min(LOADING_SECS)
}

/// Buckets at the end of its horizon by which a leak is seen to stop.
const END_BUCKETS: usize = 6;

/// Share of the claimed slope below which growth has stopped.
const STOPPED_SHARE: f64 = 0.1;

/// Troughs by which the same is seen.
const END_TROUGHS: usize = 4;

/// Growth must have stopped for this long, and for its own horizon's buckets at the end: a pause is not an end. A guess.
const STOPPED_SECS_MIN: f64 = 60.0;

/// Share of what was grown since the claim's window began that, once given back, makes it no leak.
const GIVEN_BACK_SHARE: f64 = 0.5;

/// Share of growth that must have come since a claim was withdrawn for it to be claimed again.
const NEWS_SHARE: f64 = 0.5;

/// Share of its growth that came without anything new being mapped, from which a process only touches what it had.
const TOUCHED_SHARE: f64 = 0.5;

/// All that is known of one process.
pub(super) struct Process {
    pub(super) window: Window,
    load: Load,
    pub(super) start_ticks: u64,
    /// When its window began: first sight, or a little after its start.
    pub(super) origin_t: f64,
    pub(super) workload: Arc<Workload>,
    /// Few do, so it lies elsewhere.
    pub(super) leak: Option<Box<Leak>>,
    /// One more than the faulted bytes when the window began, where faults are sampled; so it takes eight bytes, not sixteen.
    faulted_from_bytes: Option<NonZeroU64>,
    /// Private KiB at the same moment.
    private_from_kib: u32,
    /// What it had mapped when last seen; 0 where that is not seen.
    mapped_kib: u32,
    /// What it weighed when that last became more.
    weighed_when_mapped_kib: u32,
    pub(super) seen_scan: u32,
    /// Whether it started, or replaced its program, under watch: then its first growth is a warm-up.
    young: bool,
    /// What it weighed when a claim about it was withdrawn: growth up to there is no news.
    settled_kib: u32,
    /// Shorter horizons than this have cried wolf about this program.
    trusted_from: u8,
}

/// That a process leaks, and by what it is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leak {
    pub(super) slope_bytes_per_sec: f64,
    /// Since when its horizon has shown no growth; infinite while it grows.
    still_since_t: f64,
    /// Floors since the claim; `None` after a restart, until the successor has one.
    floors_kib: Option<(u32, u32)>,
    pub(super) horizon: u8,
    /// Whether it is followed by its troughs.
    by_troughs: bool,
    pub(super) confidence: f32,
}

/// What came of a leak that was followed.
pub(super) enum Followed {
    /// It grows on: how fast now.
    Grows(f64),
    /// It pauses.
    Pauses,
    /// It is no leak after all, or no more, and why.
    Over(String),
}

/// Why a leak is over.
struct Over {
    because: String,
    gave_back: bool,
}

impl Process {
    /// `loading_secs` for one that starts now; `None` for one that ran before it was watched.
    pub(super) fn new(fact: &ProcessFact, t: f64, scan: u32, loading_secs: Option<f64>, members: &mut Members) -> Self {
        Self {
            window: Window::default(),
            load: Load::default(),
            start_ticks: fact.id.start_ticks,
            origin_t: t + loading_secs.unwrap_or(0.0),
            workload: members.join(fact),
            leak: None,
            faulted_from_bytes: faulted_from(fact),
            private_from_kib: kib(fact),
            mapped_kib: 0,
            weighed_when_mapped_kib: 0,
            seen_scan: scan,
            young: loading_secs.is_some(),
            settled_kib: 0,
            trusted_from: 0,
        }
    }

    /// Forgets all growth: another program runs now.
    pub(super) fn begin_anew(&mut self, t: f64, loading_secs: f64) {
        self.window = Window::default();
        self.load = Load::default();
        self.origin_t = t + loading_secs;
        self.faulted_from_bytes = None;
        (self.mapped_kib, self.weighed_when_mapped_kib) = (0, 0);
        (self.young, self.settled_kib, self.trusted_from) = (true, 0, 0);
    }

    /// Takes a sight of it.
    pub(super) fn see(
        &mut self,
        fact: &ProcessFact,
        t: f64,
        scan: u32,
        horizons: &Horizons,
        members: &mut Members,
    ) -> Closed {
        self.seen_scan = scan;
        if !self.workload.is_of(fact) {
            members.leave(&self.workload, fact.id.pid);
            self.workload = members.join(fact);
        }
        if let Some(mapped_bytes) = fact.mapped_bytes {
            let before_kib = std::mem::replace(&mut self.mapped_kib, to_kib(mapped_bytes));
            if self.mapped_kib > before_kib {
                self.weighed_when_mapped_kib = kib(fact);
            }
        }
        let age_secs = t - self.origin_t;
        if age_secs <= 0.0 {
            (self.faulted_from_bytes, self.private_from_kib) = (faulted_from(fact), kib(fact));
        }
        if age_secs < 0.0 { Closed::default() } else { self.window.observe(horizons, age_secs, fact.private_bytes()) }
    }

    /// Takes a count of what it holds.
    pub(super) fn count(&mut self, fact: &HandlesFact, t: f64, horizons: &Horizons) {
        self.load.observe(horizons, t - self.origin_t, fact);
    }

    /// What a horizon shows, if that is a leak; the caller says how many bytes are left.
    pub(super) fn judge(
        &self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &LeakConfig,
        horizons: &Horizons,
        headroom_bytes: f64,
        others_grew_kib: &dyn Fn(usize) -> f64,
    ) -> Option<Growth> {
        if horizon < usize::from(self.trusted_from) {
            return None;
        }
        let look = self.look(t, (horizon, newest), config, horizons, headroom_bytes, others_grew_kib)?;
        self.is_believed(look.growth()?, horizon, config, horizons)
    }

    /// The same of what the last troughs show, when one was completed.
    pub(super) fn judge_troughs(
        &self,
        t: f64,
        config: &LeakConfig,
        horizons: &Horizons,
        headroom_bytes: f64,
    ) -> Option<Growth> {
        let growth =
            self.look(t, (0, Newest::Closed), config, horizons, headroom_bytes, &|_| 0.0)?.growth_of_troughs()?;
        self.is_believed(growth, horizons.covering(growth.grown_secs), config, horizons)
    }

    /// How to look at a horizon; `None` while it warms up.
    fn look<'a>(
        &'a self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &'a LeakConfig,
        horizons: &'a Horizons,
        headroom_bytes: f64,
        others_grew_kib: &'a dyn Fn(usize) -> f64,
    ) -> Option<Look<'a>> {
        let warm_up_secs = config.warm_up.as_secs_f64() - loading_secs(config);
        let watched_secs = t - self.origin_t;
        if self.young && watched_secs < warm_up_secs {
            return None;
        }
        let (window, load, young) = (&self.window, &self.load, self.young);
        Some(Look {
            window,
            horizon,
            newest,
            config,
            horizons,
            load,
            young,
            watched_secs,
            headroom_bytes,
            others_grew_kib,
        })
    }

    fn is_believed(&self, growth: Growth, horizon: usize, config: &LeakConfig, horizons: &Horizons) -> Option<Growth> {
        let reach_secs = config.max_extrapolation * horizons.horizon_secs(horizon);
        let news_kib = f64::from(growth.peak_kib.saturating_sub(self.settled_kib));
        let is_news = news_kib * KIB >= NEWS_SHARE * growth.grown_bytes;
        (is_news && growth.exhaustion_secs() <= reach_secs && !self.touches_what_it_had(&growth)).then_some(growth)
    }

    /// Whether growth is into memory that was mapped before it, of which there is less than is left to the limit: huge pages that
    /// arrive, a heap that is touched for the first time. It cannot run out before it maps more, and is judged again then.
    fn touches_what_it_had(&self, growth: &Growth) -> bool {
        let weighs_kib = f64::from(growth.peak_kib);
        let untouched_kib = f64::from(self.mapped_kib) - weighs_kib;
        self.mapped_kib > 0
            && weighs_kib - f64::from(self.weighed_when_mapped_kib) >= TOUCHED_SHARE * growth.grown_bytes / KIB
            && untouched_kib * KIB < growth.headroom_bytes
    }

    /// A leak, when a bucket of its own horizon closed.
    pub(super) fn follow(&mut self, mut leak: Leak, t: f64, horizons: &Horizons) -> Followed {
        let horizon = usize::from(leak.horizon);
        if leak.by_troughs {
            let since_secs = self.window.since_trough_secs(horizons).unwrap_or(f64::INFINITY);
            if since_secs < END_BUCKETS as f64 * horizons.bucket_secs(horizon) {
                return Followed::Pauses;
            }
            // Its sawtooth has ended: from here on floors tell.
            leak.by_troughs = false;
        }
        let floors: Floors = self.window.floors(horizon);
        let (Some(last), Some(recent)) = (floors.points().last(), theil_sen(floors.last(END_BUCKETS))) else {
            return Followed::Pauses;
        };
        let per_sec = KIB / horizons.bucket_secs(horizon);
        let last_kib = last.y;
        if let Some(over) = self.is_over(leak, t, last_kib, recent * per_sec, horizons.bucket_secs(horizon)) {
            if over.gave_back {
                // Its memory comes and goes at a longer period than this horizon: from now on only longer ones are believed.
                self.trusted_from = (horizon + 1).min(horizons.count() - 1) as u8;
            }
            return Followed::Over(over.because);
        }
        theil_sen(floors.points()).map_or(Followed::Pauses, |slope| Followed::Grows(slope * per_sec))
    }

    /// A leak, when a trough was completed.
    pub(super) fn follow_troughs(&mut self, leak: Leak, t: f64, horizons: &Horizons) -> Followed {
        let troughs = self.window.troughs(horizons);
        let points = troughs.points();
        let latest = &points[points.len().saturating_sub(END_TROUGHS)..];
        let (true, Some(last), Some(slope)) = (leak.by_troughs, latest.last(), theil_sen(latest)) else {
            return Followed::Pauses;
        };
        let tooth_secs = (last.x - latest[0].x) / (latest.len() - 1) as f64;
        match self.is_over(leak, t, last.y, slope * KIB, tooth_secs) {
            Some(over) => Followed::Over(over.because),
            None => Followed::Grows(slope * KIB),
        }
    }

    /// Whether a leak is over, by its latest floor and its latest pace; it is kept as it is now.
    fn is_over(
        &mut self,
        mut leak: Leak,
        t: f64,
        last_kib: f64,
        slope_bytes_per_sec: f64,
        still_secs_min: f64,
    ) -> Option<Over> {
        let last_kib = last_kib as u32;
        let (base_kib, peak_kib) = leak.floors_kib.unwrap_or((last_kib, last_kib));
        let peak_kib = peak_kib.max(last_kib);
        let (grown_kib, given_back_kib) =
            (f64::from(peak_kib.saturating_sub(base_kib)), f64::from(peak_kib - last_kib));
        let gave_back = given_back_kib > GIVEN_BACK_SHARE * grown_kib;
        // What it gave back is not settled: it may grow there again, and may leak below.
        leak.floors_kib = Some((base_kib, if gave_back { last_kib } else { peak_kib }));
        let still = slope_bytes_per_sec < STOPPED_SHARE * leak.slope_bytes_per_sec;
        leak.still_since_t = if still { leak.still_since_t.min(t) } else { f64::INFINITY };
        self.leak = Some(Box::new(leak));
        let because = if gave_back {
            let (back, grown) = (Size(given_back_kib * KIB), Size(grown_kib * KIB));
            format!("it gave back {back} of the {grown} it grew")
        } else if t - leak.still_since_t >= STOPPED_SECS_MIN.max(still_secs_min) {
            let still_for = Span(t - leak.still_since_t);
            format!("it has not grown for {still_for} and holds {}", Size(f64::from(last_kib) * KIB))
        } else {
            return None;
        };
        Some(Over { because, gave_back })
    }

    /// How fast a leak grows now, when a bucket of a shorter horizon than its own closed: a leak that quickens, or a headroom
    /// that others eat, must not wait for its own horizon, whose buckets may be most of an hour.
    pub(super) fn quickened(
        &self,
        leak: &Leak,
        t: f64,
        horizon: usize,
        config: &LeakConfig,
        horizons: &Horizons,
    ) -> Option<f64> {
        if leak.still_since_t.is_finite() {
            return None;
        }
        let own = usize::from(leak.horizon);
        let own_slope = if leak.by_troughs {
            theil_sen(self.window.troughs(horizons).points()).unwrap_or(0.0) * KIB
        } else {
            theil_sen(self.window.floors(own).points()).unwrap_or(0.0) * KIB / horizons.bucket_secs(own)
        };
        let growth = self.judge(t, (horizon, Newest::Closed), config, horizons, 0.0, &|_| 0.0);
        let faster = growth.map_or(0.0, |growth| growth.slope_bytes_per_sec);
        Some(own_slope.max(faster))
    }

    /// It leaks no more: what it grew until now is settled.
    pub(super) fn end_leak(&mut self) {
        if let Some((_, peak_kib)) = self.leak.take().and_then(|leak| leak.floors_kib) {
            self.settled_kib = peak_kib;
        }
    }

    /// Bytes that sampled page faults stand for, and bytes retained, since the window began.
    pub(super) fn allocated_and_retained(&self, fact: &ProcessFact) -> Option<(u64, u64)> {
        let allocated =
            fact.faulted_bytes_total?.checked_sub(self.faulted_from_bytes?.get() - 1).filter(|bytes| *bytes > 0)?;
        Some((allocated, fact.private_bytes().saturating_sub(u64::from(self.private_from_kib) << 10)))
    }
}

impl Leak {
    pub(super) fn new(growth: &Growth, horizon: usize, confidence: f64) -> Self {
        Self {
            slope_bytes_per_sec: growth.slope_bytes_per_sec,
            still_since_t: f64::INFINITY,
            floors_kib: Some((growth.base_kib, growth.peak_kib)),
            horizon: horizon as u8,
            by_troughs: growth.under_sawtooth,
            confidence: confidence as f32,
        }
    }

    /// As the successor of the process takes it over.
    pub(super) fn inherited(self) -> Self {
        Self { still_since_t: f64::INFINITY, floors_kib: None, by_troughs: false, ..self }
    }
}

fn faulted_from(fact: &ProcessFact) -> Option<NonZeroU64> {
    fact.faulted_bytes_total.map(|bytes| NonZeroU64::MIN.saturating_add(bytes))
}

fn kib(fact: &ProcessFact) -> u32 {
    to_kib(fact.private_bytes())
}

fn to_kib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX)
}
