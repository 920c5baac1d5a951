//! Intervals of published figures: Wilson's for shares, a seeded bootstrap for medians; both at 95
//! %.

use serde::Serialize;

use super::super::rng::Rng;

/// Normal quantile of 95 %, two-sided.
const Z: f64 = 1.959_963_985;

/// Resamples of a bootstrap: enough for a stable third digit of an interval.
const RESAMPLES: usize = 2_000;

/// Figure with its interval; NaN if nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Value.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Number of samples; of a rate, the number of events.
    pub n: usize,
}

/// Share of successes with Wilson's score interval.
pub(crate) fn share(successes: usize, n: usize) -> Figure {
    if n == 0 {
        return Figure { value: f64::NAN, low: f64::NAN, high: f64::NAN, n };
    }
    let (p, size) = (successes as f64 / n as f64, n as f64);
    let scale = 1.0 + Z * Z / size;
    let middle = (p + Z * Z / (2.0 * size)) / scale;
    let half = Z / scale * (p * (1.0 - p) / size + Z * Z / (4.0 * size * size)).sqrt();
    Figure { value: p, low: (middle - half).max(0.0), high: (middle + half).min(1.0), n }
}

/// Median with bootstrap percentiles.
pub(super) fn median(values: &[f64]) -> Figure {
    quantile(values, 0.5)
}

/// Quantile with bootstrap percentiles.
pub(crate) fn quantile(values: &[f64], share: f64) -> Figure {
    let n = values.len();
    if n == 0 {
        return Figure { value: f64::NAN, low: f64::NAN, high: f64::NAN, n };
    }
    let mut rng = Rng::new("bootstrap", 0);
    let mut resamples: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            point(
                &mut (0..n).map(|_| values[rng.below(n as u64) as usize]).collect::<Vec<_>>(),
                share,
            )
        })
        .collect();
    resamples.sort_by(f64::total_cmp);
    let (low, high) = (resamples[RESAMPLES / 40], resamples[RESAMPLES - 1 - RESAMPLES / 40]);
    Figure { value: point(&mut values.to_vec(), share), low, high, n }
}

/// Rate of rare events with the interval of a Poisson count (Wilson-Hilferty approximation).
pub(crate) fn rate(events: u64, exposure: f64) -> Figure {
    let bound = |k: f64, z: f64| {
        if k == 0.0 { 0.0 } else { k * (1.0 - 1.0 / (9.0 * k) + z / (3.0 * k.sqrt())).powi(3) }
    };
    let k = events as f64;
    Figure {
        value: k / exposure,
        low: bound(k, -Z) / exposure,
        high: bound(k + 1.0, Z) / exposure,
        n: events as usize,
    }
}

/// Quantile of the values, interpolated at the midpoint between two of them.
fn point(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    f64::midpoint(values[place.floor() as usize], values[place.ceil() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_textbook() {
        let nine_of_ten = share(9, 10);
        assert!(
            (nine_of_ten.low - 0.5958).abs() < 1e-3 && (nine_of_ten.high - 0.9821).abs() < 1e-3,
            "{nine_of_ten:?}"
        );
        let none = rate(0, 1.0);
        assert!(none.low == 0.0 && (none.high - 3.689).abs() < 0.03, "{none:?}");
        assert!(share(0, 0).value.is_nan());
    }

    #[test]
    fn the_bootstrap_surrounds_the_median_and_repeats() {
        let values: Vec<f64> = (0..101).map(f64::from).collect();
        let figure = median(&values);
        assert_eq!(figure.value, 50.0);
        assert!(
            figure.low < 50.0 && figure.high > 50.0 && figure.low > 30.0 && figure.high < 70.0,
            "{figure:?}"
        );
        assert_eq!(figure, median(&values));
        assert_eq!(quantile(&values, 0.95).value, 95.0);
        assert_eq!(median(&values[..100]).value, 49.5);
    }
}
