//! Proven load: the most that a node carried well in recent days.
//!
//! Pure. A load counts if it was held for five minutes while nothing of the node was overloaded.
//! The maximum of each day is kept for a week. An operator's figure replaces it. Cold start:
//! nothing is proven, so that a new node has no headroom that others could count on.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Time for which a load has to be held, in seconds.
const HELD_SECS: f64 = 300.0;

/// Maximum time between two samples, in seconds: what happened in a longer gap is unknown.
const GAP_SECS: f64 = 60.0;

/// Length of a day, in seconds.
const DAY_SECS: f64 = 86_400.0;

/// Days that are kept, today included.
const DAYS: usize = 7;

/// Most samples that are kept: five minutes at one a second.
const SAMPLES_MAX: usize = 300;

/// The most that a node carried well.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProvenLoad {
    /// Day since 1970, and its maximum, oldest first.
    days: VecDeque<(u64, f64)>,
    /// Times and loads of the last five minutes, while the node is well.
    #[serde(skip)]
    held: VecDeque<(f64, f64)>,
}

impl ProvenLoad {
    /// Takes the load at `unix_secs`, and whether the node carries it well.
    pub fn note(&mut self, unix_secs: f64, load: f64, is_well: bool) {
        let is_gap = self.held.back().is_some_and(|(last, _)| {
            // A clock that was set back is a gap as well.
            !(0.0..=GAP_SECS).contains(&(unix_secs - last))
        });
        if is_gap || !is_well || !load.is_finite() {
            self.held.clear();
        }
        if !is_well || !load.is_finite() {
            return;
        }
        if self.held.len() < SAMPLES_MAX
            || self.held.back().is_some_and(|(last, _)| unix_secs - last >= 1.0)
        {
            self.held.push_back((unix_secs, load));
        }
        let is_held = self.held.front().is_some_and(|(first, _)| unix_secs - first >= HELD_SECS);
        while self.held.front().is_some_and(|(first, _)| unix_secs - first > HELD_SECS)
            || self.held.len() > SAMPLES_MAX + 1
        {
            self.held.pop_front();
        }
        // The least of five minutes is no more than the newest: most samples prove nothing new.
        let day = (unix_secs / DAY_SECS) as u64;
        let is_news = self.days.back().is_none_or(|(last, most)| *last != day || load > *most);
        if is_held && is_news {
            let least = self.held.iter().map(|(_, load)| *load).fold(f64::INFINITY, f64::min);
            self.prove(day, least);
        }
    }

    fn prove(&mut self, day: u64, load: f64) {
        match self.days.back_mut() {
            Some((last, most)) if *last == day => *most = most.max(load),
            _ => self.days.push_back((day, load)),
        }
        while self.days.front().is_some_and(|(first, _)| first + (DAYS as u64) <= day)
            || self.days.len() > DAYS
        {
            self.days.pop_front();
        }
    }

    /// Returns the proven load; 0 if nothing is proven.
    pub fn most(&self) -> f64 {
        self.days.iter().map(|(_, most)| *most).filter(|most| most.is_finite()).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(proven: &mut ProvenLoad, from: f64, secs: u32, load: f64, is_well: bool) {
        for nth in 0..secs / 15 {
            proven.note(from + f64::from(nth) * 15.0, load, is_well);
        }
    }

    #[test]
    fn load_is_proven_once_held_for_five_minutes_without_harm() {
        let mut proven = ProvenLoad::default();
        hold(&mut proven, 0.0, 300, 3.0, true);
        assert_eq!(proven.most(), 0.0);
        proven.note(300.0, 5.0, true);
        assert_eq!(proven.most(), 3.0, "a peak of a moment proves nothing");
        hold(&mut proven, 315.0, 600, 4.0, false);
        assert_eq!(proven.most(), 3.0, "the node was overloaded");
        hold(&mut proven, 1_000.0, 600, 3.5, true);
        assert_eq!(proven.most(), 3.5);
    }

    #[test]
    fn gap_or_a_clock_that_is_set_proves_nothing() {
        let mut proven = ProvenLoad::default();
        for t in [0.0, 400.0, 800.0, 700.0, 1_200.0] {
            proven.note(t, 9.0, true);
        }
        assert_eq!(proven.most(), 0.0);
    }

    #[test]
    fn maximum_of_a_day_is_forgotten_after_a_week() {
        let mut proven = ProvenLoad::default();
        hold(&mut proven, 0.0, 600, 8.0, true);
        for day in 1..7 {
            hold(&mut proven, f64::from(day) * DAY_SECS, 600, 2.0, true);
        }
        assert_eq!(proven.most(), 8.0);
        hold(&mut proven, 7.0 * DAY_SECS, 600, 2.5, true);
        assert_eq!(proven.most(), 2.5);
        assert!(proven.days.len() <= DAYS && proven.held.len() <= SAMPLES_MAX + 1);
    }
}
