//! Memory of a process over time, composed of a few mechanisms, each a function from seconds to
//! bytes.
//!
//! Curves are evaluated in order of time and may have memory (a high-water mark, an integral).
//! Their randomness is drawn by index, so that evaluating at other times gives the same curve: the
//! scorer looks for the moment of exhaustion beyond the end of a run, in coarser steps than the
//! run's.

use super::rng::{Rng, unit_at};

/// Function from seconds to bytes.
pub(super) type Curve = Box<dyn FnMut(f64) -> f64 + Send>;

pub(super) const KIB: f64 = 1024.0;
pub(super) const MIB: f64 = 1_048_576.0;
pub(super) const GIB: f64 = 1_073_741_824.0;
pub(super) const MINUTE: f64 = 60.0;
pub(super) const HOUR: f64 = 3_600.0;
pub(super) const DAY: f64 = 86_400.0;

pub(super) fn flat(bytes: f64) -> Curve {
    Box::new(move |_| bytes)
}

pub(super) fn sum(mut curves: Vec<Curve>) -> Curve {
    Box::new(move |t| curves.iter_mut().map(|curve| curve(t)).sum())
}

/// Zero until `from`, then linear growth.
pub(super) fn ramp(from: f64, per_sec: f64) -> Curve {
    Box::new(move |t| (t - from).max(0.0) * per_sec)
}

/// Fast growth that slows down and never exceeds `height`.
pub(super) fn saturating(from: f64, height: f64, tau: f64) -> Curve {
    Box::new(move |t| height * (1.0 - libm::exp(-(t - from).max(0.0) / tau)))
}

/// Growth that slows down without a plateau, as fragmentation causes.
pub(super) fn logarithmic(from: f64, scale: f64, tau: f64) -> Curve {
    Box::new(move |t| scale * libm::log1p((t - from).max(0.0) / tau))
}

/// Shifts `curve` so that its time begins at `origin`.
pub(super) fn since(origin: f64, mut curve: Curve) -> Curve {
    Box::new(move |t| curve(t - origin))
}

pub(super) fn at_most(mut curve: Curve, bytes: f64) -> Curve {
    Box::new(move |t| curve(t).min(bytes))
}

/// Maximum so far: an arena, or a heap that is not trimmed.
pub(super) fn high_water(mut curve: Curve) -> Curve {
    let mut highest = 0.0_f64;
    Box::new(move |t| {
        highest = highest.max(curve(t));
        highest
    })
}

/// Rounds to whole steps.
pub(super) fn in_steps(mut curve: Curve, step: f64) -> Curve {
    Box::new(move |t| (curve(t) / step).ceil() * step)
}

/// Product, such as an amplitude times a load.
pub(super) fn scaled(mut curve: Curve, mut by: Curve) -> Curve {
    Box::new(move |t| curve(t) * by(t))
}

/// Integral of a load since `from`, times `per_sec`.
pub(super) fn integral(from: f64, per_sec: f64, mut load: Curve) -> Curve {
    let (mut last_t, mut last_load, mut total) = (from, 0.0, 0.0);
    Box::new(move |t| {
        if t > from {
            let now = load(t);
            let before = if last_t > from { last_load } else { now };
            total += (t - last_t) * per_sec * (now + before) / 2.0;
            (last_t, last_load) = (t, now);
        }
        total
    })
}

/// Sawtooth of a collector: rises over a period and falls at its end; heights differ by up to a
/// third.
pub(super) fn sawtooth(seed: u64, period: f64, height: f64) -> Curve {
    let phase = unit_at(seed, -1) * period;
    Box::new(move |t| {
        let turns = (t + phase) / period;
        let turn = turns.floor();
        height * (1.0 - unit_at(seed, turn as i64) / 3.0) * (turns - turn)
    })
}

/// Cache that is filled evenly, `height` in a period, and emptied at a random moment of each
/// period.
pub(super) fn purges(seed: u64, period: f64, height: f64) -> Curve {
    let phase = unit_at(seed, -1);
    Box::new(move |t| {
        let place = t / period + phase;
        let turn = place.floor() as i64;
        let purged_at = |turn: i64| turn as f64 + unit_at(seed, turn);
        let last = if place >= purged_at(turn) { purged_at(turn) } else { purged_at(turn - 1) };
        height * (place - last)
    })
}

/// Smooth noise between `-amplitude` and `amplitude` that changes over about `period`.
pub(super) fn noise(seed: u64, period: f64, amplitude: f64) -> Curve {
    Box::new(move |t| {
        let place = t / period;
        let cell = place.floor();
        let (left, right) = (unit_at(seed, cell as i64), unit_at(seed, cell as i64 + 1));
        let x = place - cell;
        amplitude * (2.0 * (left + (right - left) * x * x * (3.0 - 2.0 * x)) - 1.0)
    })
}

/// Steps, one per period at a random moment of it, each between half and one and a half times
/// `step`.
pub(super) fn stairs(seed: u64, from: f64, period: f64, step: f64) -> Curve {
    let (mut turn, mut total) = (0_i64, 0.0);
    Box::new(move |t| {
        while t >= from + (turn as f64 + unit_at(seed, turn)) * period {
            total += step * (0.5 + unit_at(seed ^ 1, turn));
            turn += 1;
        }
        total
    })
}

/// Bursts of `height` for the first `busy` seconds of each period, with flanks of a tenth of that;
/// heights differ by up to a half.
pub(super) fn bursts(seed: u64, period: f64, busy: f64, height: f64) -> Curve {
    let phase = unit_at(seed, -1) * period;
    Box::new(move |t| {
        let turn = ((t + phase) / period).floor();
        let into = t + phase - turn * period;
        let flank = busy / 10.0;
        let share = (into / flank).min((busy - into) / flank).clamp(0.0, 1.0);
        share * height * (1.0 - unit_at(seed, turn as i64) / 2.0)
    })
}

/// Load of a day between about 0.2 and 1: one smooth wave, low at night.
pub(super) fn day_wave(phase: f64) -> Curve {
    Box::new(move |t| 0.6 - 0.4 * libm::cos(std::f64::consts::TAU * (t / DAY + phase)))
}

/// Load of offices: a morning, a dip at lunch, an afternoon, almost nothing at night, and a quarter
/// at weekends.
pub(super) fn office_hours(phase: f64) -> Curve {
    Box::new(move |t| {
        let days = t / DAY + phase;
        let hour = (days - days.floor()) * 24.0;
        let hump =
            |mid: f64, width: f64| libm::exp(-((hour - mid) / width) * ((hour - mid) / width));
        let weekend = (days.floor() as i64).rem_euclid(7) >= 5;
        0.1 + (hump(10.5, 2.2) + hump(15.0, 2.5)) * if weekend { 0.2 } else { 0.8 }
    })
}

/// Base that fluctuates: request buffers over seconds, caches and pools over many minutes. The
/// shares of the base are guesses from services of a few hundred MiB, which fluctuate by a few
/// parts in a thousand to a few in a hundred.
pub(super) fn breathing(rng: &mut Rng, base: f64) -> Curve {
    let quick = base * rng.log_range(0.000_5, 0.01);
    let slow = base * rng.log_range(0.000_5, 0.01);
    sum(vec![
        flat(base),
        noise(rng.bits(), rng.range(2.0, 20.0), quick),
        noise(rng.bits(), rng.log_range(5.0 * MINUTE, HOUR), slow),
    ])
}
