//! One process under watch: its window, its load, and whether it leaks.
//!
//! It is judged by every horizon; once it leaks it is followed (see [`super::follow`]), but
//! forecast on every shorter horizon too. Whoever cried wolf on a horizon is not believed on it
//! again. Cold start: a process that starts under watch is not judged before its warm-up is over,
//! but what it weighs is kept from the first minute on, so that a start that slows can be told from
//! a leak. It refuses to hold more than [`STATE_BYTES_MAX`].

use std::{num::NonZeroU64, sync::Arc};

use super::{
    super::{
        activity::Activity,
        growth::{Growth, HorizonView, MINUTES_HORIZON_MIN, Surroundings},
        window::{Closed, Horizons, KIB, Newest, Window},
    },
    tracking::Leak,
    workload::{Members, Workload},
};
use crate::{
    config::LeakConfig,
    sense::{ProcessFact, ProcessResourcesFact},
};

/// What one process may cost, whatever it does.
const STATE_BYTES_MAX: usize = 512;

/// What one process costs.
pub const PROCESS_STATE_BYTES: usize = size_of::<Process>();
const _: () = assert!(PROCESS_STATE_BYTES <= STATE_BYTES_MAX);

/// How long the image of a program is read in and its first tables are built; nothing of it is
/// kept. A guess.
const LOADING_SECS: f64 = 60.0;

/// The same, where the whole warm-up is configured to be shorter.
pub(super) fn loading_secs(config: &LeakConfig) -> f64 {
    config.warm_up.as_secs_f64().min(LOADING_SECS)
}

/// Share of growth that must have come since a claim was withdrawn for it to be claimed again.
const NEWS_SHARE: f64 = 0.5;

/// Share of its growth that came without anything new being mapped, from which a process only
/// touches what it had.
const TOUCHED_SHARE: f64 = 0.5;

/// All that is known of one process.
pub(super) struct Process {
    pub(super) window: Window,
    load: Activity,
    pub(super) start_ticks: u64,
    /// When its window began: first sight, or a little after its start.
    pub(super) origin_t: f64,
    pub(super) workload: Arc<Workload>,
    /// Few do, so it lies elsewhere.
    pub(super) leak: Option<Box<Leak>>,
    /// One more than the faulted bytes when the window began, where faults are sampled; so it takes
    /// eight bytes, not sixteen.
    faulted_from_bytes: Option<NonZeroU64>,
    /// Private KiB at the same moment.
    private_from_kib: u32,
    /// What it had mapped when last seen; 0 where that is not seen.
    mapped_kib: u32,
    /// What it weighed when that last became more.
    weighed_when_mapped_kib: u32,
    pub(super) seen_scan: u32,
    /// Whether it started, or replaced its program, under watch: then its first growth is a
    /// warm-up.
    young: bool,
    /// What it weighed when a claim about it was withdrawn: growth up to there is no news.
    pub(super) settled_kib: u32,
    /// Shorter horizons than this have cried wolf about this program.
    pub(super) trusted_from: u8,
}

impl Process {
    /// `loading_secs` for one that starts now; `None` for one that ran before it was watched.
    pub(super) fn new(
        fact: &ProcessFact,
        t: f64,
        scan: u32,
        loading_secs: Option<f64>,
        members: &mut Members,
    ) -> Self {
        Self {
            window: Window::default(),
            load: Activity::default(),
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
        self.load = Activity::default();
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
        if age_secs < 0.0 {
            Closed::default()
        } else {
            self.window.observe(horizons, age_secs, fact.private_bytes())
        }
    }

    /// Takes a count of what it holds.
    pub(super) fn count(&mut self, fact: &ProcessResourcesFact, t: f64, horizons: &Horizons) {
        self.load.observe(horizons, t - self.origin_t, fact);
    }

    /// What a horizon shows, if that is a leak.
    pub(super) fn judge(
        &self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &LeakConfig,
        horizons: &Horizons,
        around: &dyn Surroundings,
    ) -> Option<Growth> {
        // Of a process that was met at work nothing is known at first: half a minute of growth may
        // be what it always does.
        let met = !self.young && t - self.origin_t < config.warm_up.as_secs_f64();
        if horizon < usize::from(self.trusted_from) || met && horizon < MINUTES_HORIZON_MIN {
            return None;
        }
        let look = self.look(t, (horizon, newest), config, horizons, around)?;
        self.is_believed(look.growth()?, horizon, config, horizons)
    }

    /// The same of what the last troughs show, when one was completed.
    pub(super) fn judge_troughs(
        &self,
        t: f64,
        config: &LeakConfig,
        horizons: &Horizons,
        around: &dyn Surroundings,
    ) -> Option<Growth> {
        let growth =
            self.look(t, (0, Newest::Closed), config, horizons, around)?.growth_of_troughs()?;
        self.is_believed(growth, horizons.covering(growth.grown_secs), config, horizons)
    }

    /// How to look at a horizon; `None` while it warms up.
    fn look<'a>(
        &'a self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &'a LeakConfig,
        horizons: &'a Horizons,
        around: &'a dyn Surroundings,
    ) -> Option<HorizonView<'a>> {
        let warm_up_secs = config.warm_up.as_secs_f64() - loading_secs(config);
        let watched_secs = t - self.origin_t;
        if self.young && watched_secs < warm_up_secs {
            return None;
        }
        let (window, load, young) = (&self.window, &self.load, self.young);
        let headroom_bytes = around.headroom_bytes();
        Some(HorizonView {
            window,
            horizon,
            newest,
            config,
            horizons,
            load,
            young,
            watched_secs,
            headroom_bytes,
            around,
        })
    }

    fn is_believed(
        &self,
        growth: Growth,
        horizon: usize,
        config: &LeakConfig,
        horizons: &Horizons,
    ) -> Option<Growth> {
        let reach_secs = config.max_extrapolation * horizons.horizon_secs(horizon);
        let news_kib = f64::from(growth.peak_kib.saturating_sub(self.settled_kib));
        let is_news = news_kib * KIB >= NEWS_SHARE * growth.grown_bytes;
        (is_news && growth.exhaustion_secs() <= reach_secs && !self.touches_what_it_had(&growth))
            .then_some(growth)
    }

    /// Whether growth is into memory that was mapped before it, of which there is less than is left
    /// to the limit: huge pages that arrive, a heap that is touched for the first time. It cannot
    /// run out before it maps more, and is judged again then.
    fn touches_what_it_had(&self, growth: &Growth) -> bool {
        let weighs_kib = f64::from(growth.peak_kib);
        let untouched_kib = f64::from(self.mapped_kib) - weighs_kib;
        self.mapped_kib > 0
            && weighs_kib - f64::from(self.weighed_when_mapped_kib)
                >= TOUCHED_SHARE * growth.grown_bytes / KIB
            && untouched_kib * KIB < growth.headroom_bytes
    }

    /// Bytes that sampled page faults stand for, and bytes retained, since the window began.
    pub(super) fn allocated_and_retained(&self, fact: &ProcessFact) -> Option<(u64, u64)> {
        let allocated = fact
            .faulted_bytes_total?
            .checked_sub(self.faulted_from_bytes?.get() - 1)
            .filter(|bytes| *bytes > 0)?;
        Some((
            allocated,
            fact.private_bytes().saturating_sub(u64::from(self.private_from_kib) << 10),
        ))
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
