//! Processes and threads of every cgroup that has a limit on them (`pids.max`).
//!
//! At that limit nothing in the cgroup can start a thread, and a service fails at the first request
//! that needs one. The limit may be at any level, so the hierarchy of the pids controller is walked
//! from its root: a round every [`ROUND_SECS`], or less often if it takes more than [`SHARE_MAX`]
//! of a core. The levels come in turn, so that a user with thousands of cgroups delays only what
//! lies as deep. Cold start: none; the first round is complete. Failure: a cgroup that has gone is
//! left out; without the controller there is no sensor. Cost: 8 µs a cgroup and round in version 1,
//! more if its users are named. Not seen are cgroups beyond [`CGROUPS_MAX`], and from within a
//! container those outside of it.
//!
//! Users of a cgroup are named from a part of its limit on: the cgroups below it, or the programs
//! in it by their threads.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::process::Process;

use super::{
    CountFact, CountUser, CountedResource, Fact, Loss,
    cgroups::pids_mount,
    pace::{CpuCredit, ReadPeriod},
    printable::{printable, printable_path},
    sensor::{Observations, Schedule, Sensor},
};

/// Time between the beginnings of two rounds.
const ROUND_SECS: f64 = 10.0;

/// Share of one core that the walk may take, and the time for which an unused share is saved.
const SHARE_MAX: f64 = 0.000_3;
const SAVED_SECS: f64 = 30.0;

/// Cgroups that a round visits, and those below one that it goes on to. Guesses: more than hosts
/// have.
const CGROUPS_MAX: usize = 4_096;
const CHILDREN_MAX: usize = 1_024;

/// Part of the limit, and number, from which the users of a cgroup are named. A guess: most cgroups
/// use far less, and a climb through a sixth of the limit is known by then.
const NAMED_SHARE: u64 = 16;
const NAMED_MIN: u64 = 32;

/// Users that are named, and processes that are looked at for it.
const USERS_MAX: usize = 8;
const PROCESSES_MAX: usize = 256;

/// Bytes that are read of a file: `cgroup.procs` has at most eight for each process.
const FILE_BYTES_MAX: u64 = 65_536;

/// Reads the processes and threads of cgroups that have a limit.
pub struct CgroupPidsSensor {
    walk: CgroupWalk,
    rounds: ReadPeriod,
    credit: CpuCredit,
}

/// Walk through the hierarchy, level by level.
struct CgroupWalk {
    mount: PathBuf,
    /// Directories that the round has still to visit.
    queue: VecDeque<PathBuf>,
    visited: usize,
}

impl CgroupPidsSensor {
    /// Creates a sensor; `None` if no hierarchy counts processes.
    pub fn start() -> Option<Self> {
        Some(Self::of(pids_mount()?))
    }

    fn of(mount: PathBuf) -> Self {
        Self {
            walk: CgroupWalk { mount, queue: VecDeque::new(), visited: 0 },
            rounds: ReadPeriod::every(ROUND_SECS),
            credit: CpuCredit::new(SHARE_MAX, SAVED_SECS),
        }
    }
}

impl CgroupWalk {
    /// Begins a round.
    fn begin(&mut self) {
        self.visited = 0;
        self.queue.push_back(self.mount.clone());
    }

    /// Visits a cgroup: returns its count if it has a limit, and queues those below it.
    fn visit(&mut self, directory: &Path) -> Option<CountFact> {
        self.visited += 1;
        let below = children(directory);
        let room = CGROUPS_MAX.saturating_sub(self.visited + self.queue.len());
        self.queue.extend(below.iter().take(room).cloned());
        let limit = number(&directory.join("pids.max"))?;
        let used = number(&directory.join("pids.current"))?;
        let has_users = used >= NAMED_MIN.max(limit / NAMED_SHARE);
        Some(CountFact {
            resource: CountedResource::Pids,
            subject: self.subject(directory),
            used,
            limit: Some(limit),
            culprits: if has_users { self.users(directory, &below) } else { Vec::new() },
        })
    }

    /// Names a cgroup as processes' facts do: by its path from the root.
    fn subject(&self, directory: &Path) -> Arc<str> {
        let path = directory.strip_prefix(&self.mount).unwrap_or(directory);
        printable_path(&Path::new("/").join(path))
    }

    /// Returns those that use most of a cgroup's limit.
    fn users(&self, directory: &Path, below: &[PathBuf]) -> Vec<CountUser> {
        let of_child = |child: &PathBuf| {
            let used = number(&child.join("pids.current"))?;
            Some(CountUser { name: self.subject(child), pid: None, used })
        };
        let mut users: Vec<_> = below.iter().filter_map(of_child).collect();
        users.extend(programs(directory));
        users.retain(|user| user.used > 0);
        users.sort_by_key(|user| Reverse(user.used));
        users.truncate(USERS_MAX);
        users
    }
}

impl Sensor for CgroupPidsSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::CountReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        self.credit.earn(now);
        let Self { walk, rounds, credit } = self;
        if walk.queue.is_empty() && rounds.is_due(now) {
            walk.begin();
        }
        while credit.is_left()
            && let Some(directory) = walk.queue.pop_front()
        {
            if let Some(fact) = credit.spend(|| walk.visit(&directory)) {
                out.push(Fact::Count(fact));
            }
        }
        Ok(())
    }
}

/// Returns the cgroups below one; none if it has gone.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.take(CHILDREN_MAX).map(|entry| entry.path()).collect()
}

/// Returns the programs in a cgroup by their threads, each with the process that has most.
fn programs(directory: &Path) -> Vec<CountUser> {
    let text = text(&directory.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse::<i32>().ok()).take(PROCESSES_MAX);
    let mut by_name: BTreeMap<String, (u64, u64, i32)> = BTreeMap::new();
    for stat in pids.filter_map(|pid| Process::new(pid).ok()?.stat().ok()) {
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        let (sum, most, pid) = by_name.entry(stat.comm).or_default();
        *sum += threads;
        if threads > *most {
            (*most, *pid) = (threads, stat.pid);
        }
    }
    let user = |(name, (used, _, pid)): (String, (u64, u64, i32))| CountUser {
        name: printable(name),
        pid: u32::try_from(pid).ok(),
        used,
    };
    by_name.into_iter().map(user).collect()
}

/// Reads a file that holds one number; `None` if it is `max`, or has gone.
fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// Reads the beginning of a file.
fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::sensor::read_after;

    /// A directory that looks like a hierarchy.
    struct PidsTree(PathBuf);

    impl PidsTree {
        fn make(name: &str) -> Self {
            let name = format!("spillway-cgroup-pids-{name}-{}", std::process::id());
            let mount = std::env::temp_dir().join(name);
            fs::create_dir_all(&mount).unwrap();
            Self(mount)
        }

        fn write(&self, cgroup: &str, current: &str, max: &str, procs: &str) {
            let directory = self.0.join(cgroup);
            fs::create_dir_all(&directory).unwrap();
            for (file, text) in
                [("pids.current", current), ("pids.max", max), ("cgroup.procs", procs)]
            {
                fs::write(directory.join(file), text).unwrap();
            }
        }
    }

    impl Drop for PidsTree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn read(sensor: &mut CgroupPidsSensor, t: f64) -> Vec<CountFact> {
        let (facts, losses) = read_after(sensor, t, Vec::new());
        assert_eq!(losses.totals().count(), 0, "{losses:?}");
        let counts = facts.into_iter().filter_map(|observation| match observation.fact {
            Fact::Count(fact) => Some(fact),
            _ => None,
        });
        counts.collect()
    }

    #[test]
    fn limits_at_every_level_are_read_with_their_users() {
        let tree = PidsTree::make("levels");
        let own = format!("{}\n", std::process::id());
        tree.write("a.slice", "90\n", "100\n", "");
        tree.write("a.slice/b.service", "70\n", "max\n", "");
        tree.write("a.slice/c.service", "20\n", "64\n", "");
        tree.write("d.service", "40\n", "50\n", &own);
        let mut facts = read(&mut CgroupPidsSensor::of(tree.0.clone()), 0.0);
        facts.sort_by(|one, other| one.subject.cmp(&other.subject));
        let seen: Vec<_> =
            facts.iter().map(|fact| (&*fact.subject, fact.used, fact.limit)).collect();
        assert_eq!(
            seen,
            [
                ("/a.slice", 90, Some(100)),
                ("/a.slice/c.service", 20, Some(64)),
                ("/d.service", 40, Some(50))
            ]
        );
        let users: Vec<_> = facts[0].culprits.iter().map(|user| (&*user.name, user.used)).collect();
        assert_eq!(users, [("/a.slice/b.service", 70), ("/a.slice/c.service", 20)]);
        assert!(facts[1].culprits.is_empty(), "it uses little");
        let [own] = &facts[2].culprits[..] else { panic!("{facts:?}") };
        assert_eq!(own.pid, Some(std::process::id()));
    }

    #[test]
    fn rounds_are_ten_seconds_apart_and_odd_files_are_absent() {
        let tree = PidsTree::make("rounds");
        tree.write("a", "-1\n", "100\n", "");
        tree.write("b", "7", "9999999999999999999999", "");
        tree.write("c", "7", "100", "x\n-1\n99999999999\n");
        let mut sensor = CgroupPidsSensor::of(tree.0.clone());
        let read_at: Vec<_> =
            (0..31).filter(|t| !read(&mut sensor, f64::from(*t)).is_empty()).collect();
        assert_eq!(read_at, [0, 10, 20, 30]);
        let facts = read(&mut sensor, 40.0);
        assert!(matches!(&facts[..], [only] if &*only.subject == "/c"), "{facts:?}");
    }
}
