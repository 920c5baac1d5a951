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
pub fn hand_over(
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
    cgroup: &str,
    limit_bytes: u64,
) -> Result<Cgroup, LimitError> {
    let of = |what: &str| failed(format!("{what} of {cgroup}"));
    let asked = target.asked_again(cgroup).map_err(of("the unit"))?;
    let Some(unit) = asked.unit() else { return Ok(asked) };
    entry.unit.get_or_insert_with(|| ChangedUnit::new(unit));
    let mut due = Vec::new();
    for (file, value) in standing(target, entry, limit_bytes) {
        let Some(property) = cgroup::property(&file) else { continue };
        let found = asked.read(property).map_err(of(property))?;
        // One that is a number in both; how much CPU there is, is not.
        let Some(bytes) = cgroup::limit_bytes(&value) else { continue };
        let is_theirs = |bytes| cgroup::limit_bytes(&found).is_some_and(|found| found <= bytes);
        if found != value && (entry.is_ours(property, &found) || !is_theirs(bytes)) {
            record_intent(&asked, entry, property, &found, &value)?;
            due.push((property, value));
        }
    }
    journal.put(entry).map_err(failed("the journal cannot be written"))?;
    for (property, value) in due {
        asked.write(property, &value).map_err(of(property))?;
    }
    Ok(asked)
}

/// Values in the files: the limit, and those set with it.
fn standing(target: &Cgroup, entry: &JournalEntry, limit_bytes: u64) -> Vec<(String, String)> {
    let mut standing = vec![(target.limit_file().to_owned(), limit_bytes.to_string())];
    for change in entry.changes.iter().filter(|change| change.file != target.limit_file()) {
        standing.extend(change.wanted.last().map(|value| (change.file.clone(), value.clone())));
    }
    standing
}
