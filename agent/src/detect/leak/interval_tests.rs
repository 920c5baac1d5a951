//! Leaks and healthy growth at every interval of scans that the configuration accepts.

use super::tests::{Run, noise, one};
use crate::detect::Verdict;

/// Intervals of scans, from the shortest to the longest that is accepted, and seconds after which a
/// leak of 1.5 MiB/s, and one of 0.2 MiB/s, is reported.
const INTERVALS: [(f64, [f64; 2]); 6] = [
    (0.1, [60.0, 200.0]),
    (1.0, [60.0, 200.0]),
    (5.0, [90.0, 200.0]),
    (15.0, [200.0, 200.0]),
    (30.0, [420.0, 420.0]),
    (60.0, [600.0, 600.0]),
];

/// Verdicts about a process seen so often, on a host with 60 GiB available.
fn seen(interval_secs: f64, secs: f64, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
    Run::new(interval_secs, 60.0, None).shape(secs, mib)
}

#[test]
fn fast_leak_is_found_at_every_interval() {
    for (interval_secs, deadlines) in INTERVALS {
        for (mib_per_sec, deadline_secs) in [1.5, 0.2].into_iter().zip(deadlines) {
            let leak = |t: f64| 150.0 + mib_per_sec * (t - 4_000.0).max(0.0) + noise(t, 3) / 2.0;
            let verdict = one(seen(interval_secs, 5_000.0, leak));
            let after = verdict.t - 4_000.0;
            assert!((0.0..deadline_secs).contains(&after), "{interval_secs} s: {verdict:?}");
        }
    }
}

#[test]
fn slow_leak_is_found_as_soon_at_every_interval() {
    for (interval_secs, _) in INTERVALS {
        let leak = |t: f64| 150.0 + 0.03 * (t - 4_000.0).max(0.0) + noise(t, 3) / 2.0;
        let after = one(seen(interval_secs, 12_000.0, leak)).t - 4_000.0;
        assert!((0.0..960.0).contains(&after), "{interval_secs} s: {after} s");
    }
}

#[test]
fn healthy_growth_is_silent_at_every_interval() {
    let shapes: [fn(f64) -> f64; 4] = [
        // Teeth of a collector, which longer intervals see at any phase.
        |t| 80.0 * (t / 70.0).fract() * (1.0 + noise((t / 70.0).floor(), 8)) / 2.0,
        |t| 400.0 * (1.0 - (-t / 1_500.0).exp()),
        |t| 60.0 * (1.0 + t / 30.0).ln(),
        // A job that fills its memory for five minutes of every hour.
        |t| 300.0 * ((t % 3_600.0) / 300.0).min(1.0) * f64::from(t % 3_600.0 < 900.0),
    ];
    for (interval_secs, _) in INTERVALS {
        for (nth, shape) in shapes.iter().enumerate() {
            let verdicts = seen(interval_secs, 20_000.0, |t| 150.0 + shape(t) + noise(t, 4));
            assert_eq!(verdicts, [], "{interval_secs} s, shape {nth}");
        }
    }
}
