//! Isolation of a leaking process in a child of its shared cgroup, which is limited while the other
//! processes are not.
//!
//! Only in cgroups that the operator has delegated, see [`permit`]. In cgroup v1 the leaking
//! process moves with those that belong to it, and the others stay. In cgroup v2 a cgroup whose
//! children have the memory controller may not contain processes, so the others move too, to a
//! second child without a limit. Limits of the shared cgroup itself apply to all as before. Memory
//! stays charged to it: the child starts almost empty, and its limit covers what is allocated from
//! then on ([`Recharge`] allows for memory that is only replaced). The journal does not list the
//! moved processes: all in our children move back, see [`restore()`]. Failure: a partial change is
//! undone by the caller or from the journal. Refused: a cgroup that is already divided, and one
//! whose processes fork faster than they can be moved.

mod eligibility;
mod recharge;
mod restore;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use super::{
    LimitError, LimitRefusal,
    cgroup::{Cgroup, Version},
    cgroup_procs::{CgroupProcess, related},
    eligibility::start_ticks,
    failed,
};
use crate::{
    act::journal::{IsolatedCgroup, Journal, JournalEntry},
    os::CgroupDir,
    sense::{LEAK_CHILD, ProcessId, ProgramList, REST_CHILD},
};

pub use eligibility::permit;
pub use recharge::Recharge;
pub use restore::{Restored, restore};

/// Rounds in which the processes of a cgroup are listed and moved until none is left. Each round
/// meets only processes that were forked meanwhile.
const PASSES_MAX: u32 = 32;

/// Rounds before which the processes are not given time: two are usually enough.
const QUICK_PASSES: u32 = 4;

/// Time that later rounds wait. A process that is ending is listed until it has run once more,
/// which on one busy CPU it cannot while it is looked for.
const PASS_AGAIN_AFTER: Duration = Duration::from_millis(10);

const PROCESSES: &str = "cgroup.procs";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
const MEMORY: &str = "memory";

/// A shared cgroup.
struct SharedCgroup<'a> {
    directory: &'a Path,
    version: Version,
    programs: Option<&'a ProgramList>,
}

/// Divides a cgroup that [`permit`] accepted. Returns the child with the leaking process, and the
/// number of processes in it.
///
/// # Errors
///
/// Returns an error if the process is not isolated, or only in part: the entry lists possible
/// changes.
pub fn isolate(
    journal: &Journal,
    entry: &mut JournalEntry,
    target: &Cgroup,
    split: IsolatedCgroup,
    culprit: ProcessId,
    programs: Option<&ProgramList>,
) -> Result<(Cgroup, usize), LimitError> {
    entry.split = Some(split);
    journal.write(entry).map_err(failed("cannot write the journal"))?;
    let (directory, version) = (&*target.directory, target.version());
    let shared = SharedCgroup { directory, version, programs };
    let children = match shared.version {
        Version::V1 => &[LEAK_CHILD][..],
        Version::V2 => &[LEAK_CHILD, REST_CHILD],
    };
    for child in children {
        let directory = shared.directory.join(child);
        fs::create_dir(&directory)
            .map_err(failed(format!("cannot create {}", directory.display())))?;
    }
    let moved = shared.move_processes(culprit)?;
    let directory = shared.directory.join(LEAK_CHILD);
    let nothing = || io::Error::other("the child cgroup has no memory controller");
    let leak = Cgroup::at(directory.clone())
        .ok_or_else(nothing)
        .map_err(failed(directory.display().to_string()))?;
    Ok((leak, moved))
}

/// Gives the processes of a cgroup time to end before a late round.
fn wait_before(pass: u32) {
    if pass >= QUICK_PASSES {
        sleep(PASS_AGAIN_AFTER);
    }
}

impl SharedCgroup<'_> {
    /// Moves the processes, and in version 2 enables the memory controller for the children.
    /// Returns the number of processes with the leaking one.
    fn move_processes(&self, culprit: ProcessId) -> Result<usize, LimitError> {
        let mut moved = BTreeSet::new();
        for pass in 0..PASSES_MAX {
            wait_before(pass);
            let here = self.pids().map_err(failed("cannot list the processes of the cgroup"))?;
            if here.is_empty() && self.version == Version::V2 && self.delegate_memory()? {
                return Ok(moved.len());
            }
            let to_isolate = self.to_isolate(&here, culprit)?;
            if to_isolate.is_empty() && self.version == Version::V1 {
                return Ok(moved.len());
            }
            for pid in here {
                let child = match self.version {
                    _ if to_isolate.contains(&pid) => LEAK_CHILD,
                    Version::V1 => continue,
                    Version::V2 => REST_CHILD,
                };
                let what =
                    || format!("cannot move pid {pid} to {}/{child}", self.directory.display());
                if move_process(&self.directory.join(child), pid)
                    .map_err(|error| failed(what())(error))?
                    && child == LEAK_CHILD
                {
                    moved.insert(pid);
                }
            }
        }
        Err(LimitRefusal::TooManyForks.into())
    }

    /// Returns those of `here` that belong to the leaking process, in whichever child that is now.
    fn to_isolate(&self, here: &[u32], culprit: ProcessId) -> Result<BTreeSet<u32>, LimitError> {
        let mut pids = here.to_vec();
        for child in [LEAK_CHILD, REST_CHILD] {
            match pids_in(&self.directory.join(child)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                more => {
                    pids.extend(more.map_err(failed("cannot list the processes of the cgroup"))?);
                }
            }
        }
        let members = CgroupProcess::all(&pids, self.programs)
            .map_err(failed("programs of its processes cannot be read"))?;
        let is_there = members.iter().any(|member| member.pid == culprit.pid);
        if !is_there || start_ticks(culprit.pid) != Some(culprit.start_ticks) {
            return Err(LimitRefusal::Left.into());
        }
        let to_isolate = related(&members, culprit.pid).into_iter().map(|member| member.pid);
        Ok(to_isolate.filter(|pid| here.contains(pid)).collect())
    }

    /// Enables the memory controller for the children; returns `false` if the cgroup still has
    /// processes.
    fn delegate_memory(&self) -> Result<bool, LimitError> {
        match fs::write(self.directory.join(SUBTREE_CONTROL), format!("+{MEMORY}")) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
            wrote => {
                wrote.map_err(failed(format!(
                    "{}/{SUBTREE_CONTROL}=+{MEMORY}",
                    self.directory.display()
                )))?;
                Ok(true)
            }
        }
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        pids_in(self.directory)
    }
}

/// Returns the limited child of an entry's cgroup, if that is still the cgroup that was divided.
pub fn leak_child(entry: &JournalEntry) -> Option<Cgroup> {
    is_there(entry).then(|| Cgroup::at(entry.directory.join(LEAK_CHILD))).flatten()
}

/// Returns whether a process is in a cgroup or in a descendant.
pub fn contains(target: &Cgroup, pid: u32) -> bool {
    target.pids().is_ok_and(|pids| pids.contains(&pid))
}

fn is_there(entry: &JournalEntry) -> bool {
    // An entry may contain anything. Only a cgroup is written, and nobody can put a link into the
    // path of one.
    CgroupDir::open(&entry.directory)
        .and_then(|directory| directory.inode())
        .is_ok_and(|inode| inode == entry.inode)
}

/// Lists the processes of a cgroup without its descendants. The kernel lists one of another PID
/// namespace as 0.
fn pids_in(directory: &Path) -> io::Result<Vec<u32>> {
    let processes = fs::read_to_string(directory.join(PROCESSES))?;
    Ok(processes.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Moves a process; returns `false` if it has ended.
fn move_process(directory: &Path, pid: u32) -> io::Result<bool> {
    // The kernel takes 0 for the writer itself.
    if pid == 0 {
        return Err(io::Error::other("it is outside of the agent's PID namespace"));
    }
    match fs::write(directory.join(PROCESSES), pid.to_string()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        wrote => wrote.map(|()| true),
    }
}

/// Lists the direct children of a cgroup.
fn children_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Parses a list of controllers.
fn controllers(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}
