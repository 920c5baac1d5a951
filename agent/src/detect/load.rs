//! How much a process has to do, as far as its open files and threads tell: what grows with the work is no leak.
//!
//! A server holds a file a connection and often a thread, so one or the other follows its load from minute to minute. Averages
//! over every horizon are kept, nothing else. Cold start: until it was counted a process's load explains nothing. It
//! refuses nothing: a count that makes no sense explains growth only as far as it rose.

use super::window::{HORIZONS_MAX, Horizons};
use crate::sense::HandlesFact;

/// How much faster than the load memory may grow and still be explained by it. Above one, since some of the files and threads are
/// there without any load.
const ELASTICITY: f64 = 3.0;

/// Handles more than which must have come: fewer come and go by themselves.
const ROSE_MIN: f32 = 4.0;

/// How far the load must rise above its usual scatter.
const SCATTERS: f32 = 4.0;

/// A load that fell to less than this share excuses no more.
const FELL_TO_MIN: f64 = 0.2;

/// The load of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    files: Averages,
    threads: Averages,
    /// When it was last counted, in seconds from the process's origin.
    counted_age_secs: Option<f32>,
}

/// Averages of one count.
#[derive(Debug, Clone, Default)]
struct Averages {
    /// By horizon, over about its latter half.
    by_horizon: [f32; HORIZONS_MAX],
    /// The last count.
    latest: f32,
    /// Mean distance of counts from the shortest horizon's average.
    scatter: f32,
}

impl Load {
    /// Takes a count.
    pub(super) fn observe(&mut self, horizons: &Horizons, age_secs: f64, fact: &HandlesFact) {
        let age_secs = age_secs as f32;
        let passed_secs = self.counted_age_secs.replace(age_secs).map(|before| (age_secs - before).max(0.0));
        self.files.observe(horizons, passed_secs, fact.fds);
        self.threads.observe(horizons, passed_secs, fact.threads);
    }

    /// Whether growth by this share over a horizon is no more than the load's.
    pub(super) fn explains(&self, horizon: usize, grown_share: f64) -> bool {
        self.counted_age_secs.is_some()
            && [&self.files, &self.threads].iter().any(|count| count.explains(horizon, grown_share))
    }
}

impl Load {
    /// To what share of itself the load fell over a horizon; 1 where it did not.
    pub(super) fn fell_to(&self, horizon: usize) -> f64 {
        self.files.fell_to(horizon).min(self.threads.fell_to(horizon))
    }
}

impl Averages {
    fn observe(&mut self, horizons: &Horizons, passed_secs: Option<f32>, count: u64) {
        self.latest = count as f32;
        let Some(passed_secs) = passed_secs else {
            self.by_horizon = [self.latest; HORIZONS_MAX];
            return;
        };
        let share = |secs: f64| 1.0 - (-passed_secs / secs as f32).exp();
        for horizon in 0..horizons.count() {
            let average = &mut self.by_horizon[horizon];
            *average += (self.latest - *average) * share(horizons.horizon_secs(horizon) / 2.0);
        }
        // Over about five minutes by default.
        let over = horizons.horizon_secs(2.min(horizons.count().saturating_sub(1)));
        self.scatter += ((self.latest - self.by_horizon[0]).abs() - self.scatter) * share(over);
    }

    fn fell_to(&self, horizon: usize) -> f64 {
        let (latest, average) = (self.by_horizon[0], self.by_horizon[horizon]);
        let fell = 2.0 * (average - latest);
        if fell < ROSE_MIN.max(SCATTERS * self.scatter) {
            return 1.0;
        }
        f64::from(latest / (latest + fell)).clamp(FELL_TO_MIN, 1.0)
    }

    fn explains(&self, horizon: usize, grown_share: f64) -> bool {
        let average = self.by_horizon[horizon];
        let latest = if horizon == 0 { self.latest } else { self.by_horizon[0] };
        // An average over the latter half of a straight rise lags by half of what rose.
        let rose = 2.0 * (latest - average);
        let before = (average - rose / 2.0).max(1.0);
        rose >= ROSE_MIN.max(SCATTERS * self.scatter) && grown_share <= ELASTICITY * f64::from(rose / before)
    }
}
