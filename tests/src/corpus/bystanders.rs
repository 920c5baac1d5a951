//! Other processes on the host: services of any Debian system and an occasional job. They are
//! healthy in every run.
//!
//! They are few and simple on purpose: each family of healthy behaviour has runs of its own. A
//! claim about any of them is a false alarm.

use super::{
    curve::{HOUR, MIB, at_most, breathing, flat, logarithmic, noise, ramp, sawtooth, sum},
    rng::Rng,
    sim::Actor,
};

/// Adds a handful of bystanders.
pub(super) fn add(rng: &mut Rng, secs: f64, actors: &mut Vec<Actor>) {
    let mut pid = 300 + rng.below(200) as u32;
    let mut next = || {
        pid += 7;
        pid
    };
    actors.push(Actor::new(1, "systemd", "/init.scope", flat(rng.range(6.0, 14.0) * MIB)));
    actors.push(Actor::new(
        next(),
        "sshd",
        "/system.slice/ssh.service",
        flat(rng.range(2.0, 6.0) * MIB),
    ));
    let journal = sum(vec![flat(20.0 * MIB), noise(rng.bits(), 300.0, rng.range(0.5, 4.0) * MIB)]);
    actors.push(
        Actor::new(next(), "systemd-journal", "/system.slice/systemd-journald.service", journal)
            .file(noise(rng.bits(), 600.0, 60.0 * MIB)),
    );
    if rng.chance(0.7) {
        let exporter = sum(vec![
            flat(rng.range(12.0, 40.0) * MIB),
            sawtooth(rng.bits(), rng.range(30.0, 180.0), rng.range(2.0, 12.0) * MIB),
        ]);
        actors.push(Actor::new(
            next(),
            "node_exporter",
            "/system.slice/node-exporter.service",
            exporter,
        ));
    }
    if rng.chance(0.6) {
        let base = rng.log_range(40.0, 600.0) * MIB;
        let postgres = sum(vec![breathing(rng, base), logarithmic(-HOUR, base / 100.0, HOUR)]);
        actors.push(Actor::new(next(), "postgres", "/system.slice/postgresql.service", postgres));
    }
    if rng.chance(0.6) {
        let base = rng.log_range(10.0, 120.0) * MIB;
        let nginx = breathing(rng, base);
        actors.push(Actor::new(next(), "nginx", "/system.slice/nginx.service", nginx));
    }
    if rng.chance(0.5) {
        // A timer job: it reads its database, swells and ends.
        let (every, lasts, swell) =
            (rng.range(1.0, 6.0) * HOUR, rng.range(60.0, 600.0), rng.range(5.0, 80.0) * MIB);
        let mut born = rng.unit() * every;
        while born < secs {
            let indexer =
                sum(vec![flat(5.0 * MIB), at_most(ramp(born, swell / (lasts * 0.3)), swell)]);
            let indexer =
                Actor::new(next(), "updatedb", "/system.slice/plocate-updatedb.service", indexer);
            actors.push(indexer.living(born, born + lasts));
            born += every;
        }
    }
    // Short jobs, one process each.
    let mut t = rng.range(0.0, HOUR);
    while t < secs {
        let lives = rng.log_range(2.0, 120.0);
        let base = rng.log_range(2.0, 30.0) * MIB;
        let job = sum(vec![flat(base), noise(rng.bits(), 3.0, base / 4.0)]);
        actors.push(
            Actor::new(next(), "cron", "/system.slice/cron.service", job).living(t, t + lives),
        );
        t += rng.range(0.5, 1.5) * HOUR;
    }
}
