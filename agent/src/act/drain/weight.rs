//! How much of its share of work a node asks for, by how near the end of what it has is.
//!
//! Pure. All of it while the nearest forecast of the open incidents is as far off as `decide.limit_within`, a tenth where it is as near as
//! `decide.drain_within`, and even steps in between. It falls at once, and rises a step at a time after some calm, so that a forecast that
//! wavers moves nothing. Cold start: all of it.

use crate::config::DecideConfig;

/// The whole share, in percent.
pub const WHOLE: u8 = 100;
/// A step, and the least, in percent. A node that still works is not left without work by its weight: that is what a drain is for.
const STEP: u8 = 10;
/// How long it stands before it rises, in seconds. A guess: a few of HAProxy's checks.
const RISES_AFTER_SECS: f64 = 10.0;

/// The weight, as it stands.
#[derive(Debug, Clone)]
pub struct Weight {
    far_secs: f64,
    near_secs: f64,
    percent: u8,
    since: f64,
}

impl Weight {
    /// All of it.
    pub fn new(config: &DecideConfig) -> Self {
        let (far_secs, near_secs) = (config.limit_within.as_secs_f64(), config.drain_within.as_secs_f64());
        Self { far_secs, near_secs, percent: WHOLE, since: 0.0 }
    }

    /// Follows other distances; the weight moves as it does otherwise.
    pub fn reload(&mut self, config: &DecideConfig) {
        let Self { far_secs, near_secs, .. } = Self::new(config);
        (self.far_secs, self.near_secs) = (far_secs, near_secs);
    }

    /// Takes the nearest forecast, in seconds from `now`; `None` where there is none. Gives the weight in percent.
    pub fn note(&mut self, now: f64, nearest_secs: Option<f64>) -> u8 {
        let due = nearest_secs.map_or(WHOLE, |secs| self.due(secs));
        if due < self.percent {
            (self.percent, self.since) = (due, now);
        } else if due == self.percent {
            self.since = now;
        } else if now - self.since >= RISES_AFTER_SECS {
            (self.percent, self.since) = ((self.percent + STEP).min(due), now);
        }
        self.percent
    }

    fn due(&self, secs: f64) -> u8 {
        if !secs.is_finite() || secs >= self.far_secs {
            return WHOLE;
        }
        let span = (self.far_secs - self.near_secs).max(f64::MIN_POSITIVE);
        let share = ((secs - self.near_secs) / span).clamp(0.0, 1.0);
        STEP + (share * f64::from((WHOLE - STEP) / STEP)) as u8 * STEP
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight() -> Weight {
        Weight::new(&DecideConfig::default())
    }

    #[test]
    fn it_falls_with_the_time_that_is_left_and_rises_a_step_at_a_time() {
        let mut weight = weight();
        let fallen: Vec<_> = [7_200.0, 3_600.0, 3_599.0, 2_100.0, 601.0, 5.0, -1.0]
            .iter()
            .map(|&secs| weight.note(0.0, Some(secs)))
            .collect();
        assert_eq!(fallen, [100, 100, 90, 50, 10, 10, 10]);
        let risen: Vec<_> = (0..12).map(|tens| weight.note(f64::from(tens) * 10.0, None)).collect();
        assert_eq!(risen, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 100, 100]);
    }

    proptest! {
        #[test]
        fn a_forecast_that_wavers_moves_it_down_and_no_faster_up_than_a_step_in_ten_seconds(
            forecasts in prop::collection::vec((0.0..3.0_f64, prop::option::of(0.0..5_000.0_f64)), 1..300),
        ) {
            let (mut weight, mut now, mut last, mut changed) = (weight(), 0.0, WHOLE, f64::NEG_INFINITY);
            for (later, nearest) in forecasts {
                now += later;
                let percent = weight.note(now, nearest);
                prop_assert!((STEP..=WHOLE).contains(&percent) && percent % STEP == 0);
                if percent > last {
                    prop_assert!(percent - last == STEP && now - changed >= RISES_AFTER_SECS);
                }
                if percent != last {
                    (last, changed) = (percent, now);
                }
            }
        }
    }
}
