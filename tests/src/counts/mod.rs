//! Corpus of counts that head for their limit, and of healthy ones that look alike.
//!
//! Each resource has runs that exhaust it and runs that do not, over limits from hundreds to
//! terabytes, from nearly empty to nearly full, over minutes and over days. A run is a function of
//! time, made from a seed and never stored; the engine sees it through facts every few seconds, as
//! from the sensors. [`exhausting`] and [`healthy`] write the courses, [`score`] compares what the
//! engine says with the truth.

mod exhausting;
mod healthy;
mod score;

use std::sync::Arc;

use spillway_agent::sense::{CountFact, CountUser, CountedResource};

use crate::corpus::rng::{Rng, unit_at};

pub use score::{CountsReport, score};

/// Seed of the runs that figures are quoted on; others are for work on the detector.
pub const HELD_OUT_SEED: u64 = 31_415_926;

/// Runs that exhaust each resource, and healthy ones.
pub const RUNS_OF_EACH: usize = 20;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;

/// A resource with the limits that hosts have for it.
struct Kind {
    resource: CountedResource,
    subject: &'static str,
    limits: [f64; 2],
    /// Names of users; the first is the culprit.
    users: [&'static str; 3],
    /// Set if it follows the load.
    is_load: bool,
}

const fn kind(
    resource: CountedResource,
    subject: &'static str,
    limits: [f64; 2],
    users: [&'static str; 3],
    is_load: bool,
) -> Kind {
    Kind { resource, subject, limits, users, is_load }
}

/// Resources of the corpus.
static KINDS: [Kind; 12] = {
    use CountedResource as R;
    let files = ["/var/log/app/app.log", "/var/lib/db/main", "/var/cache/images"];
    let programs = ["worker", "api", "cron"];
    let cgroups = ["/system.slice/api.service", "/user.slice", "/system.slice/cron.service"];
    [
        kind(R::DiskBytes, "/var", [4e9, 8e12], files, false),
        kind(R::DiskInodes, "/srv", [2e5, 5e8], files, false),
        kind(R::TmpfsBytes, "/dev/shm", [6.4e7, 1.6e10], files, false),
        kind(R::Pids, "/system.slice/api.service", [500.0, 40_000.0], programs, true),
        kind(R::Pids, "host", [32_768.0, 4.2e6], cgroups, true),
        kind(R::Zombies, "host", [32_768.0, 4.2e6], programs, false),
        kind(R::OpenFiles, "host", [5e4, 2e6], programs, true),
        kind(R::TcpMemoryBytes, "host", [1e8, 8e9], programs, true),
        kind(R::LocalPorts, "10.0.0.7:5432", [1_000.0, 28_232.0], programs, true),
        kind(R::Conntrack, "host", [4_096.0, 1e6], programs, true),
        kind(R::SharedMemorySegments, "host", [128.0, 4_096.0], programs, false),
        kind(R::Keys, "uid 1000", [200.0, 20_000.0], programs, false),
    ]
};

/// Course of a count: what is in use at each time, and by whom.
struct Course {
    kind: &'static Kind,
    name: &'static str,
    limit: f64,
    interval_secs: f64,
    lasts_secs: f64,
    /// Number in use without what exhausts it.
    healthy: Box<dyn Fn(f64) -> f64>,
    /// Number that its culprit adds; `None` in a healthy run.
    added: Option<Box<dyn Fn(f64) -> f64>>,
    /// Time at which that begins.
    onset_t: f64,
}

impl Course {
    fn used(&self, t: f64) -> f64 {
        let added = self.added.as_ref().map_or(0.0, |added| added(t));
        ((self.healthy)(t) + added).clamp(0.0, self.limit)
    }

    /// Share of what was left at the onset that is gone; 0 in a healthy run.
    fn taken(&self, t: f64) -> f64 {
        let left = self.limit - (self.healthy)(self.onset_t);
        self.added.as_ref().map_or(0.0, |added| added(t) / left.max(1.0))
    }

    fn fact(&self, t: f64) -> CountFact {
        let added = self.added.as_ref().map_or(0.0, |added| added(t));
        let healthy = (self.healthy)(t).max(0.0);
        let [culprit, largest, other] = self.kind.users;
        // Others hold most of it, and change as it does; the culprit holds a little from the start.
        let users = [
            (largest, 71, healthy * 0.6),
            (culprit, 812, healthy * 0.05 + added),
            (other, 90, healthy * 0.1),
        ];
        let culprits = users
            .iter()
            .map(|&(name, pid, used)| CountUser {
                name: Arc::from(name),
                pid: (!name.starts_with("/system")).then_some(pid),
                used: used as u64,
            })
            .collect();
        CountFact {
            resource: self.kind.resource.clone(),
            subject: Arc::from(self.kind.subject),
            used: self.used(t) as u64,
            limit: Some(self.limit as u64),
            culprits,
        }
    }
}

/// A noise that is the same at the same time: a new value in each step, uniform in -1 to 1.
fn noise(seed: u64, t: f64, step_secs: f64) -> f64 {
    2.0 * unit_at(seed, (t / step_secs) as i64) - 1.0
}

/// Draws the limit of a run, and the number in use at its start.
fn draw_level(rng: &mut Rng, kind: &Kind) -> (f64, f64) {
    let limit = rng.log_range(kind.limits[0], kind.limits[1]).floor();
    let share = if kind.is_load { rng.range(0.02, 0.5) } else { rng.range(0.02, 0.85) };
    (limit, (limit * share).floor())
}
