//! Files in memory and kernel memory of a cgroup, and programs that share them.

use super::{Mechanism, complete, fillable, settled, small, with_files, with_kernel};
use crate::{
    corpus::rng::Rng,
    independent::{
        growth::{from, root, rotated},
        loads::bursty_load,
        programs::Program,
        shapes::{HOUR, MIB, MINUTE, Now, Shape, bursts, saturating, with_load},
        world::Scene,
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "logs-rotated",
        why: "logs in a tmpfs fill and are cut, below a quarter of the cgroup's size",
        scene: logs,
    },
    Mechanism {
        name: "uploads",
        why: "uploads lie in a tmpfs for seconds to minutes, some of them large, and go",
        scene: uploads,
    },
    Mechanism {
        name: "tmpfs-cache",
        why: "a cache of files in a tmpfs fills as what is missing gets rarer: its rate falls",
        scene: cache,
    },
    Mechanism {
        name: "dentries",
        why: "the kernel remembers names of files that were looked up, ever fewer of them new",
        scene: dentries,
    },
    Mechanism {
        name: "page-tables",
        why: "page tables follow what a process maps, far below a quarter of its size",
        scene: page_tables,
    },
];

/// Length of a run.
fn length(rng: &mut Rng) -> f64 {
    rng.log_range(0.7, 8.0) * HOUR
}

/// Scene about a program whose cgroup has files, of so many bytes at most.
fn filed(rng: &mut Rng, (program, secs): (Program, f64), bytes: f64, files: Shape) -> Scene {
    let mut scene = with_files(Scene::healthy(program, secs), bytes, files);
    scene.needs.cgroups = true;
    complete(rng, scene)
}

fn logs(rng: &mut Rng) -> Scene {
    let (program, secs) = (settled(rng), length(rng));
    let bytes = small(program.bound) * rng.range(0.2, 1.0);
    let cycle = rng.log_range(2.0 * MINUTE, 3.0 * HOUR);
    let files = rotated(rng, bytes, cycle);
    filed(rng, (program, secs), bytes, files)
}

fn uploads(rng: &mut Rng) -> Scene {
    let (program, secs) = (settled(rng), length(rng));
    let bytes = MIB * rng.log_range(10.0, 1_000.0);
    let (every, lasts) = (rng.log_range(15.0, 600.0), rng.log_range(3.0, 50.0));
    let files = bursts(rng, bytes, every, lasts);
    filed(rng, (program, secs), 2.0 * bytes, files)
}

fn cache(rng: &mut Rng) -> Scene {
    let program = settled(rng);
    let bytes = fillable(program.bound) * rng.range(0.2, 0.9);
    let (at, tau) = (rng.log_range(MINUTE, HOUR), rng.log_range(2.0 * MINUTE, HOUR));
    let files = from(at, saturating(bytes, tau));
    let secs = at + tau * rng.range(2.0, 5.0);
    filed(rng, (program, secs), bytes, files)
}

fn dentries(rng: &mut Rng) -> Scene {
    let (program, secs) = (settled(rng), length(rng));
    let bytes = fillable(program.bound) * rng.range(0.1, 0.8);
    let at = rng.log_range(MINUTE, HOUR);
    let kernel = from(at, root(bytes, secs));
    let mut scene = with_kernel(Scene::healthy(program, at + secs), bytes, kernel);
    scene.needs.cgroups = true;
    complete(rng, scene)
}

fn page_tables(rng: &mut Rng) -> Scene {
    let (program, secs) = (settled(rng), length(rng));
    let bytes = small(program.bound) * rng.range(0.1, 0.5);
    let (mut load, lag) = (bursty_load(rng), rng.log_range(20.0, 600.0));
    let mut follows = with_load(0.03 * bytes, lag);
    let kernel =
        Box::new(move |now: &Now| follows(&Now { load: load(now.t, now.dt), ..*now }).min(bytes));
    let mut scene = with_kernel(Scene::healthy(program, secs), bytes, kernel);
    scene.needs.cgroups = true;
    complete(rng, scene)
}
