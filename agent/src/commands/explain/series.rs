//! Values over time for a picture, in bounded memory.
//!
//! A trace may not fit in memory, so a long series is thinned to every other point, repeatedly if
//! necessary.

/// Maximum points kept of one value: four per pixel of the picture.
const POINTS_MAX: usize = 4_096;

/// Maximum number of times that a limit is seen to change.
const LIMITS_MAX: usize = 1_000;

/// Values of a resource and its limit over time.
#[derive(Debug, Default)]
pub struct Curve {
    /// Values.
    pub values: Thinned,
    /// Limit of its own, at each time at which it changed.
    pub limit: Vec<(f64, u64)>,
}

/// Values over time, of which every other is dropped whenever there are too many.
#[derive(Debug)]
pub struct Thinned {
    /// Time in seconds of the trace's clock, and value.
    pub points: Vec<(f64, u64)>,
    points_max: usize,
    /// One value in `stride` is kept.
    stride: usize,
    seen: usize,
}

impl Thinned {
    /// Creates an empty series of so many points at most.
    pub fn with_at_most(points_max: usize) -> Self {
        Self { points: Vec::new(), points_max, stride: 1, seen: 0 }
    }

    /// Adds a value.
    pub fn push(&mut self, t: f64, value: u64) {
        if self.seen.is_multiple_of(self.stride) {
            self.points.push((t, value));
        }
        self.seen += 1;
        if self.points.len() > self.points_max {
            let mut kept = 0;
            self.points.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

impl Default for Thinned {
    fn default() -> Self {
        Self::with_at_most(POINTS_MAX)
    }
}

impl Curve {
    /// Adds a value, and the limit at that time.
    pub fn push(&mut self, t: f64, value: u64, limit: Option<u64>) {
        self.values.push(t, value);
        let before = self.limit.last().map(|(_, limit)| *limit);
        if let Some(limit) = limit.filter(|limit| Some(*limit) != before)
            && self.limit.len() < LIMITS_MAX
        {
            self.limit.push((t, limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_keeps_its_span_however_long_it_is() {
        let mut series = Thinned::with_at_most(100);
        (0..10_000).for_each(|t| series.push(f64::from(t), 1));
        assert!(series.points.len() <= 100, "{}", series.points.len());
        assert!(series.points.last().unwrap().0 > 9_000.0, "{:?}", series.points.last());
    }
}
