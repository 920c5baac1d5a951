//! Crash loops: lives that leak until they are killed at the limit of their cgroup.

use super::{Mechanism, company, name};
use crate::{
    corpus::rng::Rng,
    independent::{
        loads::bursty_load,
        programs::{Kind, Program, pod},
        shapes::{HOUR, MIB, MINUTE, Pace, saturating},
        world::{Group, Scene},
    },
};

pub(super) const MECHANISMS: &[Mechanism] = &[
    Mechanism {
        name: "lives-restarted",
        why: "systemd starts the service again each time it is killed at its limit",
        scene: restarted,
    },
    Mechanism {
        name: "lives-containers",
        why: "each restart of a pod's container has a new cgroup, and the leak is the same",
        scene: containers,
    },
    Mechanism {
        name: "lives-uneven",
        why: "lives of different length, since the load that leaks comes in bursts",
        scene: uneven,
    },
    Mechanism {
        name: "lives-under-way",
        why: "the loop has gone on for hours when the agent starts within a life",
        scene: under_way,
    },
];

/// Parameters that all lives of a loop share.
#[derive(Debug, Clone)]
struct Loop {
    comm: &'static str,
    kind: Kind,
    bytes: f64,
    cache: f64,
    swing: f64,
    /// Time that a life takes on average.
    lasts: f64,
    max: f64,
    bursty: bool,
    /// Time from a kill to the next start.
    pause: f64,
}

impl Loop {
    fn new(rng: &mut Rng) -> Self {
        let kind = rng.pick(&[Kind::Python, Kind::Node, Kind::Java, Kind::Go, Kind::Cpp]);
        let bytes = kind.size(rng).min(4_000.0 * MIB);
        // What leaks in a life is most of it.
        let max = bytes * rng.range(2.2, 5.0) + 128.0 * MIB;
        Self {
            comm: kind.comm(rng),
            kind,
            bytes,
            cache: bytes * rng.range(0.0, 0.3),
            swing: rng.log_range(0.02, 0.2),
            lasts: rng.log_range(10.0, 30.0) * MINUTE,
            max,
            bursty: false,
            pause: rng.log_range(0.2, 60.0),
        }
    }

    fn life(&self, rng: &mut Rng, group: &str, born: f64) -> Program {
        let life = self.kind.program(rng, (group, self.comm), born, self.bytes, self.swing);
        let tau = rng.log_range(20.0, 300.0);
        let mut life = life.anon(self.cache, saturating(self.cache, tau));
        if self.bursty {
            life.load = bursty_load(rng);
        }
        let rate = (self.max - self.bytes - self.cache) / self.lasts * rng.range(0.9, 1.1);
        life.leaks(rng, born + 2.0, rate, Pace::WithLoad)
    }

    /// Scene whose first life begins at `born`. `place` names the cgroup of each life.
    fn scene(
        self,
        rng: &mut Rng,
        born: f64,
        mut place: impl FnMut(&mut Rng) -> String + 'static,
    ) -> Scene {
        let path = place(rng);
        let first = self.life(rng, &path, born);
        let mut scene = Scene::leaking(first, born);
        scene.groups.push(Group {
            max: Some(self.max),
            cache: self.max * rng.log_range(0.005, 0.3),
            ..Group::new(&path)
        });
        scene.room = self.max;
        scene.loops = true;
        scene.secs = born.max(0.0) + 20.0 * self.lasts;
        scene.rebirth = Some(Box::new(move |rng, lives, t| {
            // Kubernetes waits twice as long each time, five minutes at most.
            let pause = (self.pause * libm::exp2(lives.min(8) as f64 - 1.0)).min(300.0);
            let born = t + if self.pause > 8.0 { pause } else { self.pause };
            let path = place(rng);
            (born, self.life(rng, &path, born))
        }));
        scene.and(company(rng, HOUR))
    }
}

fn service(rng: &mut Rng) -> impl FnMut(&mut Rng) -> String + 'static + use<> {
    let path = format!("/system.slice/{}.service", name(rng));
    move |_| path.clone()
}

fn birth(rng: &mut Rng) -> f64 {
    rng.log_range(20.0, 40.0 * MINUTE)
}

fn restarted(rng: &mut Rng) -> Scene {
    let (one, born, place) = (Loop::new(rng), birth(rng), service(rng));
    one.scene(rng, born, place)
}

fn containers(rng: &mut Rng) -> Scene {
    let (one, born, pod) = (Loop::new(rng), birth(rng), pod(rng));
    let place = pod.clone();
    let mut scene = one.scene(rng, born, move |rng| {
        format!("{place}/cri-containerd-{:016x}{:016x}.scope", rng.bits(), rng.bits())
    });
    scene.subject.cgroup = pod;
    scene
}

fn uneven(rng: &mut Rng) -> Scene {
    let (one, born, place) = (Loop::new(rng), birth(rng), service(rng));
    Loop { bursty: true, ..one }.scene(rng, born, place)
}

fn under_way(rng: &mut Rng) -> Scene {
    let (one, place) = (Loop::new(rng), service(rng));
    let born = -one.lasts * rng.range(0.05, 0.9);
    one.scene(rng, born, place)
}
