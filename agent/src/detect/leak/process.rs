//! One watched process: its window, its activity, and its leak.
//!
//! It is judged on every horizon; once it leaks it is tracked (see [`super::tracking`]), and
//! forecast on every shorter horizon too. A horizon that raised a false alarm about a process is
//! not trusted about it again. Cold start: a process that starts under watch is not judged before
//! its warm-up is over, but its memory is recorded from the first minute on, so that a start that
//! slows down can be told from a leak. Bounded by [`STATE_BYTES_MAX`].

use std::{num::NonZeroU64, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        activity::Activity,
        growth::{Beginning, Growth, HorizonView, MINUTES_HORIZON_MIN, Surroundings},
        window::{Closed, Horizons, KIB, Newest, Window, to_kib},
    },
    mapped::Mapped,
    workload::{Members, Workload},
};
use crate::{
    config::LeakConfig,
    sense::{ProcessFact, ProcessResourcesFact},
};

/// Maximum size of one process's state.
const STATE_BYTES_MAX: usize = 512;

/// Size of one process's state.
pub const PROCESS_STATE_BYTES: usize = size_of::<Process>();
const _: () = assert!(PROCESS_STATE_BYTES <= STATE_BYTES_MAX);

/// Time in which the image of a program is read in and its first tables are built; nothing of it is
/// recorded. A guess.
pub(super) const LOADING_SECS: f64 = 60.0;

/// Returns the loading time, which the whole warm-up may be configured to be shorter than.
pub(super) fn loading_secs(config: &LeakConfig) -> f64 {
    config.warm_up.as_secs_f64().min(LOADING_SECS)
}

/// Time for which a process that ran before must have been watched without growth before most of a
/// minute of growth, above a peak that is known, is believed. A guess.
const QUIET_SECS_MIN: f64 = 200.0;

/// Share of growth that must have come since a claim was cleared for it to be claimed again.
const NEWS_SHARE: f64 = 0.5;

/// Share of growth that must have come above the peak from before the process was watched, or the
/// size at which its workload's processes are replaced.
const NEW_GROUND_SHARE: f64 = 0.25;

/// Share of the warm-up after which a start that was over by then is told from later growth.
const START_SHARE: f64 = 0.5;

/// State of one process.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    pub(super) window: Window,
    activity: Activity,
    pub(super) start_ticks: u64,
    /// Time at which its window began: first sight, or a little after its start.
    pub(super) origin_t: f64,
    pub(super) workload: Arc<Workload>,
    /// Boxed, since few processes leak.
    pub(super) leak: Option<Box<Leak>>,
    /// Faulted bytes when the window began, plus one, if faults are sampled; so it takes eight
    /// bytes, not sixteen.
    faulted_from_bytes: Option<NonZeroU64>,
    /// Private KiB at the same moment.
    pub(super) private_from_kib: u32,
    mapped: Mapped,
    #[serde(skip)]
    pub(super) seen_scan: u32,
    /// Whether it started, or executed a program, under watch: then its first growth is a warm-up.
    young: bool,
    /// Memory in use when a claim about it was cleared: growth up to there is no news.
    pub(super) settled_kib: u32,
    /// Memory in use at its peak before it was watched, if that is known: growth up to there is a
    /// return.
    peaked_kib: u32,
    /// Shortest horizon that has raised no false alarm about this program.
    pub(super) trusted_from: u8,
}

/// An open leak of a process, with the evidence by which it is tracked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leak {
    pub(super) slope_bytes_per_sec: f64,
    /// Time since which its horizon has shown no growth; infinite while it grows.
    pub(super) still_since_t: f64,
    /// Floors since the claim; `None` after a restart, until the successor has one.
    pub(super) floors_kib: Option<(u32, u32)>,
    pub(super) horizon: u8,
    /// Whether it is tracked by its troughs.
    pub(super) by_troughs: bool,
    pub(super) confidence: f32,
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

    /// Returns the leak as a successor of the process takes it over.
    pub(super) fn inherited(self) -> Self {
        Self { still_since_t: f64::INFINITY, floors_kib: None, by_troughs: false, ..self }
    }
}

impl Process {
    /// Creates the state of a process, with `loading_secs` if it starts now, and `None` if it ran
    /// before it was watched.
    pub(super) fn new(
        fact: &ProcessFact,
        t: f64,
        scan: u32,
        loading_secs: Option<f64>,
        members: &mut Members,
    ) -> Self {
        Self {
            window: Window::default(),
            activity: Activity::default(),
            start_ticks: fact.id.start_ticks,
            origin_t: t + loading_secs.unwrap_or(0.0),
            workload: members.join(fact),
            leak: None,
            faulted_from_bytes: faulted_from(fact),
            private_from_kib: kib(fact),
            mapped: Mapped::default(),
            seen_scan: scan,
            young: loading_secs.is_some(),
            settled_kib: 0,
            peaked_kib: if loading_secs.is_some() { 0 } else { peaked_kib(fact) },
            trusted_from: 0,
        }
    }

    /// Returns whether it started, or executed a program, under watch.
    pub(super) fn is_young(&self) -> bool {
        self.young
    }

    /// Returns whether a process that was read from a file is one that can have been written.
    pub(super) fn is_sound(&self, horizons: &Horizons) -> bool {
        let is_sound_leak = |leak: &Leak| {
            usize::from(leak.horizon) < horizons.count() && leak.slope_bytes_per_sec.is_finite()
        };
        self.origin_t.is_finite()
            && self.window.is_sound()
            && self.leak.as_deref().is_none_or(is_sound_leak)
    }

    /// Forgets the samples of page faults until now, since their count begins anew.
    pub(super) fn forget_faults(&mut self) {
        self.faulted_from_bytes = None;
    }

    /// Forgets all growth, since another program runs now.
    pub(super) fn begin_anew(&mut self, t: f64, loading_secs: f64) {
        self.window = Window::default();
        self.activity = Activity::default();
        self.origin_t = t + loading_secs;
        self.faulted_from_bytes = None;
        self.mapped = Mapped::default();
        (self.young, self.settled_kib, self.trusted_from) = (true, 0, 0);
        self.peaked_kib = 0;
    }

    /// Returns whether it still loads, so that nothing of it is recorded yet.
    pub(super) fn is_loading(&self, t: f64) -> bool {
        t < self.origin_t
    }

    /// Shortens the time in which it loads from `loading_secs` to `secs`, unless less is left.
    pub(super) fn shorten_loading(&mut self, t: f64, loading_secs: f64, secs: f64) {
        if self.origin_t - t > secs {
            self.origin_t = (self.origin_t - loading_secs + secs).max(t);
        }
    }

    /// Takes its memory at one scan.
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
        self.mapped.see(fact);
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

    /// Takes a count of its files and threads.
    pub(super) fn count(&mut self, fact: &ProcessResourcesFact, t: f64, horizons: &Horizons) {
        self.activity.observe(horizons, t - self.origin_t, fact);
    }

    /// Returns the growth that a horizon shows, if it is a leak.
    pub(super) fn judge(
        &self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &LeakConfig,
        horizons: &Horizons,
        around: &dyn Surroundings,
    ) -> Option<Growth> {
        let warm_up_secs = config.warm_up.as_secs_f64();
        let unknown_secs = warm_up_secs - if self.young { loading_secs(config) } else { 0.0 };
        let is_known_late = t - self.origin_t < unknown_secs;
        // Half a minute of growth may be what a process always does that has not been watched for
        // long.
        let is_doubtful = is_known_late && horizon < MINUTES_HORIZON_MIN;
        if horizon < usize::from(self.trusted_from) || is_doubtful && self.young {
            return None;
        }
        let growth = self.view(t, (horizon, newest), config, horizons, around)?.growth()?;
        if is_doubtful && !self.was_quiet_before(&growth, t) {
            return None;
        }
        self.is_believed(growth, horizon, config, horizons, around)
    }

    /// Returns whether a process that ran before has not been as large as the kernel remembers, and
    /// was quiet for minutes until it broke out: whether this growth takes it back to its size at
    /// first sight only that long after it.
    fn was_quiet_before(&self, growth: &Growth, t: f64) -> bool {
        let since_first_sight_kib = growth.peak_kib.saturating_sub(self.private_from_kib);
        let took_secs = f64::from(since_first_sight_kib) * KIB / growth.slope_bytes_per_sec;
        matches!(growth.beginning, Beginning::BrokeOut { .. })
            && self.peaked_kib > 0
            && t - self.origin_t - took_secs >= QUIET_SECS_MIN
    }

    /// Returns the growth that the last troughs show when one was completed, if it is a leak.
    pub(super) fn judge_troughs(
        &self,
        t: f64,
        config: &LeakConfig,
        horizons: &Horizons,
        around: &dyn Surroundings,
    ) -> Option<Growth> {
        let growth =
            self.view(t, (0, Newest::Closed), config, horizons, around)?.growth_of_troughs()?;
        let horizon = horizons.covering(growth.grown_secs);
        self.is_believed(growth, horizon, config, horizons, around)
    }

    /// Returns the view of a horizon; `None` early in the warm-up.
    fn view<'a>(
        &'a self,
        t: f64,
        (horizon, newest): (usize, Newest),
        config: &'a LeakConfig,
        horizons: &'a Horizons,
        around: &'a dyn Surroundings,
    ) -> Option<HorizonView<'a>> {
        let warm_up_secs = config.warm_up.as_secs_f64() - loading_secs(config);
        let watched_secs = t - self.origin_t;
        if self.young && watched_secs < START_SHARE * warm_up_secs {
            return None;
        }
        let starts = self.young && watched_secs < warm_up_secs;
        let (window, activity, young) = (&self.window, &self.activity, self.young);
        let headroom_bytes = around.headroom_bytes();
        Some(HorizonView {
            window,
            horizon,
            newest,
            config,
            horizons,
            activity,
            young,
            starts,
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
        around: &dyn Surroundings,
    ) -> Option<Growth> {
        let reach_secs = config.max_extrapolation * horizons.horizon_secs(horizon);
        let news_kib = f64::from(growth.peak_kib.saturating_sub(self.settled_kib));
        let is_news = news_kib * KIB >= NEWS_SHARE * growth.grown_bytes;
        let had_kib = self.peaked_kib.max(around.recycled_kib());
        let returns = f64::from(growth.peak_kib.saturating_sub(had_kib)) * KIB
            < NEW_GROUND_SHARE * growth.grown_bytes;
        let touches = self.mapped.touches_what_it_had(&growth, around.shmem_bytes());
        (is_news && !returns && growth.exhaustion_secs() <= reach_secs && !touches)
            .then_some(growth)
    }

    /// Bytes of pages that were touched for the first time since the window began, as estimated
    /// from sampled page faults.
    pub(super) fn touched_bytes(&self, fact: &ProcessFact) -> Option<u64> {
        fact.faulted_bytes_total?.checked_sub(self.faulted_from_bytes?.get() - 1)
    }
}

fn faulted_from(fact: &ProcessFact) -> Option<NonZeroU64> {
    fact.faulted_bytes_total.map(|bytes| NonZeroU64::MIN.saturating_add(bytes))
}

/// Memory in use at the peak of a process, if its file mappings have not changed since.
fn peaked_kib(fact: &ProcessFact) -> u32 {
    let peak_bytes = fact.peak_rss_bytes.unwrap_or(0).saturating_add(fact.swap_bytes);
    to_kib(peak_bytes.saturating_sub(fact.file_bytes))
}

pub(super) fn kib(fact: &ProcessFact) -> u32 {
    to_kib(fact.private_bytes())
}
