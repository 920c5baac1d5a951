//! Restarts: releases that are heavier, releases in a row, and loops that are no leak.

use super::{Mechanism, name, scene, service};
use crate::{
    corpus::rng::Rng,
    independent::{
        programs::{KINDS, Program, cgroup, old},
        shapes::{HOUR, MIB, MINUTE, aged, heaps},
        world::{Group, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "release-heavier",
        why: "a release needs up to three times as much as the one before, at once",
        scene: heavier,
    },
    Mechanism {
        name: "releases-in-a-row",
        why: "deployed again and again; each warms up, slower and slower",
        scene: in_a_row,
    },
    Mechanism {
        name: "host-boot",
        why: "all services of a host start with the agent: libraries, connections, caches, pools",
        scene: host_boot,
    },
    Mechanism {
        name: "crash-loop-by-itself",
        why: "fails soon after each start for want of a configuration, far from its limit",
        scene: crash_loop,
    },
    Mechanism {
        name: "jobs-below-limit",
        why: "one job after the other climbs alike to half of its limit, is done and ends",
        scene: jobs_below_limit,
    },
];

fn heavier(rng: &mut Rng) -> Scene {
    let kind = rng.pick(&KINDS);
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    let before = cgroup(rng, name);
    let after = if rng.chance(0.5) { before.clone() } else { cgroup(rng, name) };
    let (deployed, swing) = (rng.range(2.0, 180.0) * MINUTE, rng.log_range(0.03, 0.5));
    let born = old(rng);
    let previous = kind.program(rng, (&before, comm), born, bytes, swing).until(deployed);
    let (bytes, born) = (bytes * rng.range(1.1, 3.0), deployed + rng.log_range(0.2, 30.0));
    let mut program = kind.program(rng, (&after, comm), born, bytes, swing);
    // A settled cache that the next one fills again.
    if rng.chance(0.5) {
        let (cache, tau) = (program.bound * rng.range(0.1, 1.0), rng.log_range(10.0, 400.0));
        program = program.anon(cache, heaps(cache, tau, 1.0));
    }
    scene(rng, program, deployed + 2.5 * HOUR).and([previous])
}

fn in_a_row(rng: &mut Rng) -> Scene {
    let kind = rng.pick(&KINDS);
    let (name, bytes, comm) = (name(rng), kind.size(rng), kind.comm(rng));
    let unit = cgroup(rng, name);
    let same = rng.chance(0.5);
    let secs = rng.range(2.0, 8.0) * HOUR;
    let (cache, tau) = (bytes * rng.range(0.2, 2.0), rng.log_range(10.0, 400.0));
    let (mut lives, mut born) = (Vec::new(), -rng.log_range(20.0 * MINUTE, 200.0 * HOUR));
    while born < secs {
        let dies = born.max(0.0) + rng.log_range(4.0 * MINUTE, 2.0 * HOUR);
        let path = if same { unit.clone() } else { cgroup(rng, name) };
        let size = bytes * rng.range(0.95, 1.1);
        let life = kind.program(rng, (&path, comm), born, size, 0.2).until(dies);
        let mut life = life.anon(cache, heaps(cache, tau, 1.0));
        if born >= 0.0 {
            life.bound = 0.0;
        }
        lives.push(life);
        born = dies + rng.range(0.2, 15.0);
    }
    let rest = lives.split_off(1);
    let Some(first) = lives.pop() else { unreachable!("one life at least") };
    let mut scene = scene(rng, first, secs).and(rest);
    scene.room = 1.5 * (bytes + cache);
    scene
}

fn host_boot(rng: &mut Rng) -> Scene {
    let mut services: Vec<Program> = (0..5 + rng.below(12))
        .map(|_| {
            let born = rng.range(0.5, 120.0);
            let service = service(rng, born);
            let (share, tau) = (rng.range(0.1, 2.0), rng.log_range(10.0, 400.0));
            let (cache, power) = (share * service.bound, rng.range(0.6, 2.0));
            service.anon(cache, heaps(cache, tau, power))
        })
        .collect();
    let first = services.remove(0);
    let secs = rng.range(1.0, 10.0) * HOUR;
    Scene::healthy(first, secs).and(services)
}

fn crash_loop(rng: &mut Rng) -> Scene {
    let (path, bytes) = (cgroup(rng, "broken"), MIB * rng.log_range(20.0, 600.0));
    let secs = rng.range(1.0, 5.0) * HOUR;
    let (mut lives, mut born, mut pause) = (Vec::new(), rng.range(-60.0, 600.0), 10.0_f64);
    let takes = rng.log_range(3.0, 120.0);
    while born < secs {
        let dies = born + takes * rng.range(0.8, 1.3);
        let life = Program::new(rng, "broken", &path, born).until(dies);
        lives.push(life.anon(0.0, aged(vec![(0.0, 0.0), (takes, bytes)])));
        born = dies + pause;
        pause = (2.0 * pause).min(300.0);
    }
    let rest = lives.split_off(1);
    let Some(first) = lives.pop() else { unreachable!("one life at least") };
    let group = Group { max: Some(bytes * rng.range(2.5, 8.0)), ..Group::new(&path) };
    let mut scene = scene(rng, first, secs).and(rest);
    scene.groups.push(group);
    scene.room = 2.0 * bytes;
    scene
}

fn jobs_below_limit(rng: &mut Rng) -> Scene {
    let (path, bytes) = (cgroup(rng, "cronjob"), MIB * rng.log_range(50.0, 3_000.0));
    let (secs, takes) = (rng.range(1.0, 5.0) * HOUR, rng.log_range(40.0, 600.0));
    let (mut lives, mut born) = (Vec::new(), -rng.unit() * takes);
    while born < secs {
        let (own, size) = (takes * rng.range(0.7, 1.2), bytes * rng.range(0.7, 1.0));
        let life = Program::new(rng, "cronjob", &path, born).until(born + own);
        lives.push(life.anon(0.0, aged(vec![(0.0, 0.0), (own, size)])));
        born += own + rng.log_range(1.0, 600.0);
    }
    let rest = lives.split_off(1);
    let Some(first) = lives.pop() else { unreachable!("one life at least") };
    let max = bytes * rng.range(1.4, 2.5);
    let group = Group { max: Some(max), cache: 0.3 * bytes, ..Group::new(&path) };
    let mut scene = scene(rng, first, secs).and(rest);
    scene.groups.push(group);
    scene.room = 2.0 * bytes;
    scene
}
