//! Restoration of a divided cgroup: all processes in our children move back, and the children are
//! removed.
//!
//! It needs only the journal's entry, wherever the agent was killed: each step is done if it is
//! due. The limit has been lifted before. In cgroup v2 the memory controller is disabled for the
//! children first, because no process could return otherwise. If others use the children by now,
//! these stay, without our limit.

use std::{fmt, fs, io, path::Path, thread::sleep, time::Duration};

use super::{
    LEAK_CHILD, MEMORY, PASSES_MAX, REST_CHILD, SUBTREE_CONTROL, children_of, controllers,
    is_there, move_process, pids_in, wait_before,
};
use crate::act::journal::{IsolatedCgroup, JournalEntry};

/// Attempts to remove a cgroup, which may be busy for a moment after its last process has left.
const REMOVE_TRIES: u32 = 50;
const REMOVE_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Settings of a cgroup that need the memory controller, and their defaults.
const SETTINGS: [(&str, &str); 4] =
    [("memory.max", "max"), ("memory.high", "max"), ("memory.low", "0"), ("memory.min", "0")];

/// Result of a restore.
#[derive(Debug)]
pub enum Restored {
    /// The cgroup is as before.
    Complete,
    /// Others use the children, for this reason.
    UsedByOthers(String),
    /// The cgroup is gone, with its children.
    Gone,
    /// An error, in words.
    Failed(String),
}

/// Origin of the present value of a cgroup's `cgroup.subtree_control`.
#[derive(Debug, PartialEq, Eq)]
enum SubtreeControlOwner {
    AsBefore,
    Ours,
    UsedByOthers,
}

/// Restores the cgroup of an entry.
pub fn restore(entry: &JournalEntry, split: &IsolatedCgroup) -> Restored {
    if !is_there(entry) {
        return Restored::Gone;
    }
    match try_restore(&entry.directory, split) {
        Ok(restored) => restored,
        Err(_) if !is_there(entry) => Restored::Gone,
        Err((what, error)) => Restored::Failed(format!("{what}: {error}")),
    }
}

type Failed = (String, io::Error);

fn try_restore(directory: &Path, split: &IsolatedCgroup) -> Result<Restored, Failed> {
    if let Some(prior) = &split.subtree_control
        && let Some(use_by_others) = revoke_memory(directory, prior)?
    {
        return Ok(Restored::UsedByOthers(use_by_others));
    }
    let mut left = Restored::Complete;
    for child in [LEAK_CHILD, REST_CHILD] {
        let child_directory = directory.join(child);
        move_back(&child_directory, directory)
            .map_err(|error| (format!("cannot move the processes back from {child}"), error))?;
        if !remove(&child_directory).map_err(|error| (format!("cannot remove {child}"), error))? {
            left = Restored::UsedByOthers(format!(
                "others have created cgroups in {child}, so that it stays"
            ));
        }
    }
    Ok(left)
}

/// Disables the memory controller for a cgroup's children, if it was enabled by us. Returns the
/// reason if others need it.
fn revoke_memory(directory: &Path, prior: &str) -> Result<Option<String>, Failed> {
    let failed = |error| (format!("cannot restore {SUBTREE_CONTROL}"), error);
    let file = directory.join(SUBTREE_CONTROL);
    let found = fs::read_to_string(&file).map_err(failed)?;
    let stay = format!("moved processes stay in {LEAK_CHILD} and {REST_CHILD}, without a limit");
    match control(prior, &found) {
        SubtreeControlOwner::AsBefore => return Ok(None),
        SubtreeControlOwner::UsedByOthers => {
            let found = found.trim();
            return Ok(Some(format!("others changed {SUBTREE_CONTROL} to \"{found}\"; {stay}")));
        }
        SubtreeControlOwner::Ours => {}
    }
    for child in children_of(directory)
        .map_err(failed)?
        .into_iter()
        .filter(|child| !child.ends_with(LEAK_CHILD))
    {
        let name = child.file_name().unwrap_or_default().to_string_lossy();
        let is_set = |&(setting, nothing): &(&str, &str)| {
            fs::read_to_string(child.join(setting)).is_ok_and(|value| value.trim() != nothing)
        };
        if let Some((setting, _)) = SETTINGS.iter().find(|setting| is_set(setting)) {
            return Ok(Some(format!("others have set {name}/{setting}; {stay}")));
        }
    }
    match fs::write(&file, format!("-{MEMORY}")) {
        Ok(()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Ok(Some(format!("other cgroups in it use the memory controller; {stay}")))
        }
        Err(error) => Err(failed(error)),
    }
}

fn control(prior: &str, found: &str) -> SubtreeControlOwner {
    let (prior, mut found) = (controllers(prior), controllers(found));
    if found == prior {
        return SubtreeControlOwner::AsBefore;
    }
    found.remove(MEMORY);
    if found == prior { SubtreeControlOwner::Ours } else { SubtreeControlOwner::UsedByOthers }
}

/// Moves all processes of a child back, including those that are forked meanwhile.
fn move_back(child: &Path, directory: &Path) -> io::Result<()> {
    for pass in 0..PASSES_MAX {
        wait_before(pass);
        let pids = match pids_in(child) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            pids => pids?,
        };
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            move_process(directory, pid)
                .map_err(|error| io::Error::other(format!("cannot move pid {pid}: {error}")))?;
        }
    }
    Err(io::Error::other("its processes fork faster than they can be moved"))
}

/// Removes a child; returns `false` if others have created cgroups in it.
fn remove(child: &Path) -> io::Result<bool> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(child) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                if !children_of(child)?.is_empty() {
                    return Ok(false);
                }
                tries += 1;
                if tries == REMOVE_TRIES {
                    return Err(error);
                }
                sleep(REMOVE_AGAIN_AFTER);
            }
            removed => return removed.map(|()| true),
        }
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("moved processes are back in their cgroup"),
            Self::UsedByOthers(why) => f.write_str(why),
            Self::Gone => f.write_str("moved processes went with their cgroup"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_change_of_controllers_is_reverted() {
        assert_eq!(control("", ""), SubtreeControlOwner::AsBefore);
        assert_eq!(control("", "memory"), SubtreeControlOwner::Ours);
        assert_eq!(control("cpu pids", "cpu memory pids\n"), SubtreeControlOwner::Ours);
        assert_eq!(control("memory", "memory\n"), SubtreeControlOwner::AsBefore);
        for (prior, found) in [("", "io memory"), ("cpu", "memory"), ("cpu", ""), ("memory", "")] {
            assert_eq!(
                control(prior, found),
                SubtreeControlOwner::UsedByOthers,
                "{prior} to {found}"
            );
        }
    }
}
