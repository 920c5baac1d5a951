//! Second set, held out since 2026-11-29.

pub(super) mod healthy;
pub(super) mod leaks;

use super::{
    programs::{KINDS, Kind, Program, cgroup, neighbours, old},
    shapes::{MIB, Shape},
    world::{Group, Scene},
};
use crate::corpus::rng::Rng;

/// Neighbours of a scene that takes so many seconds: long ones are expensive.
fn company(rng: &mut Rng, secs: f64) -> Vec<Program> {
    let count = if secs > 14_400.0 { 5 + rng.below(7) } else { 4 + rng.below(12) };
    neighbours(rng, count)
}

/// Interval between scans of a scene that takes so many seconds; `None` for the usual.
fn interval(secs: f64) -> Option<f64> {
    (secs > 18_000.0).then_some(5.0)
}

/// Name of the service that a run is about.
fn name(rng: &mut Rng) -> &'static str {
    rng.pick(&[
        "checkout", "profile", "ledger", "tiles", "matcher", "notify", "proxy", "quotes", "render",
        "session", "stream", "upload", "vault", "worker",
    ])
}

/// Service of this kind and size, born at `born`, of which `swing` comes and goes.
fn sized(rng: &mut Rng, kind: Kind, born: f64, bytes: f64, swing: f64) -> Program {
    let (name, comm) = (name(rng), kind.comm(rng));
    let group = cgroup(rng, name);
    kind.program(rng, (&group, comm), born, bytes, swing)
}

/// Service of this kind, of any size.
fn service_of(rng: &mut Rng, kind: Kind, born: f64) -> Program {
    let (bytes, swing) = (kind.size(rng), rng.log_range(0.02, 0.5));
    sized(rng, kind, born, bytes, swing)
}

/// Service of any kind.
fn service(rng: &mut Rng, born: f64) -> Program {
    let kind = rng.pick(&KINDS);
    service_of(rng, kind, born)
}

/// Service of any kind that has run for long.
fn settled(rng: &mut Rng) -> Program {
    let born = old(rng);
    service(rng, born)
}

/// Same workload as that of another program: its cgroup and name.
fn beside(rng: &mut Rng, other: &Program, kind: Kind, born: f64, bytes: f64) -> Program {
    let swing = rng.log_range(0.01, 0.1);
    kind.program(rng, (&other.cgroup, &other.comm), born, bytes, swing)
}

/// Bytes that a leak in these programs takes until it is due.
fn need(bound: f64) -> f64 {
    (64.0 * MIB).max(0.5 * bound)
}

/// Bytes that the programs of the subject may reach without a leak.
fn bound(scene: &Scene) -> f64 {
    let own = scene.programs.iter().filter(|one| one.cgroup == scene.subject.cgroup);
    own.map(|one| one.bound).sum()
}

/// Group of the subject, with what it has of its own.
fn group(scene: &mut Scene) -> &mut Group {
    let path = scene.subject.cgroup.clone();
    let place = scene.groups.iter().position(|group| group.path == path).unwrap_or_else(|| {
        scene.groups.push(Group::new(&path));
        scene.groups.len() - 1
    });
    &mut scene.groups[place]
}

/// Scene whose cgroup has a limit, in half of the runs, and page cache, in most. The limit is above
/// what the subject may reach and `room` besides.
fn limited(rng: &mut Rng, mut scene: Scene) -> Scene {
    let processes = scene.programs.len() as f64;
    let most = (bound(&scene) + scene.room) * 1.02 + (24.0 + processes) * MIB;
    let max = rng.chance(0.5).then(|| most * rng.log_range(1.1, 3.0));
    let cache = if rng.chance(0.7) { most * rng.log_range(0.01, 0.6) } else { 0.0 };
    let group = group(&mut scene);
    (group.max, group.cache) = (max, cache);
    scene
}

/// Scene whose cgroup has these files in memory, which no process maps.
fn with_files(mut scene: Scene, bytes: f64, files: Shape) -> Scene {
    scene.room += bytes;
    group(&mut scene).files = Some(files);
    scene
}

/// Scene whose cgroup has this kernel memory beyond the usual.
fn with_kernel(mut scene: Scene, bytes: f64, kernel: Shape) -> Scene {
    scene.room += bytes;
    group(&mut scene).kernel = Some(kernel);
    scene
}
