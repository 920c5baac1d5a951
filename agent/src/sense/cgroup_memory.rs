//! Memory charged to the cgroups that have processes: what a process's own counters do not show.
//!
//! Files in memory and memory of the kernel belong to no process, but count against the limit of
//! the cgroup that made them. A cgroup is read every [`EVERY_SECS`], and less often if that took
//! more than [`SHARE_MAX`] of a core, because the kernel sums a cgroup's statistics at each read.
//! Owners take turns, so that one with thousands of cgroups delays only its own. A cgroup is read
//! for [`KEPT_SECS`] after its last process has ended: what it left is still charged. Cold start:
//! none; the first scan of processes shows every cgroup. Failure: a cgroup that has gone, or that
//! the memory controller does not count, is left out. Cost: 25 µs a cgroup and read in version 1,
//! 40 µs in version 2, more if much has happened below it since the last.
//!
//! Version 1 does not say how much of the kernel's memory could be reclaimed. There, all of the
//! host's reclaimable slab is taken to be the cgroup's, so that growth of caches is never taken for
//! more than it is; a leak smaller than that is not seen.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt as _};

use super::{
    CgroupFact, Fact, Hierarchy, Loss,
    cgroups::{V1_UNLIMITED_BYTES, value},
    pace::{CpuCredit, SLACK_SECS},
    printable::original,
    sensor::{Observations, Schedule, Sensor},
};

/// Time between two reads of a cgroup.
const EVERY_SECS: f64 = 10.0;

/// Share of one core that all reads may take, and the time for which an unused share is saved.
const SHARE_MAX: f64 = 0.000_5;
const SAVED_SECS: f64 = 10.0;

/// Time for which a cgroup without processes is still read.
const KEPT_SECS: f64 = 60.0;

/// Cgroups that are known at a time, and how many of them may be one owner's. An entry takes some
/// 200 bytes.
const CGROUPS_MAX: usize = 4_096;
const OWNED_MAX: usize = CGROUPS_MAX / 4;

/// Bytes that are read of a file. `memory.stat` has some 2,000.
const FILE_BYTES_MAX: usize = 16_384;

/// Reads the memory charged to cgroups.
pub struct CgroupMemorySensor {
    files: Files,
    known: HashMap<Arc<str>, MeteredCgroup>,
    /// Cgroups of each owner, the one that was read longest ago first.
    turns: BTreeMap<Arc<str>, VecDeque<Arc<str>>>,
    /// Owner whose turn was last.
    last_owner: Arc<str>,
    credit: CpuCredit,
}

struct MeteredCgroup {
    owner: Arc<str>,
    seen_t: f64,
    read_t: f64,
}

/// Files of the hierarchy that charges memory.
struct Files {
    mount: PathBuf,
    is_v1: bool,
    text: Vec<u8>,
}

impl CgroupMemorySensor {
    /// Creates a sensor of a hierarchy; `None` if no hierarchy charges memory.
    pub fn start(hierarchy: &Hierarchy) -> Option<Self> {
        Some(Self {
            files: Files {
                mount: hierarchy.mount()?.to_owned(),
                is_v1: hierarchy.is_v1(),
                text: Vec::with_capacity(FILE_BYTES_MAX),
            },
            known: HashMap::new(),
            turns: BTreeMap::new(),
            last_owner: Arc::from(""),
            credit: CpuCredit::new(SHARE_MAX, SAVED_SECS),
        })
    }

    /// Takes the cgroup of a process that the scan at `t` saw; returns whether there is room.
    fn see(&mut self, cgroup: &Arc<str>, t: f64) -> bool {
        if let Some(known) = self.known.get_mut(cgroup) {
            known.seen_t = t;
            return true;
        }
        // The root is charged with everything, and has no limit.
        if cgroup.trim_matches('/').is_empty() {
            return true;
        }
        let owner = owner(cgroup);
        if self.known.len() >= CGROUPS_MAX
            || self.turns.get(owner).is_some_and(|owned| owned.len() >= OWNED_MAX)
        {
            return false;
        }
        let owner: Arc<str> = Arc::from(owner);
        self.turns.entry(owner.clone()).or_default().push_front(cgroup.clone());
        let read_t = f64::NEG_INFINITY;
        self.known.insert(cgroup.clone(), MeteredCgroup { owner, seen_t: t, read_t });
        true
    }

    /// Forgets the cgroups that have had no process for a while.
    fn forget_old(&mut self, t: f64) {
        let turns = &mut self.turns;
        self.known.retain(|cgroup, known| {
            let is_kept = t - known.seen_t < KEPT_SECS;
            if !is_kept && let Some(owned) = turns.get_mut(&known.owner) {
                owned.retain(|other| other != cgroup);
                if owned.is_empty() {
                    turns.remove(&known.owner);
                }
            }
            is_kept
        });
    }

    /// Returns the cgroup whose turn it is; `None` if none is due.
    fn next(&mut self, t: f64) -> Option<Arc<str>> {
        let is_due = |owned: &VecDeque<Arc<str>>| {
            let known = owned.front().and_then(|cgroup| self.known.get(cgroup));
            known.is_some_and(|known| t - known.read_t + SLACK_SECS >= EVERY_SECS)
        };
        let after = self
            .turns
            .range::<Arc<str>, _>((
                std::ops::Bound::Excluded(&self.last_owner),
                std::ops::Bound::Unbounded,
            ))
            .find(|(_, owned)| is_due(owned));
        let (owner, _) = after.or_else(|| self.turns.iter().find(|(_, owned)| is_due(owned)))?;
        self.last_owner = owner.clone();
        let owned = self.turns.get_mut(&self.last_owner)?;
        let cgroup = owned.pop_front()?;
        owned.push_back(cgroup.clone());
        self.known.get_mut(&cgroup)?.read_t = t;
        Some(cgroup)
    }
}

impl Sensor for CgroupMemorySensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::CgroupReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        self.credit.earn(now);
        let mut is_left_out = false;
        let mut last: Option<Arc<str>> = None;
        for process in out.processes() {
            // Most processes share their cgroup, and its path, with the one before.
            if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &process.cgroup)) {
                is_left_out |= !self.see(&process.cgroup, now);
                last = Some(process.cgroup.clone());
            }
        }
        self.forget_old(now);
        if is_left_out {
            out.split().0.count(Loss::CgroupsLeftOut);
        }
        let mut failed = None;
        let mut slab_bytes = None;
        while self.credit.is_left()
            && let Some(cgroup) = self.next(now)
        {
            let Self { files, credit, .. } = self;
            let read = credit.spend(|| {
                if files.is_v1 && slab_bytes.is_none() {
                    slab_bytes = Some(files.reclaimable_slab_bytes());
                }
                files.read(&cgroup, slab_bytes.flatten())
            });
            match read {
                Ok(fact) => out.push(Fact::Cgroup(fact)),
                Err(error) if is_gone(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Files {
    /// Reads the memory of a cgroup, by its path as it is shown.
    fn read(&mut self, cgroup: &Arc<str>, slab_bytes: Option<u64>) -> io::Result<CgroupFact> {
        let directory = self.directory(cgroup).ok_or(io::ErrorKind::NotFound)?;
        // A kernel has all of these files or, without the controller, the first is missing.
        let mut fact = CgroupFact { cgroup: cgroup.clone(), ..CgroupFact::default() };
        if self.is_v1 {
            let stat = self.text(&directory.join("memory.stat"))?;
            (fact.anon_bytes, fact.shmem_bytes) =
                (value(stat, "total_rss"), value(stat, "total_shmem"));
            fact.current_bytes = self.number(&directory.join("memory.usage_in_bytes"));
            fact.max_bytes = self
                .number(&directory.join("memory.limit_in_bytes"))
                .filter(|max_bytes| *max_bytes < V1_UNLIMITED_BYTES);
            // Without a count of what is reclaimable, a cache could be taken for a leak.
            fact.kernel_bytes = slab_bytes.and_then(|slab_bytes| {
                let kernel_bytes = self.number(&directory.join("memory.kmem.usage_in_bytes"))?;
                Some(kernel_bytes.saturating_sub(slab_bytes))
            });
            let control = self.text(&directory.join("memory.oom_control")).unwrap_or_default();
            fact.oom_kills_total = value(control, "oom_kill");
        } else {
            let stat = self.text(&directory.join("memory.stat"))?;
            (fact.anon_bytes, fact.shmem_bytes) = (value(stat, "anon"), value(stat, "shmem"));
            fact.kernel_bytes = kernel_bytes(stat);
            fact.current_bytes = self.number(&directory.join("memory.current"));
            fact.max_bytes = self.number(&directory.join("memory.max"));
            let events = self.text(&directory.join("memory.events")).unwrap_or_default();
            fact.oom_kills_total = value(events, "oom_kill");
        }
        Ok(fact)
    }

    /// Returns the directory of a cgroup; `None` if it is not below the mount.
    fn directory(&self, cgroup: &str) -> Option<PathBuf> {
        let shown = cgroup.trim_start_matches('/');
        let below = original(shown)
            .map_or_else(|| PathBuf::from(shown), |name| PathBuf::from(OsString::from_vec(name)));
        let is_below = below.components().all(|part| matches!(part, Component::Normal(_)));
        is_below.then(|| self.mount.join(below))
    }

    fn reclaimable_slab_bytes(&mut self) -> Option<u64> {
        let text = self.text(Path::new("/proc/meminfo")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("SReclaimable:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1_024)
    }

    fn number(&mut self, path: &Path) -> Option<u64> {
        self.text(path).ok()?.trim().parse().ok()
    }

    /// Reads the beginning of a file.
    fn text(&mut self, path: &Path) -> io::Result<&str> {
        self.text.clear();
        File::open(path)?.take(FILE_BYTES_MAX as u64).read_to_end(&mut self.text)?;
        str::from_utf8(&self.text).map_err(io::Error::other)
    }
}

/// Returns the memory of the kernel in `memory.stat` of version 2 that cannot be reclaimed; `None`
/// if the file does not give it.
pub(super) fn kernel_bytes(stat: &str) -> Option<u64> {
    let sum =
        |keys: &[&str]| keys.iter().filter_map(|key| value(stat, key)).fold(0, u64::saturating_add);
    // Network buffers are counted apart. `kernel` is since 5.18; its parts are older.
    let kernel_bytes = match value(stat, "kernel") {
        Some(bytes) => bytes.saturating_sub(value(stat, "slab_reclaimable")?),
        None => value(stat, "slab_unreclaimable")?.saturating_add(sum(&[
            "kernel_stack",
            "pagetables",
            "percpu",
        ])),
    };
    Some(kernel_bytes.saturating_add(sum(&["sock"])))
}

/// Returns the part of a cgroup's path that names its owner: a user's slice, or the outermost
/// cgroup that is not a slice, such as a unit or a container.
pub fn owner(cgroup: &str) -> &str {
    let mut end = 0;
    for (depth, name) in cgroup.trim_start_matches('/').split('/').enumerate() {
        end += 1 + name.len();
        let is_user = depth == 1 && cgroup.starts_with("/user.slice/");
        if is_user || !name.ends_with(".slice") {
            break;
        }
    }
    cgroup.get(..end).unwrap_or(cgroup)
}

/// Returns whether a cgroup was removed, or is not counted by the controller.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests;
