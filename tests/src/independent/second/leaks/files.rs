//! Leaks in files and memory that are charged to a cgroup, or to all who map them.

use super::{Mechanism, leaking, pools::Pool, rate, settled, with_files};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::fits,
        programs::{Program, Sort, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, leak, steady},
        world::{Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "tmpfs-left",
        why: "temporary files in a tmpfs are left behind by requests that fail",
        scene: left,
    },
    Mechanism {
        name: "memfd-segments",
        why: "segments of 1 to 16 MB in shared memory are made for each client, and none removed",
        scene: segments,
    },
    Mechanism {
        name: "shm-mapped",
        why: "a process maps more and more shared memory, which nobody else maps",
        scene: mapped,
    },
    Mechanism {
        name: "shm-pool-grows",
        why: "workers share a region whose entries are never freed; each maps all of it",
        scene: pool_grows,
    },
];

pub(super) fn start(rng: &mut Rng) -> f64 {
    if rng.chance(0.3) {
        -rng.log_range(MINUTE, 3.0 * HOUR)
    } else {
        rng.log_range(5.0 * MINUTE, 3.0 * HOUR)
    }
}

/// Scene whose subject is a cgroup, not a process.
pub(super) fn charged(rng: &mut Rng, program: Program, start: f64, rate: f64) -> Scene {
    let mut scene = leaking(rng, program, Vec::new(), (start, rate));
    scene.subject.comm.clear();
    scene.needs = Needs { cgroups: true, ..scene.needs };
    super::group(&mut scene).leaks = true;
    scene
}

fn left(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), start(rng));
    let (every, lasts) = (rng.log_range(20.0, 600.0), rng.log_range(5.0, 120.0));
    let least = 10.0 * (every + lasts);
    let rate = rate(rng, program.bound, (4.0 * KIB, 4.0 * MIB), (least, 20.0 * HOUR));
    let files = fits(rng, start, rate, every, lasts);
    let scene = charged(rng, program, start, rate);
    with_files(scene, 0.0, files)
}

fn segments(rng: &mut Rng) -> Scene {
    let (program, start) = (settled(rng), start(rng));
    let most = super::need(program.bound) / 10.0;
    let segment = (MIB * rng.log_range(1.0, 16.0)).min(most);
    let rate = rate(rng, program.bound, (4.0 * KIB, MIB), (20.0 * MINUTE, 20.0 * HOUR));
    let files = leak(rng, start, rate, Pace::Stairs(segment), 4.0 * KIB);
    let scene = charged(rng, program, start, rate);
    with_files(scene, 0.0, files)
}

fn mapped(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let start = start(rng).max(program.born + MINUTE);
    let ring = MIB * rng.log_range(2.0, 200.0);
    let program = program.with(Sort::Shmem, ring, steady(rng, ring, 0.0));
    let rate = rate(rng, program.bound, (4.0 * KIB, 4.0 * MIB), (10.0 * MINUTE, 20.0 * HOUR));
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks_as(rng, Sort::Shmem, start, rate, pace);
    leaking(rng, program, Vec::new(), (start, rate))
}

fn pool_grows(rng: &mut Rng) -> Scene {
    let (pool, count, born) = (Pool::new(rng), 2 + rng.below(10), old(rng));
    let start = start(rng).max(born + MINUTE);
    let region = MIB * rng.log_range(8.0, 100.0);
    let master = pool.master(rng, born);
    let master = master.with(Sort::Common, region, steady(rng, region, 0.0));
    let rate = rate(rng, master.bound, (4.0 * KIB, 2.0 * MIB), (15.0 * MINUTE, 20.0 * HOUR));
    let grain = rng.pick(&[4.0, 64.0, 1_024.0]) * KIB;
    // All see one region: their shapes are the same.
    let seed = rng.clone();
    let grows = || leak(&mut seed.clone(), start, rate, Pace::Straight, grain);
    let master = master.leaking(Sort::Common, grows());
    let others = (0..count)
        .map(|_| {
            let worker = pool.worker(rng, born + 1.0);
            let worker = worker.with(Sort::Common, 0.0, steady(rng, region, 0.0));
            worker.with(Sort::Common, 0.0, grows())
        })
        .collect();
    let scene = leaking(rng, master, others, (start, rate));
    Scene { needs: Needs { cgroups: true, ..scene.needs }, ..scene }
}
