//! Surge of load: whether a node's load is far above that of the last hour.
//!
//! Pure. Minutes are compared with the mean of those before, so that a peak of seconds is none.
//! Cold start: no surge before ten minutes are known. A gap longer than an hour begins anew.

use std::collections::VecDeque;

/// Length of a minute, in seconds.
const MINUTE_SECS: f64 = 60.0;

/// Minutes that are compared with, and the fewest of them.
const MINUTES: usize = 60;
const MINUTES_MIN: usize = 10;

/// Multiple of the mean above which load surges. A guess: a day's load grows by less in any hour.
const FACTOR: f64 = 1.5;

/// Loads of the last hour.
#[derive(Debug, Clone, Default)]
pub struct SurgeMeter {
    /// Mean load of each past minute, oldest first.
    minutes: VecDeque<f64>,
    /// Number, sum and count of the minute that is being taken.
    minute: (u64, f64, u32),
    is_surging: bool,
}

impl SurgeMeter {
    /// Takes the load at `now`, in seconds, and returns whether it surges.
    pub fn note(&mut self, now: f64, load: f64) -> bool {
        let (number, sum, count) = self.minute;
        let current = (now / MINUTE_SECS) as u64;
        if current.saturating_sub(number) > MINUTES as u64 || current < number {
            *self = Self { minute: (current, load, 1), ..Self::default() };
        } else if current == number {
            self.minute = (number, sum + load, count + 1);
        } else {
            self.close(sum / f64::from(count.max(1)));
            self.minute = (current, load, 1);
        }
        self.is_surging
    }

    fn close(&mut self, minute: f64) {
        let known = self.minutes.len();
        let mean = self.minutes.iter().sum::<f64>() / known.max(1) as f64;
        self.is_surging = known >= MINUTES_MIN && minute > FACTOR * mean;
        self.minutes.push_back(minute);
        if self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(meter: &mut SurgeMeter, from_minute: u32, minutes: u32, load: f64) -> bool {
        let mut surges = false;
        for nth in 0..minutes * 4 {
            surges = meter.note(f64::from(from_minute * 60 + nth * 15), load);
        }
        surges
    }

    #[test]
    fn load_that_doubles_surges_until_it_is_usual() {
        let mut meter = SurgeMeter::default();
        assert!(!hold(&mut meter, 0, 60, 2.0));
        assert!(!hold(&mut meter, 60, 1, 4.0), "a minute is not over");
        assert!(hold(&mut meter, 61, 10, 4.0));
        assert!(!hold(&mut meter, 71, 40, 4.0), "the mean of the hour has followed");
    }

    #[test]
    fn little_that_is_known_is_no_surge() {
        let mut meter = SurgeMeter::default();
        assert!(!hold(&mut meter, 0, 5, 1.0) && !hold(&mut meter, 5, 4, 9.0));
        hold(&mut meter, 9, 60, 1.0);
        assert!(!hold(&mut meter, 200, 3, 9.0), "after a gap");
    }
}
