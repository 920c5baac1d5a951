//! Leaks of the second set, by the circumstances in which they are met.

mod birth;
mod files;
mod kernel;
mod lives;
mod masked;
mod pools;
mod quiet;
mod running;
mod runtimes;
mod uneven;

use super::{
    beside, bound, company, group, interval, limited, name, need, service, service_of, settled,
    sized, with_files, with_kernel,
};
use crate::{
    corpus::rng::Rng,
    independent::{
        Mechanism,
        programs::Program,
        shapes::{DAY, HOUR, MINUTE},
        world::Scene,
    },
};

pub(super) use pools::Pool;

/// Groups of leaking mechanisms.
pub(in crate::independent) const GROUPS: &[&[Mechanism]] = &[
    birth::MECHANISMS,
    running::MECHANISMS,
    quiet::MECHANISMS,
    masked::MECHANISMS,
    uneven::MECHANISMS,
    runtimes::MECHANISMS,
    pools::MECHANISMS,
    files::MECHANISMS,
    kernel::MECHANISMS,
    lives::MECHANISMS,
];

/// Rate between these bounds in bytes a second at which a leak in so many bytes is due after `least`
/// to `most` seconds, as far as the bounds allow.
fn rate(rng: &mut Rng, bound: f64, bounds: (f64, f64), (least, most): (f64, f64)) -> f64 {
    let (slowest, fastest) = (need(bound) / most, need(bound) / least);
    let (low, high) = (bounds.0.max(slowest), bounds.1.min(fastest));
    if low < high { rng.log_range(low, high) } else { low.min(bounds.1) }
}

/// Time in which a leak at this mean rate is due, and is then watched further.
fn lasting(bound: f64, start: f64, rate: f64) -> f64 {
    let spent = (need(bound) / rate).clamp(MINUTE, DAY);
    let unseen = if start < 0.0 { 25.0 * MINUTE } else { 0.0 };
    spent + unseen + (0.2 * (spent + unseen)).clamp(300.0, HOUR)
}

/// Scene about a program that leaks from `start` on at this mean rate, among programs of its own
/// workload. `start` is before 0 if the leak was not seen to begin.
fn leaking(
    rng: &mut Rng,
    program: Program,
    others: Vec<Program>,
    (start, rate): (f64, f64),
) -> Scene {
    let scene = Scene::leaking(program, start).and(others);
    let held = rate * (-start).max(0.0);
    let size = bound(&scene) + held;
    let lasts = lasting(size, start, rate);
    let secs = start.max(0.0) + lasts;
    let scene = Scene {
        room: held + 0.2 * need(size) + 1.3 * rate * lasts.max(600.0),
        secs: start.max(0.0) + 27.0 * HOUR,
        interval: interval(secs),
        ..scene
    };
    let scene = limited(rng, scene);
    scene.and(company(rng, secs))
}
