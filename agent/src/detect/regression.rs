//! Statistics over a handful of points: slope, scatter, and the probability that they are chance.
//!
//! The slope is the median over every pair of points, so one outlier cannot bend it. The scatter is
//! the root mean square about that line, which an outlier does widen: it then takes longer until a
//! trend is believed, never shorter. With at most [`POINTS_MAX`] points there are 120 pairs:
//! cheaper than being clever. Too few points have no trend and no slope.

/// Maximum number of points: the buckets of one horizon, or the recent depths of one queue.
pub const POINTS_MAX: usize = 16;

const PAIRS_MAX: usize = POINTS_MAX * (POINTS_MAX - 1) / 2;

/// One point in time. The units are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// Time.
    pub x: f64,
    /// Value.
    pub y: f64,
}

/// A straight line through points, and their scatter about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FittedLine {
    /// Theil-Sen slope.
    pub slope: f64,
    /// Sum of the squared distances of the points from the line.
    pub squares: f64,
    /// Sum of the squared distances of the times from their mean.
    pub spread: f64,
    /// Degrees of freedom: points less two.
    pub freedom: u32,
}

impl FittedLine {
    /// Fits a line to at least three points at distinct times; `None` for fewer.
    pub fn through(points: &[Point]) -> Option<Self> {
        let points = &points[..points.len().min(POINTS_MAX)];
        let slope = theil_sen(points)?;
        let n = points.len() as f64;
        let mean = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / n;
        let (middle, squared) = (mean(&|p| p.x), |x: f64, middle: f64| (x - middle) * (x - middle));
        let height = mean(&|p| p.y - slope * p.x);
        let squares = points.iter().map(|p| squared(p.y - slope * p.x, height)).sum();
        let spread = points.iter().map(|p| squared(p.x, middle)).sum();
        let freedom = points.len().checked_sub(2).filter(|freedom| *freedom > 0)?;
        Some(Self { slope, squares, spread, freedom: freedom as u32 })
    }

    /// Standard error of the slope.
    pub fn slope_error(&self) -> f64 {
        (self.squares / f64::from(self.freedom) / self.spread).sqrt()
    }

    /// Probability that points without a trend rise this evenly: Student's t of the slope,
    /// one-sided.
    pub fn p_value(&self) -> f64 {
        if self.slope <= 0.0 {
            1.0
        } else if self.squares <= 0.0 {
            0.0
        } else {
            student_tail(self.slope / self.slope_error(), self.freedom)
        }
    }
}

/// Theil-Sen slope: the median slope over all pairs. `None` for fewer than two distinct times.
pub fn theil_sen(points: &[Point]) -> Option<f64> {
    let points = &points[..points.len().min(POINTS_MAX)];
    let mut slopes = [0.0; PAIRS_MAX];
    let mut count = 0;
    for (i, earlier) in points.iter().enumerate() {
        for later in &points[i + 1..] {
            if later.x > earlier.x {
                slopes[count] = (later.y - earlier.y) / (later.x - earlier.x);
                count += 1;
            }
        }
    }
    if count == 0 {
        return None;
    }
    let slopes = &mut slopes[..count];
    let middle = count / 2;
    let (lower, upper, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    let lower = if count % 2 == 1 {
        upper
    } else {
        lower.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    };
    Some(f64::midpoint(lower, upper))
}

/// Probability that Student's t with so many degrees of freedom exceeds `t`, which is positive.
///
/// The finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4). Its
/// error is absolute, some 1e-16, nine digits below the smallest significance that can be
/// configured.
fn student_tail(t: f64, freedom: u32) -> f64 {
    let angle = (t / f64::from(freedom).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let (mut term, mut sum) =
        if odd { (cosine, if freedom > 1 { cosine } else { 0.0 }) } else { (1.0, 1.0) };
    let mut k = if odd { 3 } else { 2 };
    while k + 2 <= freedom {
        let (above, below) = (f64::from(k - 1), f64::from(k));
        term *= cosine * cosine * above / below;
        sum += term;
        k += 2;
    }
    let within = if odd { std::f64::consts::FRAC_2_PI * (angle + sine * sum) } else { sine * sum };
    ((1.0 - within) / 2.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(ys: &[f64]) -> Vec<Point> {
        ys.iter().enumerate().map(|(i, y)| Point { x: i as f64, y: *y }).collect()
    }

    fn rising(n: usize) -> Vec<Point> {
        points(&(0..n).map(|i| i as f64).collect::<Vec<_>>())
    }

    #[test]
    fn student_tail_matches_published_values() {
        let table = [
            (1, 6.313_752, 0.05),
            (2, 2.919_986, 0.05),
            (3, 10.214_532, 1e-3),
            (5, 5.893_430, 1e-3),
            (6, 5.207_626, 1e-3),
            (10, 4.143_700, 1e-3),
            (14, 7.0, 3.1e-6),
        ];
        for (freedom, t, expected) in table {
            let tail = student_tail(t, freedom);
            assert!((tail / expected - 1.0).abs() < 0.02, "{freedom}: {tail}");
        }
    }

    #[test]
    fn a_straight_line_is_certain_and_no_trend_is_not() {
        assert_eq!(FittedLine::through(&rising(8)).unwrap().p_value(), 0.0);
        for ys in [&[5.0; 16][..], &[3.0, 2.0, 1.0], &[1.0, 9.0, 1.0, 9.0, 1.0, 9.0]] {
            assert!(FittedLine::through(&points(ys)).unwrap().p_value() > 0.1, "{ys:?}");
        }
        assert_eq!(FittedLine::through(&rising(2)), None);
        assert_eq!(FittedLine::through(&[]), None);
    }

    #[test]
    fn scatter_makes_a_trend_less_sure_and_more_points_surer() {
        let noisy = |n: usize| {
            let ys: Vec<_> =
                (0..n).map(|i| i as f64 + if i % 2 == 0 { 0.4 } else { -0.4 }).collect();
            FittedLine::through(&points(&ys)).unwrap().p_value()
        };
        assert!(noisy(8) < 1e-4 && noisy(16) < noisy(8) / 100.0, "{} {}", noisy(8), noisy(16));
    }

    #[test]
    fn theil_sen_ignores_an_outlier() {
        let mut line = rising(16);
        line[7].y = 1e9;
        assert_eq!(theil_sen(&line), Some(1.0));
        assert_eq!(theil_sen(&line[..1]), None);
        assert_eq!(theil_sen(&[Point { x: 1.0, y: 1.0 }, Point { x: 1.0, y: 9.0 }]), None);
    }
}
