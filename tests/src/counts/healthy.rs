//! Courses that never come to the limit, and look as if they did for a while.

use super::{Course, DAY, HOUR, Kind, MINUTE, draw_level, noise};
use crate::corpus::rng::Rng;

/// Course of the share of what was left at the start that is in use beside that.
type Shape = fn(&mut Rng) -> (&'static str, Box<dyn Fn(f64) -> f64>);

/// Shapes of anything.
const SHAPES: [Shape; 7] = [
    |rng| {
        let share = rng.range(0.01, 0.08);
        let (secs, phase) = (rng.log_range(20.0 * MINUTE, DAY), rng.unit());
        ("rotated", Box::new(move |t| share * (t / secs + phase).fract()))
    },
    |rng| {
        let (share, secs) = (rng.range(0.05, 0.6), rng.log_range(3.0 * MINUTE, 6.0 * HOUR));
        let from = rng.log_range(MINUTE, 20.0 * HOUR);
        let fill = move |t: f64| share * (1.0 - libm::exp(-(t - from).max(0.0) / secs));
        ("cache or pool", Box::new(fill))
    },
    |rng| {
        let (share, seed) = (rng.range(0.1, 0.5), rng.bits());
        let secs = rng.log_range(2.0 * MINUTE, 2.0 * HOUR);
        // New workers are started at once, and end at once.
        let level = move |t: f64| share * (0.5 + 0.5 * noise(seed, t, secs));
        ("fork server", Box::new(level))
    },
    |rng| {
        let (share, phase) = (rng.range(0.02, 0.14), rng.unit());
        let day = move |t: f64| {
            share * (0.5 - 0.5 * libm::cos(std::f64::consts::TAU * (t / DAY + phase)))
        };
        ("day and night", Box::new(day))
    },
    |rng| {
        let (share, secs) = (rng.range(0.02, 0.16), rng.log_range(MINUTE, 9.0 * MINUTE));
        let every = rng.range(2.0 * HOUR, 12.0 * HOUR);
        let batch = move |t: f64| {
            let since = t % every;
            // It writes, is kept for as long, and is deleted.
            if since < 2.0 * secs { share * (since / secs).min(1.0) } else { 0.0 }
        };
        ("batch", Box::new(batch))
    },
    |rng| {
        let (share, from) = (rng.range(0.05, 0.4), rng.range(HOUR, 20.0 * HOUR));
        ("deployment", Box::new(move |t| if t > from { share } else { 0.0 }))
    },
    |rng| {
        let share_a_day = rng.log_range(1e-4, 8e-3);
        ("slow growth", Box::new(move |t| share_a_day * t / DAY))
    },
];

/// Draws a healthy course.
pub(super) fn course(rng: &mut Rng, kind: &'static Kind, number: usize) -> Course {
    let (limit, start) = draw_level(rng, kind);
    let (name, shape) = SHAPES[number % SHAPES.len()](rng);
    let (seed, left) = (rng.bits(), limit - start);
    let jitter = left * rng.log_range(1e-5, 2e-2);
    let healthy = move |t: f64| start + left * shape(t) + jitter * noise(seed, t, 20.0);
    Course {
        kind,
        name,
        limit,
        interval_secs: 20.0,
        lasts_secs: rng.range(1.0, 4.0) * DAY,
        healthy: Box::new(healthy),
        added: None,
        onset_t: 0.0,
    }
}
