//! Shapes of memory over time: the vocabulary in which mechanisms are written.
//!
//! A shape is asked once a scan, in order of time, and remembers what it needs. It gives bytes that
//! are resident, not bytes that a program asked for: what an allocator keeps back belongs to it.

use crate::corpus::rng::Rng;

pub(super) const KIB: f64 = 1_024.0;
pub(super) const MIB: f64 = 1_048_576.0;
pub(super) const GIB: f64 = 1_073_741_824.0;
pub(super) const MINUTE: f64 = 60.0;
pub(super) const HOUR: f64 = 3_600.0;
pub(super) const DAY: f64 = 86_400.0;

/// Moment at which a shape is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Seconds since the agent started; negative before.
    pub(super) t: f64,
    /// Seconds since the process began.
    pub(super) age: f64,
    /// Seconds since the shape was asked last.
    pub(super) dt: f64,
    /// Load of the program, about 1 on average.
    pub(super) load: f64,
}

/// Bytes over time.
pub(super) type Shape = Box<dyn FnMut(&Now) -> f64>;

/// Load over time: of `t` and `dt`, about 1 on average.
pub(super) type Load = Box<dyn FnMut(f64, f64) -> f64>;

/// Own generator of a shape, so that one shape's draws do not shift another's.
pub(super) fn fork(rng: &mut Rng) -> Rng {
    Rng::new("shape", rng.bits())
}

/// Nearly normal number with a standard deviation of 1, never beyond 3: a sum of three uniform
/// numbers, for a fifth of the cost.
fn kick(rng: &mut Rng) -> f64 {
    2.0 * (rng.unit() + rng.unit() + rng.unit() - 1.5)
}

/// Noise around 0 with a standard deviation of `sd` that forgets itself in `memory_secs`
/// (Ornstein-Uhlenbeck).
pub(super) fn noise(rng: &mut Rng, sd: f64, memory_secs: f64) -> impl FnMut(f64) -> f64 + use<> {
    let (mut rng, mut value) = (fork(rng), 0.0);
    let (mut step, mut keep, mut add) = (0.0, 1.0, 0.0);
    move |dt| {
        if dt != step {
            step = dt;
            keep = libm::exp(-dt / memory_secs);
            add = sd * libm::sqrt(1.0 - keep * keep);
        }
        value = value * keep + add * kick(&mut rng);
        value
    }
}

/// Memory that stays, with small movements: an allocator takes and gives in pieces, and between two
/// of them nothing changes at all, as in most processes most of the time.
pub(super) fn steady(rng: &mut Rng, bytes: f64, swing_share: f64) -> Shape {
    let memory_secs = rng.log_range(5.0, 600.0);
    let piece = rng.pick(&[4.0, 132.0, 132.0, 1_024.0, 4_096.0]) * KIB;
    let mut noise = noise(rng, bytes * swing_share, memory_secs);
    let mut held = bytes;
    Box::new(move |now| {
        let asked = (bytes + noise(now.dt)).max(0.0);
        if (asked - held).abs() >= piece {
            held = asked;
        }
        held
    })
}

/// Start of a program: libraries, configuration, first connections; most at once, then slower.
pub(super) fn boot(bytes: f64, secs: f64) -> Shape {
    Box::new(move |now| bytes * (1.0 - libm::exp(-4.0 * now.age / secs)))
}

/// Fill that slows down because what is missing gets rarer: after `tau` 63 % is there.
pub(super) fn saturating(bytes: f64, tau: f64) -> Shape {
    Box::new(move |now| bytes * (1.0 - libm::exp(-now.age.max(0.0) / tau)))
}

/// Fill by keys that follow a power law (Heaps): fast at first, ever slower, with a long tail, up
/// to a bound.
pub(super) fn heaps(bytes: f64, tau: f64, power: f64) -> Shape {
    Box::new(move |now| bytes * (1.0 - libm::pow(1.0 + now.age.max(0.0) / tau, -power)))
}

/// Points in time, joined by straight lines: scripted programs.
pub(super) fn script(points: Vec<(f64, f64)>) -> Shape {
    let mut place = 0;
    Box::new(move |now| {
        while place + 1 < points.len() && points[place + 1].0 <= now.t {
            place += 1;
        }
        let (from, bytes) = points[place];
        let Some((to, next)) = points.get(place + 1) else { return bytes };
        if now.t <= from { bytes } else { bytes + (next - bytes) * (now.t - from) / (to - from) }
    })
}

/// Same script over the age of a process.
pub(super) fn aged(points: Vec<(f64, f64)>) -> Shape {
    let mut script = script(points);
    Box::new(move |now| script(&Now { t: now.age, ..*now }))
}

/// Collector: garbage piles up with the load and is collected when a cycle's worth is there.
/// `ragged` is the share by which cycles differ; `keeps` what a collection leaves of its cycle, to be
/// collected by every eighth, as a full collection does.
pub(super) struct Teeth {
    pub(super) bytes: f64,
    pub(super) secs: f64,
    pub(super) ragged: f64,
    pub(super) keeps: f64,
    /// Share of the first cycle that is over when the process begins; `None` at random.
    pub(super) phase: Option<f64>,
}

impl Teeth {
    pub(super) fn shape(self, rng: &mut Rng) -> Shape {
        let mut rng = fork(rng);
        let Self { bytes, secs, ragged, keeps, phase } = self;
        let mut done = phase.unwrap_or_else(|| rng.unit());
        let (mut top, mut kept, mut cycles) = (bytes, 0.0, rng.below(8));
        Box::new(move |now| {
            done += now.dt / secs * now.load;
            if done >= 1.0 {
                done -= libm::floor(done);
                cycles += 1;
                kept = if cycles % 8 == 0 { 0.0 } else { kept + keeps * top };
                top = bytes * (1.0 + ragged * (2.0 * rng.unit() - 1.0));
            }
            kept + top * done
        })
    }
}

/// Memory in proportion to the load, which follows it within `lag_secs`.
pub(super) fn with_load(bytes: f64, lag_secs: f64) -> Shape {
    let mut level = None;
    Box::new(move |now| {
        let was = level.unwrap_or(now.load);
        let is = was + (now.load - was) * (now.dt / lag_secs).min(1.0);
        level = Some(is);
        bytes * is
    })
}

/// Memory that glibc keeps: freed memory below the top of an arena returns only with a trim, here at
/// intervals of `trim_secs` on average, and then by the share `gives`.
pub(super) fn retained(rng: &mut Rng, mut held: Shape, trim_secs: f64, gives: f64) -> Shape {
    let (mut rng, mut top) = (fork(rng), 0.0_f64);
    Box::new(move |now| {
        let asked = held(now);
        if top > asked && rng.chance((now.dt / trim_secs).min(1.0)) {
            top -= gives * (top - asked);
        }
        top = top.max(asked);
        top
    })
}

/// Memory that jemalloc and Go's scavenger keep: freed memory goes back to the kernel within `tau`.
pub(super) fn decaying(mut held: Shape, tau: f64) -> Shape {
    let mut top = 0.0_f64;
    Box::new(move |now| {
        let asked = held(now);
        top = asked.max(top - (top - asked) * (now.dt / tau).min(1.0));
        top
    })
}

/// Requests that need much memory for a while: at random, of very different sizes.
pub(super) fn bursts(rng: &mut Rng, bytes: f64, every_secs: f64, lasts_secs: f64) -> Shape {
    let mut rng = fork(rng);
    let mut open: Vec<(f64, f64)> = Vec::new();
    let mut next = f64::NAN;
    Box::new(move |now| {
        if next.is_nan() {
            next = now.t + every_secs * rng.exponential();
        }
        while next <= now.t {
            // Bounded Pareto: most are small.
            let size = bytes * 0.2 / libm::pow(1.0 - 0.96 * rng.unit(), 0.5);
            open.push((next + lasts_secs * rng.exponential(), size.min(bytes)));
            next += every_secs * rng.exponential();
        }
        open.retain(|(until, _)| *until > now.t);
        open.iter().map(|(_, size)| size).sum::<f64>().min(2.0 * bytes)
    })
}

/// Load that only flickers.
pub(super) fn flat_load(rng: &mut Rng) -> Load {
    let (sd, memory_secs) = (rng.range(0.02, 0.2), rng.log_range(5.0, 900.0));
    let mut noise = noise(rng, sd, memory_secs);
    Box::new(move |_, dt| (1.0 + noise(dt)).max(0.05))
}

/// Load of people: a day with a night, a lunch break and weaker weekends. `depth` is the share by
/// which day and night differ from the mean.
pub(super) fn daily_load(rng: &mut Rng, depth: f64) -> Load {
    let (start, weekday) = (rng.range(0.0, DAY), rng.below(7) as f64);
    let (lunch, weekend) = (rng.range(0.0, 0.15), rng.range(0.5, 1.0));
    let (sd, memory_secs) = (rng.range(0.02, 0.1), rng.log_range(30.0, 1_800.0));
    let mut noise = noise(rng, sd, memory_secs);
    Box::new(move |t, dt| {
        let hours = (t + start) / HOUR;
        let angle = std::f64::consts::TAU * hours / 24.0;
        let day = libm::floor(weekday + (t + start) / DAY).rem_euclid(7.0);
        let height = if day >= 5.0 { weekend } else { 1.0 };
        let swing = depth * libm::sin(angle - 2.4) - lunch * depth * libm::cos(2.0 * angle);
        (height * (1.0 + swing) + noise(dt)).max(0.03)
    })
}

/// Way in which a leak goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Always the same.
    Straight,
    /// In proportion to the load.
    WithLoad,
    /// Blocks of that many bytes, at random intervals around the mean that the rate gives.
    Stairs(f64),
    /// Leaks for some minutes, rests for some minutes: a job or a path that is taken at times. The
    /// mean is the rate.
    Episodes(f64),
    /// Slower and slower without an end: as the square root of time from this moment on.
    Slowing(f64),
}

/// Leaked bytes from `start` on, in pieces of `grain` bytes, as an allocator takes them.
pub(super) fn leak(rng: &mut Rng, start: f64, rate: f64, pace: Pace, grain: f64) -> Shape {
    let mut rng = fork(rng);
    let (mut total, mut next, mut leaking_until) = (0.0_f64, start, start);
    let phase = rng.unit() * grain;
    Box::new(move |now| {
        if now.t <= start {
            return 0.0;
        }
        let since = now.t - start;
        let dt = now.dt.min(since);
        match pace {
            Pace::Straight => total = rate * since,
            Pace::WithLoad => total += rate * dt * now.load,
            Pace::Stairs(step) => {
                while next <= now.t {
                    next += step / rate * (0.4 + 0.6 * rng.exponential());
                    total += step * rng.range(0.7, 1.3);
                }
            }
            Pace::Episodes(secs) => {
                while next <= now.t {
                    leaking_until = next + secs * rng.range(0.5, 1.5);
                    next += 2.0 * secs * rng.range(0.7, 1.3);
                }
                total += if now.t <= leaking_until { 2.0 * rate * dt } else { 0.0 };
            }
            Pace::Slowing(from) => {
                total = rate * 2.0 * from * (libm::sqrt(1.0 + since / from) - 1.0);
            }
        }
        if grain > 1.0 { libm::floor((total + phase) / grain) * grain } else { total }
    })
}
