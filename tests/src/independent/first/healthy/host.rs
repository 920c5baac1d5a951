//! Effects of the host and its kernel: swap, huge pages, crowds, quiet.

use super::{Mechanism, scene, service};
use crate::{
    corpus::rng::Rng,
    independent::{
        first::leaks::jobs,
        programs::{Sort, neighbours, old},
        shapes::{HOUR, MINUTE, script},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "quiet-host",
        why: "settled services for half a day, and nothing else",
        scene: quiet,
    },
    Mechanism { name: "cron-crowd", why: "short jobs come and go by the minute", scene: crowd },
    Mechanism {
        name: "swap-out-and-in",
        why: "what was not used is swapped out and comes back: resident memory climbs, its sum does not",
        scene: swap,
    },
    Mechanism {
        name: "huge-pages",
        why: "khugepaged fills gaps of a sparse heap, 2 MB at a time, by less than a quarter of its size",
        scene: huge_pages,
    },
];

fn quiet(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let secs = rng.range(6.0, 24.0) * HOUR;
    let mut scene = scene(rng, program, secs);
    scene.interval = Some(2.0);
    scene.and(neighbours(rng, 4))
}

fn crowd(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let (secs, every) = (rng.range(0.5, 2.5) * HOUR, rng.log_range(1.0, 20.0));
    let jobs = jobs(rng, secs, every);
    scene(rng, program, secs).and(jobs)
}

fn swap(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let cold = program.bound * rng.range(0.2, 2.0);
    let (out, takes) = (rng.range(-60.0, 60.0) * MINUTE, rng.log_range(30.0, 3_600.0));
    let (back, comes) = (out + takes + rng.range(0.1, 2.0) * HOUR, rng.log_range(5.0, 3_600.0));
    let away = [(out, 0.0), (out + takes, 1.0), (back, 1.0), (back + comes, 0.0)];
    let swapped = away.iter().map(|(t, share)| (*t, cold * share)).collect();
    let resident = away.iter().map(|(t, share)| (*t, cold * (1.0 - share))).collect();
    let program = program.anon(cold, script(resident)).with(Sort::Swap, 0.0, script(swapped));
    scene(rng, program, (back + comes).max(0.0) + HOUR)
}

fn huge_pages(rng: &mut Rng) -> Scene {
    let born = old(rng);
    let program = service(rng, born);
    let (more, tau) = (program.bound * rng.range(0.05, 0.22), rng.log_range(120.0, 2.0 * HOUR));
    let at = rng.range(-0.5, 1.0) * HOUR;
    let grown = Box::new(move |now: &crate::independent::shapes::Now| {
        let huge = 2_097_152.0;
        libm::floor(more * (1.0 - libm::exp(-(now.t - at).max(0.0) / tau)) / huge) * huge
    });
    let program = program.anon(more, grown);
    let secs = rng.range(2.0, 8.0) * HOUR;
    scene(rng, program, secs)
}
