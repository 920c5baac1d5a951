//! Shared and kernel memory that comes and goes, and cgroups that are full of page cache.

use super::{Mechanism, name, scene};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{Program, Sort, cgroup, old},
        shapes::{HOUR, MIB, Teeth, heaps, steady},
        world::{Group, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "shm-segments",
        why: "segments in /dev/shm are made and removed within minutes, as data loaders do",
        scene: segments,
    },
    Mechanism {
        name: "tmpfs-rotated",
        why: "logs in memory grow and are rotated, by less than a quarter of the cgroup",
        scene: rotated,
    },
    Mechanism {
        name: "limit-full-of-cache",
        why: "page cache fills a cgroup to its limit; what cannot be dropped stays flat",
        scene: full_of_cache,
    },
    Mechanism {
        name: "kernel-memory-settles",
        why: "dentries and sockets pile up to what the kernel keeps, fast at first",
        scene: kernel_settles,
    },
    Mechanism {
        name: "shm-ring",
        why: "a ring in shared memory is touched once around within minutes; it was there before",
        scene: ring,
    },
];

fn holder(rng: &mut Rng) -> (Program, f64) {
    let name = name(rng);
    let (path, bytes, born) = (cgroup(rng, name), MIB * rng.log_range(40.0, 1_500.0), old(rng));
    let part = steady(rng, bytes, 0.003);
    (Program::new(rng, name, &path, born).anon(bytes, part), bytes)
}

fn with_group(rng: &mut Rng, program: Program, group: Group, more: f64, limited: bool) -> Scene {
    let max = limited.then(|| (program.bound + more + 16.0 * MIB) * rng.log_range(1.15, 4.0));
    let secs = rng.range(1.5, 6.0) * HOUR;
    let mut scene = scene(rng, program, secs);
    scene.groups.push(Group { max, ..group });
    scene.room = more;
    scene
}

fn segments(rng: &mut Rng) -> Scene {
    let (program, bytes) = holder(rng);
    let (size, secs) = (bytes * rng.range(0.1, 1.0), rng.log_range(5.0, 600.0));
    let saw = Teeth { bytes: size, secs, ragged: 0.5, keeps: 0.0, phase: None }.shape(rng);
    let group = Group { files: Some(saw), ..Group::new(&program.cgroup) };
    let limited = rng.chance(0.6);
    with_group(rng, program, group, 2.0 * size, limited)
}

fn rotated(rng: &mut Rng) -> Scene {
    let (program, bytes) = holder(rng);
    let (size, secs) = (bytes * rng.range(0.05, 0.22), rng.log_range(600.0, 4.0 * HOUR));
    let saw = Teeth { bytes: size, secs, ragged: 0.05, keeps: 0.0, phase: None }.shape(rng);
    let group = Group { files: Some(saw), ..Group::new(&program.cgroup) };
    let limited = rng.chance(0.6);
    with_group(rng, program, group, 1.2 * size, limited)
}

fn full_of_cache(rng: &mut Rng) -> Scene {
    let (program, bytes) = holder(rng);
    let group = Group { cache: bytes * rng.range(4.0, 20.0), ..Group::new(&program.cgroup) };
    with_group(rng, program, group, 0.1 * bytes, true)
}

fn kernel_settles(rng: &mut Rng) -> Scene {
    let (program, bytes) = holder(rng);
    let (size, tau) = (bytes * rng.range(0.1, 1.0), rng.log_range(10.0, 200.0));
    let mut piles = heaps(size, tau, 1.5);
    let at = rng.range(0.0, HOUR);
    let kernel = Box::new(move |now: &crate::independent::shapes::Now| {
        piles(&crate::independent::shapes::Now { age: now.t - at, ..*now })
    });
    let group = Group { kernel: Some(kernel), ..Group::new(&program.cgroup) };
    let limited = rng.chance(0.6);
    with_group(rng, program, group, size, limited)
}

/// Another process of the cgroup has the ring mapped and touched.
fn ring(rng: &mut Rng) -> Scene {
    let (program, bytes) = holder(rng);
    let (size, at) = (bytes * rng.range(0.3, 4.0), rng.range(0.0, 2.0) * HOUR);
    let secs = rng.log_range(10.0, 1_800.0);
    let path = program.cgroup.clone();
    let writer = Program::new(rng, "ring-writer", &path, program.born);
    let part = steady(rng, 20.0 * MIB, 0.002);
    let writer = writer.anon(20.0 * MIB, part).with(Sort::Common, size, Box::new(move |_| size));
    let reads = Box::new(move |now: &crate::independent::shapes::Now| {
        size * ((now.t - at) / secs).clamp(0.0, 1.0)
    });
    let program = program.with(Sort::Common, 0.0, reads);
    let group = Group::new(&path);
    let limited = rng.chance(0.6);
    with_group(rng, program, group, size, limited).and([writer])
}
