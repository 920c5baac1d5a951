//! Kernel memory that is charged to a cgroup and never given back.

use super::{
    Mechanism,
    files::{charged, start},
    rate, service_of, with_kernel,
};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::fits,
        programs::{Kind, Program, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, leak},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "kernel-sockets",
        why: "sockets that nobody reads from keep their buffers, a few more each minute",
        scene: sockets,
    },
    Mechanism {
        name: "kernel-fits",
        why: "pipes, watches and entries of directories stay after each run of a path",
        scene: in_fits,
    },
];

/// Old server of a kind that is not large.
fn server(rng: &mut Rng) -> Program {
    let kind = rng.pick(&[Kind::C, Kind::Node, Kind::Php, Kind::Python]);
    let born = old(rng);
    service_of(rng, kind, born)
}

fn sockets(rng: &mut Rng) -> Scene {
    let (program, start) = (server(rng), start(rng));
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (15.0 * MINUTE, 20.0 * HOUR));
    let grain = KIB * rng.log_range(4.0, 256.0);
    let kernel = leak(rng, start, rate, Pace::Straight, grain);
    let scene = charged(rng, program, start, rate);
    with_kernel(scene, 0.0, kernel)
}

fn in_fits(rng: &mut Rng) -> Scene {
    let (program, start) = (server(rng), start(rng));
    let (every, lasts) = (rng.log_range(30.0, 900.0), rng.log_range(2.0, 120.0));
    let least = 10.0 * (every + lasts);
    let rate = rate(rng, program.bound, (2.0 * KIB, MIB), (least, 20.0 * HOUR));
    let kernel = fits(rng, start, rate, every, lasts);
    let scene = charged(rng, program, start, rate);
    with_kernel(scene, 0.0, kernel)
}
