//! A limit that was written because systemd gave no answer, handed over to it once it does.
//!
//! Where memory is short systemd waits for its own pages, for half a minute, and a leak does not.
//! What is written to a unit's files contains it at once, and lasts until systemd writes them next;
//! so the properties follow. The journal holds both: whoever puts them back writes the properties
//! first, by which systemd writes the files. Failure: what is not answered is asked again with the
//! next look. It refuses a property that somebody made lower meanwhile: that is seen in the cgroup,
//! and theirs.

use super::{
    LimitError,
    cgroup::{self, Cgroup},
    failed,
    verified_write::record_intent,
};
use crate::act::journal::{ChangedUnit, Journal, JournalEntry};

/// Sets as properties what stands in the files of `target`, which is at `cgroup` and is held at
/// `limit_bytes`, and gives it as it is known then.
///
/// # Errors
///
/// Returns an error if it is not synchronised: the entry lists what may have been done.
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
        // One that is a number in both; how much CPU there is, is not.
        let Some(bytes) = cgroup::limit_bytes(&value) else { continue };
        let is_theirs = |bytes| cgroup::limit_bytes(&found).is_some_and(|found| found <= bytes);
        if found != value && (entry.is_ours(property, &found) || !is_theirs(bytes)) {
            record_intent(&target_of_unit, entry, property, &found, &value)?;
            due.push((property, value));
        }
    }
    journal.put(entry).map_err(failed("the journal cannot be written"))?;
    for (property, value) in due {
        target_of_unit.write(property, &value).map_err(failed_for(property))?;
    }
    Ok(target_of_unit)
}

/// Values in the files: the limit, and those set with it.
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
