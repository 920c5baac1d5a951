//! The decision whether a file system fills, for which those who write to it are looked for.

/// Share of what was free at the last low by which use has to rise.
const RISE_SHARE: f64 = 0.01;

/// Time after which use that has risen no further is the new low. A guess: between two of a log's
/// bursts.
const STEADY_SECS: f64 = 600.0;

/// Course of the use of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filling {
    low: u64,
    high: u64,
    /// Time at which use was first as high.
    high_t: f64,
}

impl Filling {
    /// Begins with the first reading.
    pub(super) fn new(used: u64, t: f64) -> Self {
        Self { low: used, high: used, high_t: t }
    }

    /// Takes a reading; returns whether the file system fills.
    pub(super) fn fills(&mut self, used: u64, limit: u64, t: f64) -> bool {
        if used < self.low || (used <= self.high && t - self.high_t > STEADY_SECS) {
            *self = Self::new(used, t);
        } else if used > self.high {
            (self.high, self.high_t) = (used, t);
        }
        let free = limit.saturating_sub(self.low) as f64;
        used > self.low && (used - self.low) as f64 >= RISE_SHARE * free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rise_from_the_low_fills_until_it_has_ended_for_long() {
        let mut filling = Filling::new(500, 0.0);
        assert!(!filling.fills(500, 1_500, 10.0));
        assert!(!filling.fills(509, 1_500, 20.0));
        assert!(filling.fills(510, 1_500, 30.0));
        assert!(filling.fills(510, 1_500, 630.0));
        assert!(!filling.fills(510, 1_500, 631.0));
        assert!(!filling.fills(100, 1_500, 640.0), "files were deleted");
        assert!(filling.fills(200, 1_500, 650.0));
        assert!(!Filling::new(7, 0.0).fills(7, 7, 1.0), "a full one does not fill");
        assert!(Filling::new(7, 0.0).fills(8, 7, 1.0));
    }
}
