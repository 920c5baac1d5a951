//! Two statistics over a handful of points: is there a rising trend, and how steep is it.
//!
//! Both look at every pair of points, so one outlier cannot fake a trend or bend a slope, and neither assumes a
//! distribution. With at most [`POINTS_MAX`] points that is 120 pairs: cheaper than being clever.
//! They refuse nothing: too few points give "no trend" and no slope.

/// Most points either statistic takes; the buckets of one horizon, or the recent depths of one queue.
pub const POINTS_MAX: usize = 16;

const PAIRS_MAX: usize = POINTS_MAX * (POINTS_MAX - 1) / 2;

/// One point: when, and how much. The units are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// When.
    pub x: f64,
    /// How much.
    pub y: f64,
}

/// What Mann-Kendall says about points in time order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Chance that points without a rising trend look this much like one (one-sided, normal tail).
    pub p_value: f64,
    /// Share of pairs that rise minus the share that fall, -1 to 1.
    pub tau: f64,
}

/// The Mann-Kendall test for a rising trend, corrected for ties and for continuity.
///
/// The normal tail is known to be too large for few points, so the test errs towards silence: at a significance of
/// 1e-6 it takes 14 strictly rising points to pass, and of 16 at most 6 of the 120 pairs may fall.
pub fn mann_kendall(points: &[Point]) -> Trend {
    let points = &points[..points.len().min(POINTS_MAX)];
    let n = points.len() as f64;
    let mut score = 0.0;
    for (i, earlier) in points.iter().enumerate() {
        for later in &points[i + 1..] {
            score += if later.y > earlier.y {
                1.0
            } else if later.y < earlier.y {
                -1.0
            } else {
                0.0
            };
        }
    }
    let mut sorted = [0.0; POINTS_MAX];
    for (slot, point) in sorted.iter_mut().zip(points) {
        *slot = point.y;
    }
    let sorted = &mut sorted[..points.len()];
    sorted.sort_unstable_by(f64::total_cmp);
    let term = |m: f64| m * (m - 1.0) * (2.0 * m + 5.0);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|group| term(group.len() as f64)).sum();
    let variance = (term(n) - ties) / 18.0;
    if variance <= 0.0 || score <= 0.0 {
        return Trend { p_value: 1.0, tau: 0.0 };
    }
    Trend { p_value: normal_tail((score - 1.0) / variance.sqrt()), tau: score / (n * (n - 1.0) / 2.0) }
}

/// The Theil-Sen slope: the median slope over all pairs. `None` for fewer than two distinct times.
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
    slopes.sort_unstable_by(f64::total_cmp);
    Some((slopes[(count - 1) / 2] + slopes[count / 2]) / 2.0)
}

/// How evenly the points rise: Student's t of the steps between neighbours, infinite where all steps are alike.
///
/// A random walk passes for a trend far more often than chance: once up, it stays up. Its steps give it away.
pub fn evenness(points: &[Point]) -> f64 {
    let points = &points[..points.len().min(POINTS_MAX)];
    let steps = || points.windows(2).map(|pair| (pair[1].y - pair[0].y) / (pair[1].x - pair[0].x));
    let n = points.len() as f64 - 1.0;
    let mean = steps().sum::<f64>() / n;
    let variance = steps().map(|step| (step - mean).powi(2)).sum::<f64>() / (n - 1.0);
    if n < 2.0 || mean <= 0.0 { 0.0 } else { mean / (variance / n).sqrt() }
}

/// Chance that a standard normal variable exceeds `z`.
///
/// A Chebyshev fit to erfc with a *relative* error below 1.2e-7 everywhere (Press et al., Numerical Recipes in C, 2nd
/// edition, section 6.2): an absolute error of that size would drown the tail this is used for.
fn normal_tail(z: f64) -> f64 {
    const COEFFICIENTS: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let x = (z / std::f64::consts::SQRT_2).abs();
    let t = 1.0 / (1.0 + 0.5 * x);
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let erfc = t * (polynomial - x * x).exp();
    if z >= 0.0 { erfc / 2.0 } else { 1.0 - erfc / 2.0 }
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
    fn normal_tail_matches_published_values() {
        for (z, expected) in [(0.0, 0.5), (1.0, 0.158655), (3.0, 1.349898e-3), (4.753424, 1e-6), (6.0, 9.865876e-10)] {
            assert!((normal_tail(z) / expected - 1.0).abs() < 1e-5, "{z}: {}", normal_tail(z));
        }
        assert!((normal_tail(-1.0) - 0.841345).abs() < 1e-6);
    }

    #[test]
    fn fourteen_rising_points_pass_at_one_in_a_million_and_thirteen_do_not() {
        assert!(mann_kendall(&rising(14)).p_value < 1e-6);
        assert!(mann_kendall(&rising(13)).p_value > 1e-6);
        assert_eq!(mann_kendall(&rising(16)).tau, 1.0);
    }

    #[test]
    fn flat_falling_empty_and_single_are_no_trend() {
        for ys in [&[5.0; 16][..], &[3.0, 2.0, 1.0], &[], &[1.0]] {
            assert_eq!(mann_kendall(&points(ys)).p_value, 1.0);
        }
    }

    #[test]
    fn ties_make_the_variance_smaller_and_the_score_lower() {
        let mut tied = rising(16);
        tied[1].y = 0.0;
        assert!(mann_kendall(&tied).tau < 1.0);
        assert!(mann_kendall(&tied).p_value > mann_kendall(&rising(16)).p_value);
    }

    #[test]
    fn even_steps_are_told_from_one_jump() {
        assert_eq!(evenness(&rising(16)), f64::INFINITY);
        assert_eq!(evenness(&points(&[5.0; 16])), 0.0);
        assert!(evenness(&points(&[1.0, 1.0, 1.0, 9.0, 9.0, 9.0])) < 2.0);
        assert_eq!(evenness(&rising(2)), 0.0);
        assert_eq!(evenness(&[]), 0.0);
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
