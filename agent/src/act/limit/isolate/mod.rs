//! A leaker that shares its cgroup, moved to a child of it: limited there, while the others are
//! not.
//!
//! Done only where the operator said so, see [`permit`]. In version 1 the leaker moves, with what
//! belongs to it, and the others stay. In version 2 a cgroup whose children have the memory
//! controller holds no process itself, so that the others move as well, to a second child without a
//! limit. What limits the shared cgroup itself holds for all as before. Memory stays charged where
//! it was: the child begins with next to nothing, and its limit bounds what is taken from then on
//! ([`turnover`] makes room for what is only replaced). Nothing is kept of who was moved: whoever
//! is in our children goes back, see [`merge`]. Failure: what was half done is undone by the
//! caller, or from the journal. It refuses a cgroup that is divided already, and one whose
//! processes come faster than they can be moved.

mod eligibility;
mod recharge;
mod restore;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
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
    sense::{LEAK_CHILD, ProcessId, REST_CHILD},
};

pub use eligibility::permit;
pub use recharge::Recharge;
pub use restore::{Restored, restore};

/// Times that a cgroup's processes are listed and moved until none is left. Each time only those
/// are left that were forked meanwhile.
const PASSES_MAX: u32 = 32;

const PROCESSES: &str = "cgroup.procs";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
const MEMORY: &str = "memory";

/// A shared cgroup.
struct SharedCgroup<'a> {
    directory: &'a Path,
    version: Version,
}

/// Divides a cgroup that was found fit for it, and gives the child in which the leaker is now, and
/// how many came with it.
///
/// # Errors
///
/// Returns an error if it is not isolated, or only in part: the entry lists what may have been
/// done.
pub fn isolate(
    journal: &Journal,
    entry: &mut JournalEntry,
    target: &Cgroup,
    split: IsolatedCgroup,
    culprit: ProcessId,
) -> Result<(Cgroup, usize), LimitError> {
    entry.split = Some(split);
    journal.put(entry).map_err(failed("cannot write the journal"))?;
    let shared = SharedCgroup { directory: &target.directory, version: target.version() };
    let children = match shared.version {
        Version::V1 => &[LEAK_CHILD][..],
        Version::V2 => &[LEAK_CHILD, REST_CHILD],
    };
    for child in children {
        let directory = shared.directory.join(child);
        fs::create_dir(&directory)
            .map_err(failed(format!("{} cannot be made", directory.display())))?;
    }
    let moved = shared.move_processes(culprit)?;
    let directory = shared.directory.join(LEAK_CHILD);
    let nothing = || io::Error::other("it has no memory controller");
    let leak = Cgroup::at(directory.clone())
        .ok_or_else(nothing)
        .map_err(failed(directory.display().to_string()))?;
    Ok((leak, moved))
}

impl SharedCgroup<'_> {
    /// Moves its processes, and where it has to hold none hands the memory controller on; gives how
    /// many are with the leaker.
    fn move_processes(&self, culprit: ProcessId) -> Result<usize, LimitError> {
        let mut moved = BTreeSet::new();
        for _ in 0..PASSES_MAX {
            let here = self.pids().map_err(failed("its processes cannot be told"))?;
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
                    || format!("pid {pid} cannot be moved to {}/{child}", self.directory.display());
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

    /// Which of these belong to the leaker, wherever those are by now with whom they do.
    fn to_isolate(&self, here: &[u32], culprit: ProcessId) -> Result<BTreeSet<u32>, LimitError> {
        let mut pids = here.to_vec();
        for child in [LEAK_CHILD, REST_CHILD] {
            match pids_in(&self.directory.join(child)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                more => pids.extend(more.map_err(failed("its processes cannot be told"))?),
            }
        }
        let members: Vec<_> = pids.into_iter().filter_map(CgroupProcess::of).collect();
        let is_there = members.iter().any(|member| member.pid == culprit.pid);
        if !is_there || start_ticks(culprit.pid) != Some(culprit.start_ticks) {
            return Err(LimitRefusal::Left.into());
        }
        let to_isolate = related(&members, culprit.pid).into_iter().map(|member| member.pid);
        Ok(to_isolate.filter(|pid| here.contains(pid)).collect())
    }

    /// Gives its children the memory controller; says whether it did: not while somebody is in it.
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

/// The child of an entry's cgroup that is limited, if the cgroup is still the one that was divided.
pub fn leak_child(entry: &JournalEntry) -> Option<Cgroup> {
    is_there(entry).then(|| Cgroup::at(entry.directory.join(LEAK_CHILD))).flatten()
}

/// Whether a process is in a cgroup itself, or below it.
pub fn contains(target: &Cgroup, pid: u32) -> bool {
    target.pids().is_ok_and(|pids| pids.contains(&pid))
}

fn is_there(entry: &JournalEntry) -> bool {
    // The entry may say anything: what is no cgroup is not written, and nobody can put a link into
    // the path of one.
    CgroupDir::open(&entry.directory)
        .and_then(|directory| directory.inode())
        .is_ok_and(|inode| inode == entry.inode)
}

/// The processes of a cgroup, without those below it. Of one that is not seen from here the kernel
/// says 0.
fn pids_in(directory: &Path) -> io::Result<Vec<u32>> {
    let processes = fs::read_to_string(directory.join(PROCESSES))?;
    Ok(processes.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Moves a process; says whether it was still there.
fn move_process(directory: &Path, pid: u32) -> io::Result<bool> {
    // To the kernel it is whoever writes.
    if pid == 0 {
        return Err(io::Error::other("it is in a PID namespace that is not seen from here"));
    }
    match fs::write(directory.join(PROCESSES), pid.to_string()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        wrote => wrote.map(|()| true),
    }
}

/// The cgroups right below one.
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

/// The controllers that a file lists.
fn controllers(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}
