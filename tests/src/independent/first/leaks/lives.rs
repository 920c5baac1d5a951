//! Crash loops: a leak that reaches its cgroup's limit, is killed and begins anew, for hours. Each
//! life is short; together they are the plainest leak of all.

use super::{Mechanism, name};
use crate::{
    corpus::{manifest::Subject, rng::Rng},
    independent::{
        programs::{Kind, cgroup, neighbours, pod},
        shapes::{HOUR, MIB, MINUTE, Pace},
        world::{Group, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "lives-container",
        why: "killed at the limit every three to forty minutes and restarted in the same cgroup",
        scene: container,
    },
    Mechanism {
        name: "lives-pod",
        why: "OOMKilled every ten to thirty minutes; each restart has a container cgroup of its own",
        scene: pod_loop,
    },
    Mechanism {
        name: "lives-short",
        why: "lives of one to five minutes, with a growing back-off between them",
        scene: short,
    },
    Mechanism {
        name: "lives-long",
        why: "killed every two to five hours by a slow leak",
        scene: long,
    },
];

fn scene(rng: &mut Rng, (least, most): (f64, f64), in_pod: bool, backs_off: bool) -> Scene {
    let (name, life) = (name(rng), rng.log_range(least, most));
    let kind = rng.pick(&[Kind::Python, Kind::Node, Kind::Go, Kind::Cpp, Kind::C, Kind::Ruby]);
    let comm = kind.comm(rng);
    let bytes = MIB * rng.log_range(20.0, 1_000.0);
    let parent = if in_pod { pod(rng) } else { cgroup(rng, name) };
    let path = move |rng: &mut Rng| {
        if !in_pod {
            return parent.clone();
        }
        format!("{parent}/cri-containerd-{:016x}{:016x}.scope", rng.bits(), rng.bits())
    };
    // Limits are round, and at least half as much again as what is needed.
    let max = libm::ceil(bytes * rng.log_range(1.6, 6.0) / MIB / 64.0) * 64.0 * MIB;
    let rate = (max - 1.1 * bytes) / life;
    let (swing, wanders) = (rng.range(0.0, 0.1), rng.range(0.02, 0.25));
    let pace = rng.pick(&[Pace::Straight, Pace::WithLoad, Pace::WithLoad]);
    let make = move |rng: &mut Rng, path: &str, born: f64| {
        let program = kind.program(rng, (path, comm), born, bytes, swing);
        let (start, own) =
            (born + rng.range(1.0, 8.0), rate * (1.0 + wanders * (rng.unit() - 0.5)));
        program.leaks(rng, start, own, pace)
    };
    // Met in the middle of a life, or started under watch.
    let met = rng.chance(0.5);
    let born = if met { -rng.unit() * 0.9 * life } else { rng.range(5.0, 600.0) };
    let first_path = path(rng);
    let first = make(rng, &first_path, born);
    let start = if met { born.min(-1.0) } else { born };
    let subject = Subject {
        // The pod is the workload.
        cgroup: first_path
            .rsplit_once("/cri-")
            .filter(|_| in_pod)
            .map_or_else(|| first_path.clone(), |(pod, _)| pod.to_owned()),
        comm: comm.to_owned(),
    };
    let group =
        Group { max: Some(max), cache: bytes * rng.range(0.0, 0.3), ..Group::new(&first_path) };
    let mut scene = Scene::leaking(first, start).and(neighbours(rng, 3));
    scene.subject = subject;
    scene.groups.push(group);
    scene.loops = true;
    scene.room = max;
    scene.secs = 6.0 * most + 2.0 * HOUR;
    scene.rebirth = Some(Box::new(move |rng, lives, t| {
        // Kubernetes: 10 s, doubled up to five minutes.
        let pause = if backs_off {
            (10.0 * libm::pow(2.0, lives as f64 - 1.0)).min(300.0)
        } else {
            rng.range(0.1, 5.0)
        };
        let born = t + pause;
        let path = path(rng);
        (born, make(rng, &path, born))
    }));
    scene
}

fn container(rng: &mut Rng) -> Scene {
    scene(rng, (3.0 * MINUTE, 40.0 * MINUTE), false, false)
}

fn pod_loop(rng: &mut Rng) -> Scene {
    scene(rng, (10.0 * MINUTE, 30.0 * MINUTE), true, true)
}

fn short(rng: &mut Rng) -> Scene {
    let in_pod = rng.chance(0.5);
    scene(rng, (MINUTE, 5.0 * MINUTE), in_pod, true)
}

fn long(rng: &mut Rng) -> Scene {
    let in_pod = rng.chance(0.5);
    scene(rng, (2.0 * HOUR, 5.0 * HOUR), in_pod, false)
}
