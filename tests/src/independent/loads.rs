//! Further loads: in bursts, and as scripted.

use super::shapes::{Load, Now, flat_load, fork, script};
use crate::corpus::rng::Rng;

/// Load in bursts between quiet times, both of very different lengths: jobs that arrive in batches,
/// crawlers, queues that are worked off.
pub(super) fn bursty_load(rng: &mut Rng) -> Load {
    let rest = rng.log_range(40.0, 1_200.0);
    let lasts = rest * rng.log_range(0.05, 1.5);
    let quiet = rng.range(0.02, 0.6);
    let share = lasts / (rest + lasts);
    let mean = (1.0 - quiet * (1.0 - share)) / share;
    let (mut rng, mut flicker) = (fork(rng), flat_load(rng));
    let (mut until, mut busy, mut height) = (f64::NEG_INFINITY, false, 1.0);
    Box::new(move |t, dt| {
        if until == f64::NEG_INFINITY {
            until = t;
        }
        while until <= t {
            busy = !busy;
            until += if busy { lasts } else { rest } * rng.exponential().max(0.02);
            height = rng.range(0.4, 1.6);
        }
        let level = if busy { mean * height } else { quiet };
        level * flicker(t, dt)
    })
}

/// Load along straight lines between points in time, flickering.
pub(super) fn scripted_load(rng: &mut Rng, points: Vec<(f64, f64)>) -> Load {
    let (mut line, mut flicker) = (script(points), flat_load(rng));
    Box::new(move |t, dt| line(&Now { t, age: t, dt, load: 1.0 }) * flicker(t, dt))
}

/// Load that rises between `from` and `to` by `factor` and stays there.
pub(super) fn rising_load(rng: &mut Rng, from: f64, to: f64, factor: f64) -> Load {
    scripted_load(rng, vec![(from, 1.0), (to, factor)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursty_load_is_one_on_average_and_uneven() {
        for seed in 0..8 {
            let mut load = bursty_load(&mut Rng::new("loads", seed));
            let loads: Vec<f64> = (0..200_000).map(|nth| load(5.0 * f64::from(nth), 5.0)).collect();
            let mean = loads.iter().sum::<f64>() / loads.len() as f64;
            assert!((0.8..1.25).contains(&mean), "seed {seed}: {mean}");
            let quiet = loads.iter().filter(|load| **load < 0.8).count();
            assert!(quiet > loads.len() / 4, "seed {seed}: quiet in {quiet} scans");
        }
    }

    #[test]
    fn rising_load_rises_once() {
        let mut load = rising_load(&mut Rng::new("loads", 1), 1_000.0, 2_000.0, 3.0);
        let loads: Vec<f64> = (0..40_000).map(|t| load(f64::from(t), 1.0)).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!((mean(&loads[2_000..]) / 3.0 - 1.0).abs() < 0.1);
        assert!((mean(&loads[..1_000]) - 1.0).abs() < 0.4);
    }
}
