//! Courses that end at the limit.

use super::{Course, DAY, HOUR, Kind, MINUTE, draw_level, noise};
use crate::corpus::rng::Rng;

/// Way in which a count climbs: from the share of its time that has passed to the share of what was
/// left that is gone.
type Shape = fn(&mut Rng) -> (&'static str, Box<dyn Fn(f64) -> f64>);

const SHAPES: [Shape; 6] = [
    |_| ("straight", Box::new(|x| x)),
    |rng| {
        let power = rng.range(1.3, 2.0);
        ("quickening", Box::new(move |x| libm::pow(x, power)))
    },
    |rng| {
        let steps = rng.range(30.0, 120.0);
        ("stairs", Box::new(move |x| libm::floor(x * steps) / steps))
    },
    |rng| {
        // Requests fail at random: more at one time than at another.
        let (seed, parts) = (rng.bits(), 200.0);
        let gain = move |part: f64| 0.5 + libm::fabs(noise(seed, part, 1.0));
        let total: f64 = (0..200).map(|part| gain(f64::from(part))).sum();
        let curve = move |x: f64| {
            let whole = libm::floor(x * parts);
            let sum: f64 = (0..whole as u32).map(|part| gain(f64::from(part))).sum();
            (sum + (x * parts - whole) * gain(whole)) / total
        };
        ("by chance", Box::new(curve))
    },
    |_| ("straight", Box::new(|x| x)),
    |rng| {
        let (depth, waves) = (rng.range(0.1, 0.3), rng.range(8.0, 40.0));
        let turn = std::f64::consts::TAU * waves;
        let wave = move |x: f64| x + depth * (1.0 - libm::cos(turn * x)) / turn;
        ("in waves", Box::new(wave))
    },
];

/// Draws a course that exhausts a resource.
pub(super) fn course(rng: &mut Rng, kind: &'static Kind, number: usize) -> Course {
    let (limit, start) = draw_level(rng, kind);
    let (name, shape) = SHAPES[number % SHAPES.len()](rng);
    // A climb of sixty samples or more.
    let to_end_secs = rng.log_range(15.0 * MINUTE, 4.0 * DAY);
    let onset_t = match rng.below(4) {
        0 => 0.0,
        _ => rng.log_range(5.0 * MINUTE, 30.0 * HOUR),
    };
    let interval_secs = if to_end_secs + onset_t > DAY { 30.0 } else { 10.0 };
    let (seed, left) = (rng.bits(), limit - start);
    let jitter = left * rng.log_range(1e-5, 1e-2);
    let load = if kind.is_load && rng.chance(0.5) { left * rng.range(0.01, 0.05) } else { 0.0 };
    let tooth = if rng.chance(0.3) { left * rng.range(0.005, 0.04) } else { 0.0 };
    let tooth_secs = rng.log_range(5.0 * MINUTE, 6.0 * HOUR);
    let phase = rng.unit();
    let healthy = move |t: f64| {
        let day = libm::sin(std::f64::consts::TAU * (t / DAY + phase));
        start
            + jitter * noise(seed, t, 20.0)
            + load * day
            + tooth * (t / tooth_secs + phase).fract()
    };
    let added = move |t: f64| left * shape(((t - onset_t) / to_end_secs).clamp(0.0, 1.0)).min(1.0);
    Course {
        kind,
        name,
        limit,
        interval_secs,
        // What comes later than half of the end is too late.
        lasts_secs: onset_t + 0.5 * to_end_secs,
        healthy: Box::new(healthy),
        added: Some(Box::new(added)),
        onset_t,
    }
}
