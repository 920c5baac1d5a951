//! Processes that leak by themselves.
//!
//! Rates are log-uniform over the promised range; a quarter of the constant leaks have the rates
//! that targets name. Limits are set so that exhaustion is between twenty minutes and four days
//! away: each leak matters.

use super::super::{
    curve::{
        Curve, DAY, GIB, HOUR, KIB, MIB, MINUTE, breathing, bursts, day_wave, flat, integral,
        noise, office_hours, purges, ramp, saturating, sawtooth, since, stairs, sum,
    },
    rng::Rng,
    run::Plan,
    sim::Actor,
};

/// Rates named in targets: 1 MB/s, 100 KB/s and 64 MB a day.
const NAMED: [f64; 3] = [1e6, 1e5, 64e6 / DAY];

/// Rate, duration and headroom of a leak.
pub(super) struct Pace {
    pub(super) rate: f64,
    pub(super) start: f64,
    pub(super) left: f64,
    pub(super) secs: f64,
}

impl Pace {
    pub(super) fn new(rng: &mut Rng, rate: f64, start: f64, ends_min: f64) -> Self {
        let left = (rate * rng.log_range(ends_min, 4.0 * DAY)).clamp(48.0 * MIB, 48.0 * GIB);
        // Six tenths of the way to exhaustion: well past the quarter at which a warning is due.
        let secs = start + (left / rate * 0.6).clamp(4.0 * MINUTE, 2.5 * DAY);
        Self { rate, start, left, secs }
    }

    /// Rate between 1 KB/s and 10 MB/s.
    pub(super) fn constant(rng: &mut Rng, start: f64) -> Self {
        let rate = if rng.chance(0.25) { rng.pick(&NAMED) } else { rng.log_range(1e3, 1e7) };
        Self::new(rng, rate, start, 20.0 * MINUTE)
    }
}

/// Start of a leak in a process that ran before it was watched: targets are for leaks that start
/// after a warm-up.
pub(super) fn settled(rng: &mut Rng) -> f64 {
    rng.log_range(20.0 * MINUTE, 3.0 * HOUR)
}

const NAMES: [(&str, &str); 6] = [
    ("api", "/system.slice/api.service"),
    ("orders", "/kubepods.slice/pod-3f1c/orders"),
    ("collector", "/system.slice/collector.service"),
    ("java", "/docker/4be1c0de9a77"),
    ("python3", "/system.slice/worker.service"),
    ("gateway", "/kubepods.slice/pod-88d0/gateway"),
];

/// Process with a usual name and cgroup.
pub(super) fn service(rng: &mut Rng, anon: Curve) -> Actor {
    let (comm, cgroup) = rng.pick(&NAMES);
    Actor::new(2_000 + rng.below(30_000) as u32, comm, cgroup, anon)
}

/// Process that starts while it is watched; `parts` are in its own time.
pub(super) fn started(rng: &mut Rng, parts: Vec<Curve>) -> Actor {
    let born = rng.range(20.0, 200.0);
    service(rng, since(born, sum(parts))).living(born, f64::INFINITY)
}

/// Open files of a server: one per connection; load brings up to some hundreds, with natural noise.
pub(super) fn connections(rng: &mut Rng, mut load: Curve) -> Curve {
    let most = rng.log_range(30.0, 2_000.0);
    let mut disorder = noise(rng.bits(), rng.range(10.0, 60.0), 0.05);
    Box::new(move |t| 12.0 + most * load(t) * (1.0 + disorder(t)))
}

/// Scans every second or two, for deadlines in seconds.
fn often(rng: &mut Rng, plan: Plan) -> Plan {
    Plan { interval_secs: Some(rng.pick(&[1.0, 1.0, 2.0])), ..plan }
}

fn alone(rng: &mut Rng, pace: &Pace, healthy: Vec<Curve>, leak: impl Fn() -> Curve) -> Plan {
    let mut parts = healthy;
    parts.push(leak());
    let subject = service(rng, sum(parts));
    Plan::leaking(vec![subject], pace.start, pace.secs, pace.left, leak())
}

pub(super) fn plain(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let pace = Pace::constant(rng, start);
    let base = rng.log_range(8.0, 200.0) * MIB;
    let healthy = vec![flat(base), noise(rng.bits(), 7.0, rng.log_range(16.0, 512.0) * KIB)];
    let plan = alone(rng, &pace, healthy, || ramp(pace.start, pace.rate));
    often(rng, plan)
}

pub(super) fn busy(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let pace = Pace::constant(rng, start);
    let base = rng.log_range(60.0, 1_500.0) * MIB;
    // Buffers of requests in progress: up to a fiftieth of the process, freed within seconds.
    let buffers = noise(rng.bits(), rng.range(1.0, 6.0), base * rng.log_range(0.001, 0.02));
    let healthy = vec![breathing(rng, base), buffers];
    let plan = alone(rng, &pace, healthy, || ramp(pace.start, pace.rate));
    often(rng, plan)
}

/// Leak on each request. `mean` is the mean load over a week, so the rate is the mean leak. At
/// least a day and a half is watched, because a leak that began in the evening would otherwise
/// hardly leak.
fn per_request(rng: &mut Rng, load: fn(f64) -> Curve, mean: f64) -> Plan {
    let rate = rng.log_range(1e3, 1e5);
    let start = rng.log_range(MINUTE, 2.0 * HOUR);
    let mut pace = Pace::new(rng, rate, start, 12.0 * HOUR);
    pace.secs = pace.secs.max(start + 1.5 * DAY);
    let (phase, base) = (rng.unit(), rng.log_range(60.0, 800.0) * MIB);
    let swing = base * rng.log_range(0.01, 0.2);
    let mut with_load = load(phase);
    let healthy = vec![breathing(rng, base), Box::new(move |t| swing * with_load(t)) as Curve];
    let mut plan =
        alone(rng, &pace, healthy, || integral(pace.start, pace.rate / mean, load(phase)));
    plan.subjects[0].fds = connections(rng, load(phase));
    plan
}

pub(super) fn wave(rng: &mut Rng) -> Plan {
    per_request(rng, day_wave, 0.6)
}

pub(super) fn office(rng: &mut Rng) -> Plan {
    per_request(rng, office_hours, 0.32)
}

pub(super) fn after_fill(rng: &mut Rng) -> Plan {
    let tau = rng.log_range(5.0 * MINUTE, HOUR);
    let base = rng.log_range(40.0, 400.0) * MIB;
    let cache = saturating(0.0, base * rng.range(0.5, 4.0), tau);
    let healthy = vec![breathing(rng, base), cache];
    let mut subject = started(rng, healthy);
    let start = subject.born + (tau * rng.range(6.0, 15.0)).max(20.0 * MINUTE);
    let pace = Pace::constant(rng, start);
    let leak = || ramp(pace.start, pace.rate);
    subject.anon = sum(vec![subject.anon, leak()]);
    let plan = Plan::leaking(vec![subject], pace.start, pace.secs, pace.left, leak());
    often(rng, plan)
}

pub(super) fn quiet(rng: &mut Rng) -> Plan {
    let start = rng.log_range(2.0 * HOUR, DAY);
    let pace = Pace::constant(rng, start);
    let base = rng.log_range(40.0, 1_000.0) * MIB;
    let healthy = vec![breathing(rng, base)];
    let plan = alone(rng, &pace, healthy, || ramp(pace.start, pace.rate));
    often(rng, plan)
}

/// Steps left behind by a job: the rate times its period, so that both are plausible.
fn steps(rng: &mut Rng, period: f64) -> (Pace, u64) {
    let rate = rng.log_range(3e3, 3e5);
    // At least forty steps until exhaustion.
    let start = rng.range(1.0, 3.0) * period;
    let pace = Pace::new(rng, rate, start, 40.0 * period);
    (pace, rng.bits())
}

pub(super) fn regular_stairs(rng: &mut Rng) -> Plan {
    let period = rng.log_range(MINUTE, 30.0 * MINUTE);
    let (pace, seed) = steps(rng, period);
    let base = rng.log_range(30.0, 300.0) * MIB;
    let healthy = vec![breathing(rng, base)];
    // Jitter of a tenth of the period, for the job's own run time.
    let (first, step) = (pace.start, pace.rate * period);
    alone(rng, &pace, healthy, || {
        let mut jitter = noise(seed, period, period / 10.0);
        Box::new(move |t| ((t - first + jitter(t)) / period + 1.0).floor().max(0.0) * step)
    })
}

pub(super) fn job_stairs(rng: &mut Rng) -> Plan {
    let period = rng.log_range(2.0 * MINUTE, 40.0 * MINUTE);
    let (pace, seed) = steps(rng, period);
    let base = rng.log_range(60.0, 600.0) * MIB;
    let peaks =
        bursts(rng.bits(), period * 1.37, period * 0.3, pace.rate * period * rng.range(0.5, 4.0));
    let healthy = vec![breathing(rng, base), peaks];
    alone(rng, &pace, healthy, || stairs(seed, pace.start, period, pace.rate * period))
}

pub(super) fn minor_gc(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let pace = Pace::constant(rng, start);
    let base = rng.log_range(80.0, 800.0) * MIB;
    let teeth = sawtooth(rng.bits(), rng.log_range(3.0, 60.0), base * rng.range(0.05, 0.5));
    let healthy = vec![breathing(rng, base), teeth];
    alone(rng, &pace, healthy, || ramp(pace.start, pace.rate))
}

pub(super) fn major_gc(rng: &mut Rng) -> Plan {
    two_generations(rng, sawtooth)
}

pub(super) fn odd_gc(rng: &mut Rng) -> Plan {
    two_generations(rng, purges)
}

/// Young collections of seconds and full ones of minutes; `full` makes the teeth of full
/// collections from seed, period and height.
fn two_generations(rng: &mut Rng, full: fn(u64, f64, f64) -> Curve) -> Plan {
    let start = settled(rng);
    let rate = rng.log_range(1e3, 1e6);
    let period = rng.log_range(3.0 * MINUTE, HOUR);
    let pace = Pace::new(rng, rate, start, 20.0 * period);
    let base = rng.log_range(100.0, 1_500.0) * MIB;
    let young = sawtooth(rng.bits(), rng.log_range(2.0, 30.0), base * rng.range(0.03, 0.2));
    let old = full(rng.bits(), period, base * rng.range(0.1, 0.5));
    let healthy = vec![breathing(rng, base), young, old];
    alone(rng, &pace, healthy, || ramp(pace.start, pace.rate))
}

/// Cache that is filled evenly and emptied at irregular times.
pub(super) fn purged(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let rate = rng.log_range(1e3, 1e6);
    let period = rng.log_range(2.0 * MINUTE, 40.0 * MINUTE);
    let pace = Pace::new(rng, rate, start, 20.0 * period);
    let base = rng.log_range(50.0, 1_000.0) * MIB;
    let cache = purges(rng.bits(), period, base * rng.range(0.05, 0.6));
    let healthy = vec![breathing(rng, base), cache];
    alone(rng, &pace, healthy, || ramp(pace.start, pace.rate))
}

pub(super) fn square(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let rate = rng.log_range(3e3, 1e6);
    let pace = Pace::new(rng, rate, start, HOUR);
    let (base, span) = (rng.log_range(40.0, 600.0) * MIB, pace.left / pace.rate);
    let healthy = vec![breathing(rng, base)];
    // Starts at half its mean rate and accelerates linearly, so that the rate has doubled when the
    // headroom ends.
    alone(rng, &pace, healthy, || {
        Box::new(move |t| {
            let age = (t - pace.start).max(0.0);
            pace.rate * age * (0.7 + 0.35 * age / span)
        })
    })
}

pub(super) fn retrying(rng: &mut Rng) -> Plan {
    let start = settled(rng);
    let rate = rng.log_range(3e3, 1e6);
    let pace = Pace::new(rng, rate, start, HOUR);
    let base = rng.log_range(40.0, 600.0) * MIB;
    // Doubles two to five times on the way.
    let doubling = pace.left / pace.rate / rng.range(2.0, 5.0);
    let healthy = vec![breathing(rng, base)];
    alone(rng, &pace, healthy, || {
        Box::new(move |t| {
            let age = (t - pace.start).max(0.0);
            pace.rate * doubling * (libm::exp2(age / doubling) - 1.0) / 4.0
        })
    })
}
