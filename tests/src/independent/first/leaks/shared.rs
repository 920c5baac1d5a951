//! Leaks of memory that is nobody's alone: shared mappings, files in memory, kernel memory. No
//! process grows, or all that map a segment seem to.

use super::{Mechanism, name, need, rate, service};
use crate::{
    corpus::{manifest::Subject, rng::Rng},
    independent::{
        programs::{Program, Sort, cgroup, neighbours, old},
        shapes::{HOUR, KIB, MIB, MINUTE, Pace, boot, leak, steady},
        world::{Group, Needs, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "shared-mapping",
        why: "a process leaks shared memory that it maps",
        scene: mapping,
    },
    Mechanism {
        name: "shared-files-limited",
        why: "files are left in /dev/shm until the cgroup's limit is near; no process grows",
        scene: files_limited,
    },
    Mechanism {
        name: "shared-files-free",
        why: "files are left in /dev/shm in a cgroup without a limit; no process grows",
        scene: files_free,
    },
    Mechanism {
        name: "shared-processes",
        why: "a helper process is left behind every few seconds to minutes; each is small and flat",
        scene: processes,
    },
    Mechanism {
        name: "shared-kernel",
        why: "sockets, dentries or page tables pile up in a cgroup until its limit is near",
        scene: kernel,
    },
];

fn mapping(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 3.0 * HOUR));
    let program = service(rng, born);
    let rate = rate(rng, &program, (2.0 * KIB, 20.0 * MIB), (3.0 * MINUTE, 10.0 * HOUR));
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad]);
    let program = program.leaks_as(rng, Sort::Shmem, start, rate, pace);
    Scene::leaking(program, start).and(neighbours(rng, 6))
}

/// Children that nobody waits for or ends: a browser, a converter, a shell with a pipe that hangs.
fn processes(rng: &mut Rng) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 2.0 * HOUR));
    let name = name(rng);
    let path = cgroup(rng, name);
    let bytes = MIB * rng.log_range(20.0, 300.0);
    let program = Program::new(rng, name, &path, born);
    let part = steady(rng, bytes, 0.002);
    let program = program.anon(bytes, part);
    let each = MIB * rng.log_range(1.0, 10.0);
    let rate = rate(rng, &program, (2.0 * KIB, MIB), (10.0 * MINUTE, 5.0 * HOUR));
    let rate = rate.min(each / 2.0);
    let (mut left, mut at) = (Vec::new(), start);
    while (left.len() as f64) * each < 2.0 * need(&program) {
        let mut child = Program::new(rng, "converter", &path, at);
        let (size, takes) = (each * rng.range(0.7, 1.3), rng.range(0.1, 3.0));
        child = child.anon(0.0, boot(size, takes));
        child.parts.iter_mut().for_each(|part| part.leaks = true);
        left.push(child);
        at += each / rate * (0.3 + 0.7 * rng.exponential());
    }
    let mut scene = Scene::leaking(program, start).and(left).and(neighbours(rng, 4));
    scene.subject = Subject { cgroup: path, comm: String::new() };
    scene.size_of_all = true;
    scene
}

/// Cgroup that leaks beside its processes: two small ones, as in a container with a helper.
fn beside(rng: &mut Rng, limited: bool, kernel: bool) -> Scene {
    let (born, start) = (old(rng), rng.log_range(3.0 * MINUTE, 2.0 * HOUR));
    let name = name(rng);
    let path = cgroup(rng, name);
    let bytes = MIB * rng.log_range(4.0, 150.0);
    let program = Program::new(rng, name, &path, born);
    let part = steady(rng, bytes, 0.002);
    let program = program.anon(bytes, part);
    let helper = Program::new(rng, "helper", &path, born + 1.0);
    let part = steady(rng, 5.0 * MIB, 0.002);
    let helper = helper.anon(5.0 * MIB, part);
    let rate = rate(rng, &program, (8.0 * KIB, 8.0 * MIB), (5.0 * MINUTE, 8.0 * HOUR));
    let grain = if kernel { 4.0 * KIB } else { (MIB * rng.log_range(0.01, 4.0)).min(60.0 * rate) };
    let pace = rng.pick(&[Pace::Straight, Pace::Straight, Pace::WithLoad]);
    let shape = leak(rng, start, rate, pace, grain);
    let room = need(&program) + program.bound;
    let mut group = Group { leaks: true, ..Group::new(&path) };
    group.max = limited.then(|| (room + 16.0 * MIB) * rng.log_range(1.3, 4.0));
    group.cache = MIB * rng.log_range(1.0, 200.0);
    if kernel {
        group.kernel = Some(shape);
    } else {
        group.files = Some(shape);
    }
    let mut scene = Scene::leaking(program, start).and([helper]).and(neighbours(rng, 4));
    scene.subject = Subject { cgroup: path, comm: String::new() };
    scene.groups.push(group);
    // Without facts about cgroups, only a limit shows what is charged besides processes.
    let cgroups = kernel || !limited;
    scene.needs = Needs { cgroups, ..Needs::default() };
    scene
}

fn files_limited(rng: &mut Rng) -> Scene {
    beside(rng, true, false)
}

fn files_free(rng: &mut Rng) -> Scene {
    beside(rng, false, false)
}

fn kernel(rng: &mut Rng) -> Scene {
    beside(rng, true, true)
}
