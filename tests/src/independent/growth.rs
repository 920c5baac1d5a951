//! Further shapes: leaks that come in fits or quicken, garbage in proportion to what lives, growth
//! that gets ever slower, steps at growing distance, work in turns.

use super::shapes::{Now, Shape, fork};
use crate::corpus::rng::Rng;

/// Same shape from this moment on, with its age counted from there.
pub(super) fn from(at: f64, mut shape: Shape) -> Shape {
    Box::new(move |now| {
        if now.t <= at {
            return 0.0;
        }
        let age = now.t - at;
        shape(&Now { age, dt: now.dt.min(age), ..*now })
    })
}

/// Leak in fits at random times: errors, reconnects, a client that misbehaves. A fit comes every
/// `every` seconds on average and lasts `lasts`, both exponential; the mean is the rate.
pub(super) fn fits(rng: &mut Rng, start: f64, rate: f64, every: f64, lasts: f64) -> Shape {
    let mut rng = fork(rng);
    let (mut total, mut begins, mut ends) = (0.0_f64, start, start);
    Box::new(move |now| {
        let mut at = (now.t - now.dt).max(start);
        while at < now.t {
            if at >= ends {
                begins = ends + every * (0.2 + 0.8 * rng.exponential());
                ends = begins + lasts * rng.exponential().clamp(0.1, 4.0);
            }
            let to = now.t.min(if at < begins { begins } else { ends });
            if at >= begins {
                total += rate * (every + lasts) / lasts * (to - at);
            }
            at = to;
        }
        total
    })
}

/// Leak that quickens: its rate doubles in `doubles` seconds, five times at most.
pub(super) fn quickening(start: f64, rate: f64, doubles: f64) -> Shape {
    let tau = doubles / std::f64::consts::LN_2;
    let last = 5.0 * doubles;
    Box::new(move |now| {
        let since = (now.t - start).max(0.0);
        let curved = since.min(last);
        rate * (tau * (libm::exp(curved / tau) - 1.0) + 32.0 * (since - curved))
    })
}

/// Living memory, and garbage in proportion to it, collected every `secs` on average: GOGC.
pub(super) fn collected(rng: &mut Rng, mut live: Shape, share: f64, secs: f64) -> Shape {
    let mut rng = fork(rng);
    let (mut done, mut cycle) = (rng.unit(), secs);
    Box::new(move |now| {
        done += now.dt * now.load / cycle;
        if done >= 1.0 {
            done -= libm::floor(done);
            cycle = secs * rng.range(0.8, 1.2);
        }
        live(now) * (1.0 + share * done)
    })
}

/// Growth with the logarithm of age.
pub(super) fn logarithmic(bytes: f64, tau: f64) -> Shape {
    Box::new(move |now| bytes * libm::log(1.0 + now.age.max(0.0) / tau))
}

/// Growth with the square root of age; `bytes` are there after `secs`.
pub(super) fn root(bytes: f64, secs: f64) -> Shape {
    Box::new(move |now| bytes * libm::sqrt(now.age.max(0.0) / secs))
}

/// Cache whose entries live for `ttl`: straight until the first expire, then as the load goes.
pub(super) fn expiring(bytes: f64, ttl: f64) -> Shape {
    let mut level = 0.0_f64;
    Box::new(move |now| {
        let wanted = bytes * (now.age / ttl).min(1.0) * now.load;
        level += (wanted - level) * (8.0 * now.dt / ttl).min(1.0);
        level.max(0.0)
    })
}

/// Loading in steps at growing distance: modules, dictionaries and models that are met ever more
/// rarely. The steps add up to `bytes`.
pub(super) fn lazy(rng: &mut Rng, bytes: f64, first: f64, ratio: f64, count: u64) -> Shape {
    let mut at = first * rng.range(0.5, 1.5);
    let mut steps: Vec<(f64, f64)> = (0..count)
        .map(|nth| {
            let place = at;
            at += first * libm::pow(ratio, nth as f64 + 1.0) * rng.range(0.6, 1.4);
            (place, rng.range(0.4, 1.6))
        })
        .collect();
    let sum: f64 = steps.iter().map(|step| step.1).sum();
    steps.iter_mut().for_each(|step| step.1 *= bytes / sum);
    Box::new(move |now| {
        let loaded = steps.iter().map(|(at, size)| {
            // A step takes a second or two.
            size * ((now.age - at) / 2.0).clamp(0.0, 1.0)
        });
        loaded.sum()
    })
}

/// Work in turns of about `every` seconds: memory rises for `rises`, stays for `stays`, and falls to
/// `keeps` of its height at once. The first turn is somewhere within its time at birth.
pub(super) struct Turns {
    pub(super) bytes: f64,
    pub(super) every: f64,
    pub(super) rises: f64,
    pub(super) stays: f64,
    /// Share by which turns differ in size and time.
    pub(super) ragged: f64,
    pub(super) keeps: f64,
}

impl Turns {
    pub(super) fn shape(self, rng: &mut Rng) -> Shape {
        let mut rng = fork(rng);
        let Self { bytes, every, rises, stays, ragged, keeps } = self;
        let mut next = f64::NAN;
        let (mut since, mut height) = (f64::NEG_INFINITY, bytes);
        Box::new(move |now| {
            if next.is_nan() {
                next = now.t - every * rng.unit();
            }
            while next <= now.t {
                since = next;
                height = bytes * (1.0 - ragged * rng.unit());
                next += every * (1.0 + 0.3 * ragged * (2.0 * rng.unit() - 1.0));
            }
            let age = now.t - since;
            let (low, high) = (keeps * bytes, height.max(keeps * bytes));
            match age {
                age if age < rises => low + (high - low) * age / rises,
                age if age < rises + stays => high,
                _ => low,
            }
        })
    }
}

/// Files that fill and are cut to nothing at a size: logs that are rotated, spools that are shipped.
pub(super) fn rotated(rng: &mut Rng, bytes: f64, secs: f64) -> Shape {
    let mut rng = fork(rng);
    let mut done = rng.unit();
    Box::new(move |now| {
        done += now.dt / secs * rng.range(0.5, 1.5) * now.load;
        done -= libm::floor(done);
        bytes * done
    })
}

/// Records of random sizes: an allocator keeps the highest, and higher ones come ever more rarely.
pub(super) fn high_water(rng: &mut Rng, bytes: f64, every: f64) -> Shape {
    let mut rng = fork(rng);
    let (mut next, mut top) = (f64::NEG_INFINITY, 0.0_f64);
    Box::new(move |now| {
        if next == f64::NEG_INFINITY {
            next = now.t - now.dt;
        }
        while next <= now.t {
            next += every * rng.exponential();
            top = top.max(bytes * libm::sqrt(rng.unit()));
        }
        top
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a shape each second from birth at 0.
    fn values(mut shape: Shape, secs: usize) -> Vec<f64> {
        let at = |t: usize| Now { t: t as f64, age: t as f64, dt: 1.0, load: 1.0 };
        (0..secs).map(|t| shape(&at(t))).collect()
    }

    fn rng() -> Rng {
        Rng::new("growth", 7)
    }

    #[test]
    fn fits_begin_at_their_start_and_keep_their_mean_rate() {
        let leaked = values(fits(&mut rng(), 1_000.0, 50.0, 90.0, 10.0), 101_000);
        assert!(leaked[..=1_000].iter().all(|bytes| *bytes == 0.0));
        assert!(leaked.windows(2).all(|pair| pair[0] <= pair[1]), "a leak never falls");
        let mean = leaked[100_999] / 100_000.0;
        assert!((40.0..60.0).contains(&mean), "{mean}");
        let still = leaked.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(still > 80_000, "{still} seconds without a leak");
    }

    #[test]
    fn quickening_doubles_its_rate_five_times() {
        let leaked = values(quickening(0.0, 1.0, 100.0), 1_000);
        for (t, rate) in [(1, 1.0), (100, 2.0), (300, 8.0), (600, 32.0), (900, 32.0)] {
            let is = leaked[t] - leaked[t - 1];
            assert!((is / rate - 1.0).abs() < 0.02, "{is} at {t}");
        }
    }

    #[test]
    fn slow_growth_gets_slower() {
        let lazily = lazy(&mut rng(), 1_000.0, 10.0, 2.0, 8);
        for shape in [logarithmic(1_000.0, 50.0), root(1_000.0, 4_000.0), lazily] {
            let bytes = values(shape, 4_001);
            assert!(bytes[2_000] - bytes[0] > bytes[4_000] - bytes[2_000]);
            assert!(bytes.windows(2).all(|pair| pair[0] <= pair[1]));
        }
        let last = values(lazy(&mut rng(), 1_000.0, 10.0, 2.0, 8), 8_000).pop();
        assert!(last.is_some_and(|bytes| (bytes - 1_000.0).abs() < 1.0), "{last:?}");
    }

    #[test]
    fn turns_and_rotated_files_come_back_within_bounds() {
        let turns =
            Turns { bytes: 90.0, every: 60.0, rises: 20.0, stays: 5.0, ragged: 0.1, keeps: 0.1 };
        for shape in [turns.shape(&mut rng()), rotated(&mut rng(), 90.0, 60.0)] {
            let bytes = values(shape, 6_000);
            assert!(bytes.iter().all(|bytes| (0.0..=90.0).contains(bytes)));
            let falls = bytes.windows(2).filter(|pair| pair[1] < pair[0] - 30.0).count();
            assert!((70..130).contains(&falls), "{falls} falls");
        }
    }

    #[test]
    fn records_only_rise_and_expiring_caches_level_off() {
        let bytes = values(high_water(&mut rng(), 100.0, 30.0), 5_000);
        assert!(bytes.windows(2).all(|pair| pair[0] <= pair[1]) && bytes[4_999] <= 100.0);
        let bytes = values(expiring(100.0, 200.0), 2_000);
        assert!(bytes[100] < 60.0 && (bytes[400] - bytes[1_999]).abs() < 1.0);
    }

    #[test]
    fn garbage_is_in_proportion_to_what_lives() {
        let live = Box::new(|now: &Now| now.t);
        for (t, bytes) in values(collected(&mut rng(), live, 0.5, 20.0), 500).iter().enumerate() {
            assert!((t as f64..=1.5 * t as f64).contains(bytes), "{bytes} at {t}");
        }
    }
}
