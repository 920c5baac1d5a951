//! Baseline of a queue while nothing is wrong: its greatest depth, and the longest time without an
//! accept.
//!
//! A server that serves one connection after the other queues a lot by nature; one that collects
//! garbage pauses. Standing times that were no overload show the nature of a listener, and are
//! forgotten gradually, and so do pauses that were claimed once and ended within seconds. Cold
//! start: without a baseline the rules' own bounds hold. It learns nothing from other overloads.

/// Time after which the baseline halves: events of once a day do not count against a claim. A
/// guess.
const HALF_LIFE_SECS: f64 = 3600.0;

/// Largest values as of some time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Baseline {
    t: f64,
    gap_secs: f64,
    depth: f64,
}

impl Baseline {
    /// Takes the extremes of a standing time that was no overload and has ended.
    pub(super) fn learn(&mut self, t: f64, (gap_secs, depth): (f64, u32)) {
        *self = Self {
            t,
            gap_secs: self.gap_secs(t).max(gap_secs),
            depth: self.depth(t).max(f64::from(depth)),
        };
    }

    /// Longest time between two accepts while a connection waited.
    pub(super) fn gap_secs(&self, t: f64) -> f64 {
        self.gap_secs * self.left(t)
    }

    /// Greatest depth.
    pub(super) fn depth(&self, t: f64) -> f64 {
        self.depth * self.left(t)
    }

    fn left(&self, t: f64) -> f64 {
        (-(t - self.t) / HALF_LIFE_SECS).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_usual_fades() {
        let mut usual = Baseline::default();
        assert_eq!((usual.gap_secs(9.0), usual.depth(9.0)), (0.0, 0.0));
        usual.learn(100.0, (0.4, 30));
        usual.learn(100.0, (0.2, 40));
        assert_eq!((usual.gap_secs(100.0), usual.depth(100.0)), (0.4, 40.0));
        let later = 100.0 + HALF_LIFE_SECS;
        assert_eq!((usual.gap_secs(later), usual.depth(later)), (0.2, 20.0));
        usual.learn(later, (0.3, 1));
        assert_eq!((usual.gap_secs(later), usual.depth(later)), (0.3, 20.0));
    }
}
