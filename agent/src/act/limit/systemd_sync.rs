//! Sets a limit in systemd that was written to the cgroup's files while systemd did not answer.
//!
//! If memory is short, systemd may wait half a minute for its own pages, and a leak does not wait.
//! A value in a unit's file contains the leak at once, but only until systemd writes the file
//! again; so the properties follow. The journal holds both: an undo writes the properties first,
//! from which systemd writes the files. Failure: tried again with the next check. A property that
//! others lowered meanwhile stays, and the change is noticed in the cgroup.

use super::{
    LimitError,
    cgroup::{self, Cgroup},
    failed,
    verified_write::record_intent,
};
use crate::act::journal::{ChangedUnit, Journal, JournalEntry};

/// Sets the unit's properties to the values in the files of `target`, whose path is `cgroup` and
/// whose limit is `limit_bytes`. Returns the cgroup as one of its unit.
///
/// # Errors
///
/// Returns an error if not all are set: the entry lists possible changes.
pub fn sync_with_systemd(
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
    cgroup: &str,
    limit_bytes: u64,
) -> Result<Cgroup, LimitError> {
    let failed_for = |what: &str| failed(format!("{what} of {cgroup}"));
    let target_of_unit = target.retry_unit_lookup(cgroup).map_err(failed_for("the unit"))?;
    let Some(unit) = target_of_unit.unit() else { return Ok(target_of_unit) };
    entry.unit.get_or_insert_with(|| ChangedUnit::new(unit));
    let mut due = Vec::new();
    for (file, value) in written_values(target, entry, limit_bytes) {
        let Some(property) = cgroup::property(&file) else { continue };
        let found = target_of_unit.read(property).map_err(failed_for(property))?;
        // The CPU quota has another form as a property, and is left out.
        let Some(bytes) = cgroup::limit_bytes(&value) else { continue };
        let is_theirs = |bytes| cgroup::limit_bytes(&found).is_some_and(|found| found <= bytes);
        if found != value && (entry.is_ours(property, &found) || !is_theirs(bytes)) {
            record_intent(&target_of_unit, entry, property, &found, &value)?;
            due.push((property, value));
        }
    }
    journal.write(entry).map_err(failed("cannot write the journal"))?;
    for (property, value) in due {
        target_of_unit.write(property, &value).map_err(failed_for(property))?;
    }
    Ok(target_of_unit)
}

/// Values written to the files: the limit, and those set with it.
fn written_values(
    target: &Cgroup,
    entry: &JournalEntry,
    limit_bytes: u64,
) -> Vec<(String, String)> {
    let mut written_values = vec![(target.limit_file().to_owned(), limit_bytes.to_string())];
    for change in entry.changes.iter().filter(|change| change.file != target.limit_file()) {
        written_values
            .extend(change.wanted.last().map(|value| (change.file.clone(), value.clone())));
    }
    written_values
}
