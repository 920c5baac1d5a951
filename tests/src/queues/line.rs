//! A piecewise linear function of time: rates of arrival, slowness, shares of a CPU.
//!
//! Pieces are linear so that a Poisson process of changing rate can be drawn exactly, by area
//! instead of by thinning.

/// Points in order of time; two at the same time are a step. The function is constant before the
/// first and after the last.
#[derive(Debug, Clone)]
pub(super) struct Line(Vec<(f64, f64)>);

impl Line {
    pub(super) fn flat(value: f64) -> Self {
        Self(vec![(0.0, value)])
    }

    /// Line through these points; there must be at least one.
    pub(super) fn through(points: Vec<(f64, f64)>) -> Self {
        Self(points)
    }

    pub(super) fn step(before: f64, at: f64, after: f64) -> Self {
        Self(vec![(at, before), (at, after)])
    }

    /// Line with the value `inside` between two times and `outside` before and after.
    pub(super) fn spell(outside: f64, from: f64, to: f64, inside: f64) -> Self {
        Self(vec![(from, outside), (from, inside), (to, inside), (to, outside)])
    }

    pub(super) fn at(&self, t: f64) -> f64 {
        let next = self.0.partition_point(|point| point.0 <= t);
        match (next.checked_sub(1).map(|before| self.0[before]), self.0.get(next)) {
            (Some(before), Some(after)) => {
                before.1 + (after.1 - before.1) * (t - before.0) / (after.0 - before.0)
            }
            (Some(point), None) | (None, Some(&point)) => point.1,
            (None, None) => 0.0,
        }
    }

    /// Time at which the area under the line since `t` reaches `area`; `None` if it never does.
    /// Values must not be negative.
    pub(super) fn filled(&self, mut t: f64, mut area: f64) -> Option<f64> {
        loop {
            let value = self.at(t);
            let Some(&(end, height)) = self.0.get(self.0.partition_point(|point| point.0 <= t))
            else {
                return (value > 0.0).then(|| t + area / value);
            };
            let piece_area = f64::midpoint(value, height) * (end - t);
            if piece_area >= area {
                let slope = (height - value) / (end - t);
                // Root of value·x + slope·x²/2 = area, in the form that stays accurate for a small
                // slope.
                return Some(
                    t + 2.0 * area
                        / (value + libm::sqrt((value * value + 2.0 * slope * area).max(0.0))),
                );
            }
            (t, area) = (end, area - piece_area);
        }
    }

    /// Times at which the slope changes.
    pub(super) fn breaks(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|point| point.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_steps_and_slopes_are_straight() {
        let line = Line::through(vec![(10.0, 1.0), (10.0, 3.0), (20.0, 5.0)]);
        for (t, value) in
            [(0.0, 1.0), (9.9, 1.0), (10.0, 3.0), (15.0, 4.0), (20.0, 5.0), (99.0, 5.0)]
        {
            assert_eq!(line.at(t), value, "at {t}");
        }
    }

    #[test]
    fn filling_is_the_inverse_of_the_area() {
        let line = Line::through(vec![(1.0, 2.0), (2.0, 0.0), (4.0, 0.0), (4.0, 6.0)]);
        // 2 until the first second, 1 in the triangle, nothing, then 6 per second.
        for (area, t) in [(1.0, 0.5), (2.0, 1.0), (2.75, 1.5), (3.0, 2.0), (9.0, 5.0)] {
            assert!((line.filled(0.0, area).unwrap() - t).abs() < 1e-9, "{area}");
        }
        assert_eq!(Line::step(1.0, 2.0, 0.0).filled(1.0, 2.0), None);
    }
}
