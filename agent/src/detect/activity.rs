//! Activity of a process, as its open files and threads show it: memory that grows with the work is
//! no leak.
//!
//! A server holds a file for each connection and often a thread, so one or the other follows its
//! load from minute to minute. Averages over every horizon are kept, nothing else. Cold start:
//! until a process was counted its activity explains nothing. A count that makes no sense explains
//! growth only as far as it rose.

use serde::{Deserialize, Serialize};

use super::window::{HORIZONS_MAX, Horizons};
use crate::sense::ProcessResourcesFact;

/// Factor by which memory may grow faster than the activity and still be explained by it. Above
/// one, since some of the files and threads are there without any load.
const ELASTICITY: f64 = 2.0;

/// Files or threads that are there without any load, if there are at least twice as many:
/// libraries, logs, listeners, a pool's threads. A guess.
const FIXED: f32 = 32.0;

/// Smallest rise in their number: fewer come and go by themselves.
const ROSE_MIN: f32 = 3.0;

/// Multiple of its usual scatter by which the activity must rise.
const SCATTERS: f32 = 4.0;

/// First horizon with an average of its own: counts come too seldom for the horizons of seconds.
const AVERAGED_FROM: usize = 2;

/// Horizon by whose average a level of activity is known to have been sustained: 45 minutes by
/// default.
const BORNE_HORIZON: usize = 4;

/// Share of its peak below which the activity has come back from it.
const CAME_BACK_SHARE: f32 = 0.8;

/// Multiple of the level that the process has sustained before from which activity is new; less
/// explains nothing.
const NEW_LOAD: f32 = 1.05;

/// Smallest share to which a fall of the activity counts.
const FELL_TO_MIN: f64 = 0.2;

/// Activity of a process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Activity {
    files: Averages,
    threads: Averages,
    /// Time of the last count, in seconds from the process's origin.
    counted_age_secs: Option<f32>,
}

/// Averages of one count.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Averages {
    /// Averages by horizon from [`AVERAGED_FROM`] on, over about its latter half.
    by_horizon: [f32; HORIZONS_MAX - AVERAGED_FROM],
    /// Average over about the shortest horizon's latter half: the present value.
    now: f32,
    /// Mean distance of counts from the present value.
    scatter: f32,
    /// Highest level since it last fell, over about 20 minutes.
    climbed_to: f32,
    /// Highest level that it came back from.
    known: f32,
}

impl Activity {
    /// Takes a count.
    pub(super) fn observe(
        &mut self,
        horizons: &Horizons,
        age_secs: f64,
        fact: &ProcessResourcesFact,
    ) {
        let age_secs = age_secs as f32;
        let passed_secs =
            self.counted_age_secs.replace(age_secs).map(|before| (age_secs - before).max(0.0));
        self.files.observe(horizons, passed_secs, fact.fds);
        self.threads.observe(horizons, passed_secs, fact.threads);
    }

    /// Returns whether growth by this share over a horizon is no more than the activity's.
    pub(super) fn explains(&self, horizons: &Horizons, horizon: usize, grown_share: f64) -> bool {
        self.counted_age_secs.is_some()
            && [&self.files, &self.threads]
                .iter()
                .any(|count| count.explains(horizons, horizon, grown_share))
    }

    /// Share to which the activity fell over a horizon; 1 if it did not.
    pub(super) fn fell_to(&self, horizon: usize) -> f64 {
        self.files.fell_to(horizon).min(self.threads.fell_to(horizon))
    }
}

impl Averages {
    fn observe(&mut self, horizons: &Horizons, passed_secs: Option<f32>, count: u64) {
        let count = count as f32;
        let Some(passed_secs) = passed_secs else {
            (self.by_horizon, self.now) = ([count; HORIZONS_MAX - AVERAGED_FROM], count);
            return;
        };
        let share = |secs: f64| 1.0 - (-passed_secs / secs as f32).exp();
        self.now += (count - self.now) * share(horizons.horizon_secs(0) / 2.0);
        for (average, horizon) in self.by_horizon.iter_mut().zip(AVERAGED_FROM..horizons.count()) {
            *average += (count - *average) * share(horizons.horizon_secs(horizon) / 2.0);
        }
        // The scatter is taken over about five minutes by default.
        let over = horizons.horizon_secs(AVERAGED_FROM.min(horizons.count().saturating_sub(1)));
        self.scatter += ((count - self.now).abs() - self.scatter) * share(over);
        let borne = self.average(BORNE_HORIZON);
        self.climbed_to = self.climbed_to.max(borne);
        if borne < CAME_BACK_SHARE * self.climbed_to {
            self.known = self.known.max(self.climbed_to);
            self.climbed_to = borne;
        }
    }

    fn average(&self, horizon: usize) -> f32 {
        self.by_horizon[horizon.saturating_sub(AVERAGED_FROM)]
    }

    fn fell_to(&self, horizon: usize) -> f64 {
        let fell = 2.0 * (self.average(horizon) - self.now);
        if fell < ROSE_MIN.max(SCATTERS * self.scatter) {
            return 1.0;
        }
        f64::from(self.now / (self.now + fell)).clamp(FELL_TO_MIN, 1.0)
    }

    fn explains(&self, horizons: &Horizons, horizon: usize, grown_share: f64) -> bool {
        // One count may be off by more than the activity rises in minutes: if there is time, the
        // last of them are averaged.
        let (now, secs) = match horizon > AVERAGED_FROM {
            true => (self.average(AVERAGED_FROM), horizons.horizon_secs(AVERAGED_FROM)),
            false => (self.now, 0.0),
        };
        let (average, horizon_secs) = (self.average(horizon), horizons.horizon_secs(horizon));
        // An average over the latter half of a straight rise lags by half of the rise.
        let rose = 2.0 * (now - average) * (horizon_secs / (horizon_secs - secs)) as f32;
        let before = average - rose / 2.0;
        let before = (before - FIXED.min(before / 2.0)).max(1.0);
        now > NEW_LOAD * self.known
            && rose >= ROSE_MIN.max(SCATTERS * self.scatter)
            && grown_share <= ELASTICITY * f64::from(rose / before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::LeakConfig, sense::ProcessId};

    const STEP: Duration = Duration::from_secs(30);

    fn count(load: &mut Activity, horizons: &Horizons, fds: f64) {
        let fact = ProcessResourcesFact {
            id: ProcessId { pid: 1, start_ticks: 1 },
            fds: fds as u64,
            fds_max: None,
            threads: 8,
            close_wait: None,
        };
        let age_secs =
            load.counted_age_secs.map_or(0.0, |secs| f64::from(secs) + STEP.as_secs_f64());
        load.observe(horizons, age_secs, &fact);
    }

    /// Open files between a hundred and `most`, over a day and a half of waves of twelve hours;
    /// asked in the middle of each climb whether they explain growth by a tenth over two hours.
    fn explains_each_climb(most: [f64; 3]) -> [bool; 3] {
        let horizons = Horizons::new(&LeakConfig::default().horizons);
        let wave_secs = 43_200.0;
        let mut load = Activity::default();
        most.map(|most| {
            let mut explains = false;
            for counted in 0..(wave_secs / STEP.as_secs_f64()) as u32 {
                let phase = f64::from(counted) * STEP.as_secs_f64() / wave_secs;
                let fds =
                    100.0 + (most - 100.0) * (1.0 - (phase * std::f64::consts::TAU).cos()) / 2.0;
                count(&mut load, &horizons, fds);
                if (phase - 0.45).abs() < 1e-3 {
                    explains = load.explains(&horizons, 5, 0.1);
                }
            }
            explains
        })
    }

    #[test]
    fn a_load_that_was_borne_before_explains_nothing_new() {
        assert_eq!(explains_each_climb([1_000.0, 1_000.0, 1_000.0]), [true, false, false]);
        assert_eq!(explains_each_climb([1_000.0, 2_000.0, 1_000.0]), [true, true, false]);
    }

    #[test]
    fn climbing_activity_explains_growth_at_every_count() {
        let horizons = Horizons::new(&LeakConfig::default().horizons);
        let mut load = Activity::default();
        // Six hours from 200 connections to 600; each count is off by up to a twentieth.
        let explained = (0..720_u32).map(|counted| {
            let off = f64::from(counted.wrapping_mul(2_654_435_761) >> 16) / 32_768.0 - 1.0;
            count(&mut load, &horizons, (200.0 + f64::from(counted) / 1.8) * (1.0 + 0.05 * off));
            load.explains(&horizons, 4, 0.25)
        });
        let early = explained.skip(240).take(120).filter(|explains| !explains).count();
        assert_eq!(early, 0);
    }
}
