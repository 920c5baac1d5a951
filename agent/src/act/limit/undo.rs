//! Undo of recorded changes, by the agent, its next run, or `spillway undo` without an agent.
//!
//! A file with a value of ours gets the original value back. A file with any other value was
//! changed by others and is left alone. An entry is removed once nothing is left to undo.

use std::{fmt, io, sync::Arc};

use super::{
    cgroup::Cgroup,
    isolate::{self, Restored},
    systemd::DropIn,
};
use crate::{
    act::{
        Journal,
        journal::{Change, JournalEntry, Unreadable},
        outcome::{Outcome, OutcomeCause, OutcomeKind},
    },
    os::CgroupDir,
    sense::printable::printable_path,
};

/// Result for one entry.
#[derive(Debug)]
pub struct Undone {
    cause: OutcomeCause,
    cgroup: String,
    files: Vec<(String, RestoreState)>,
    /// Result for the child cgroups, if the cgroup was divided.
    restored: Option<Restored>,
    /// Error, if the entry was kept or could not be read.
    error: Option<String>,
}

/// Result for one file.
#[derive(Debug)]
enum RestoreState {
    /// The original value was restored.
    Restored(String),
    /// The file has its original value already.
    AsBefore,
    /// Others have changed the value.
    ChangedByOthers {
        found: String,
        wanted: String,
    },
    /// The cgroup is gone.
    Gone,
    Failed(io::Error),
}

/// Undoes every entry of a journal.
pub fn undo_all(journal: &Journal) -> Vec<Undone> {
    match journal.entries() {
        Ok((entries, unreadable)) => entries
            .iter()
            .map(|entry| undo(journal, entry))
            .chain(unreadable.into_iter().map(Undone::from))
            .collect(),
        Err(error) => {
            let error = format!("cannot read the journal: {error}\n  hint: check record.state_dir");
            vec![Undone::failed(String::new(), error)]
        }
    }
}

/// Undoes one entry.
pub fn undo(journal: &Journal, entry: &JournalEntry) -> Undone {
    let mut undone = Undone {
        cause: OutcomeCause::Incidents(entry.incidents_by_name()),
        cgroup: printable_path(&entry.directory).to_string(),
        files: Vec::new(),
        restored: None,
        error: None,
    };
    // An entry may contain anything, and only a cgroup may be written. The directory of a unit may
    // be gone, while its next cgroup exists.
    if let Err(error) = CgroupDir::open(&entry.directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        undone.error = Some(format!("not restored, and kept in the journal: {error}"));
        return undone;
    }
    let target = match &entry.unit {
        // The properties would apply to the unit's next cgroup.
        Some(unit) => {
            Some(Cgroup::of_unit(entry.directory.clone(), entry.inode, unit.name.clone()))
        }
        None if entry.split.is_some() => isolate::leak_child(entry),
        None => Cgroup::at(entry.directory.clone()).filter(|target| target.inode == entry.inode),
    };
    // In reverse order: the limit goes before the setting that keeps it from killing.
    for change in entry.changes.iter().rev() {
        let state = match &target {
            Some(target) => restore(target, change),
            None => RestoreState::Gone,
        };
        if let Some(unit) = &entry.unit
            && !matches!(state, RestoreState::ChangedByOthers { .. } | RestoreState::Failed(_))
            && !unit.had_drop_in(&change.file)
            && let Err(error) = DropIn::of(&unit.name, &change.file).remove()
        {
            undone.error = Some(format!(
                "cannot remove the drop-in of {} for {}: {error}",
                unit.name, change.file
            ));
        }
        undone.files.push((change.file.clone(), state));
    }
    // Others limit the processes in the child cgroup, so these have to stay in it.
    undone.restored = entry.split.as_ref().map(|split| match undone.changed_by_others() {
        Some(file) => {
            Restored::UsedByOthers(format!("moved processes stay: others have changed {file}"))
        }
        None => isolate::restore(entry, split),
    });
    if undone.is_done()
        && let Err(error) = journal.remove(entry)
    {
        undone.error = Some(format!("cannot remove the entry from the journal: {error}"));
    }
    undone
}

fn restore(target: &Cgroup, change: &Change) -> RestoreState {
    let try_put_back = || -> io::Result<RestoreState> {
        let found = target.read(&change.file)?;
        if found == change.prior {
            return Ok(RestoreState::AsBefore);
        }
        if !change.wanted.contains(&found) {
            let wanted = change.wanted.last().cloned().unwrap_or_default();
            return Ok(RestoreState::ChangedByOthers { found, wanted });
        }
        target.write(&change.file, &change.prior)?;
        match target.read(&change.file)? {
            now if now == change.prior => Ok(RestoreState::Restored(now)),
            now => Err(io::Error::other(format!("reads {now} after {} was written", change.prior))),
        }
    };
    match try_put_back() {
        Err(error) if target.is_gone(&error) => RestoreState::Gone,
        Err(error) => RestoreState::Failed(error),
        Ok(state) => state,
    }
}

impl Undone {
    fn failed(cgroup: String, error: String) -> Self {
        Self {
            cause: OutcomeCause::UNKNOWN,
            cgroup,
            files: Vec::new(),
            restored: None,
            error: Some(error),
        }
    }

    /// First file that others have changed.
    fn changed_by_others(&self) -> Option<&str> {
        self.files
            .iter()
            .find(|(_, state)| matches!(state, RestoreState::ChangedByOthers { .. }))
            .map(|(file, _)| file.as_str())
    }

    /// Returns whether others use the child cgroups of a divided cgroup.
    pub fn is_in_use(&self) -> bool {
        matches!(self.restored, Some(Restored::UsedByOthers(_)))
    }

    /// Returns whether nothing is left to undo.
    pub fn is_done(&self) -> bool {
        self.error.is_none()
            && !self.files.iter().any(|(_, state)| matches!(state, RestoreState::Failed(_)))
            && !matches!(self.restored, Some(Restored::Failed(_)))
    }

    /// Converts the result to an outcome at `t`.
    pub fn outcome(&self, t: f64) -> Outcome {
        let all_gone = !self.files.is_empty()
            && self.files.iter().all(|(_, state)| matches!(state, RestoreState::Gone))
            && matches!(self.restored, None | Some(Restored::Gone));
        let event = match () {
            () if !self.is_done() => OutcomeKind::Failed,
            () if all_gone => OutcomeKind::CgroupRemoved,
            () if self.changed_by_others().is_some() || self.is_in_use() => OutcomeKind::Overridden,
            () => OutcomeKind::Undone,
        };
        let (cause, cgroup) = (self.cause.clone(), Arc::from(self.cgroup.as_str()));
        Outcome { t, event, cause, cgroup, limit_bytes: None, why: self.to_string() }
    }

    /// Directory of the cgroup, or path of the entry that cannot be read.
    pub fn place(&self) -> &str {
        &self.cgroup
    }
}

impl From<Unreadable> for Undone {
    fn from(unreadable: Unreadable) -> Self {
        // The hint below replaces another one.
        let why = unreadable.error.split("\n  hint: ").next().unwrap_or_default();
        let error = format!(
            "cannot read this entry of the journal: {why}\n  hint: restore the values in it by \
            hand, and remove the file"
        );
        Self::failed(unreadable.path.display().to_string(), error)
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (file, state) in &self.files {
            write!(f, "{separator}")?;
            separator = "; ";
            match state {
                RestoreState::Restored(prior) => write!(f, "{file} restored to {prior}"),
                RestoreState::AsBefore => write!(f, "{file} already has its original value"),
                RestoreState::ChangedByOthers { found, wanted } => {
                    write!(
                        f,
                        "{file} is {found}, changed by others after Spillway set {wanted}, and is \
                         left as it is"
                    )
                }
                RestoreState::Gone => write!(f, "{file} was removed with its cgroup"),
                RestoreState::Failed(error) => write!(f, "cannot restore {file}: {error}"),
            }?;
        }
        if let Some(restored) = &self.restored {
            write!(f, "{separator}{restored}")?;
            separator = "; ";
        }
        match &self.error {
            Some(error) => write!(f, "{separator}{error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::decide::IncidentId;

    #[test]
    fn one_undo_ends_both_incidents_of_a_limit() {
        let dir = std::env::temp_dir().join(format!("spillway-undo-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let journal = Journal::claim(&dir).unwrap();
        let mut entry = journal.entry(PathBuf::from("/sys/fs/cgroup/no-such-cgroup"), 7);
        let ids = ["leak-10-1", "leak-9-1"].map(IncidentId::from);
        entry.incidents.extend(ids.clone());
        entry.record("memory.high", "max", "4096");
        journal.write(&mut entry).unwrap();
        let on_disk = fs::read_to_string(dir.join("journal/cgroup-7.json")).unwrap();
        assert!(on_disk.contains(r#""incidents":["leak-10-1","leak-9-1"]"#), "{on_disk}");

        let undone = undo_all(&journal);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(undone.len(), 1);
        let outcome = undone[0].outcome(1.0);
        assert_eq!(outcome.event, OutcomeKind::CgroupRemoved);
        assert_eq!(outcome.cause.incidents(), ids);
        assert_eq!(serde_json::to_value(&outcome).unwrap()["id"], "leak-10-1, leak-9-1");
    }
}
