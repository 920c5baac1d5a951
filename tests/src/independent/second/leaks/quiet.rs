//! Leaks that begin after quiet times in processes that were steady.

use super::{Mechanism, leaking, rate, service_of, settled, sized};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::quickening,
        programs::{Kind, Sort, old},
        shapes::{GIB, HOUR, KIB, MIB, MINUTE, Pace},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "quiet-then-leak",
        why: "an old process is steady for minutes to hours, then leaks at any rate",
        scene: then_leak,
    },
    Mechanism {
        name: "quiet-collector",
        why: "a collector of 45 MB beside a process of 10 GB leaks 1 to 1.5 MB a minute",
        scene: collector,
    },
    Mechanism {
        name: "quiet-day",
        why: "a small process loses 60 to 110 MB a day, after two quiet hours",
        scene: per_day,
    },
    Mechanism {
        name: "quiet-fast",
        why: "an old process begins to lose 2 to 50 MB a second",
        scene: fast,
    },
    Mechanism {
        name: "quiet-slow",
        why: "a small daemon begins to lose half a kilobyte to 5 KB a second",
        scene: slow,
    },
    Mechanism {
        name: "quiet-quickens",
        why: "a leak that begins slowly and doubles its rate again and again",
        scene: quickens,
    },
];

/// Quiet time at the start.
fn quiet(rng: &mut Rng) -> f64 {
    rng.log_range(10.0 * MINUTE, 6.0 * HOUR)
}

fn then_leak(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), quiet(rng));
    let rate = rate(rng, program.bound, (0.5 * KIB, 50.0 * MIB), (MINUTE, 22.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn collector(rng: &mut Rng) -> Scene {
    let start = 90.0 * MINUTE * rng.range(0.8, 1.3);
    let (born, bytes, swing) = (old(rng), 45.0 * MIB * rng.range(0.8, 1.2), rng.range(0.01, 0.2));
    let kind = rng.pick(&[Kind::C, Kind::Go, Kind::Python]);
    let program = sized(rng, kind, born, bytes, swing);
    let rate = MIB * rng.range(1.0, 1.5) / MINUTE;
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks(rng, start, rate, pace);
    let (born, bytes, swing) = (old(rng), 10.0 * GIB * rng.range(0.7, 1.3), rng.range(0.01, 0.1));
    let kind = rng.pick(&[Kind::Java, Kind::Cpp]);
    let large = kind.program(rng, ("/system.slice/store.service", "store"), born, bytes, swing);
    let mut scene = leaking(rng, program, vec![large], (start, rate));
    let (total, mut sum) = (64.0 * GIB, 0.0);
    scene.programs.retain(|one| {
        let fits = sum + one.bound < 0.6 * total;
        sum += if fits { one.bound } else { 0.0 };
        fits
    });
    Scene { total: Some(total), ..scene }
}

fn per_day(rng: &mut Rng) -> Scene {
    let start = 2.0 * HOUR * rng.range(0.8, 1.4);
    let kind = rng.pick(&[Kind::C, Kind::Python, Kind::Node, Kind::Go]);
    let (born, bytes, swing) = (old(rng), MIB * rng.log_range(12.0, 140.0), rng.range(0.01, 0.1));
    let program = sized(rng, kind, born, bytes, swing);
    let rate = MIB * rng.range(60.0, 110.0) / (24.0 * HOUR);
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks(rng, start, rate, pace);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn fast(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), rng.log_range(5.0 * MINUTE, 2.0 * HOUR));
    let rate = rate(rng, program.bound, (2.0 * MIB, 50.0 * MIB), (5.0, HOUR));
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn slow(rng: &mut Rng) -> Scene {
    let start = rng.log_range(20.0 * MINUTE, 3.0 * HOUR);
    let born = old(rng);
    let program = service_of(rng, Kind::C, born);
    let rate = rate(rng, program.bound, (0.5 * KIB, 5.0 * KIB), (2.0 * HOUR, 30.0 * HOUR));
    let program = program.leaks(rng, start, rate, Pace::Straight);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn quickens(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), quiet(rng));
    let doubles = rng.log_range(5.0 * MINUTE, 3.0 * HOUR);
    // Due after two to five doublings.
    let times = rng.range(2.0, 5.0);
    let factor = (libm::exp2(times) - 1.0) / std::f64::consts::LN_2;
    let rate = super::need(program.bound) / (doubles * factor);
    let mean = super::need(program.bound) / (doubles * times);
    let program = program.leaking(Sort::Anon, quickening(start, rate, doubles));
    leaking(rng, program, Vec::new(), (start, 2.0 * mean))
}
