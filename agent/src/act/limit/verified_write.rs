//! Write-ahead and verification: a value is recorded in the journal's entry, written to a file of
//! the cgroup or a property of its unit, and read back.

use std::io;

use super::{
    LimitError,
    cgroup::{self, Cgroup},
    failed,
    systemd::DropIn,
};
use crate::{act::journal::JournalEntry, sense::printable::printable_path};

/// Attempts to set a limit while the usage keeps growing past it.
pub const TRIES: u32 = 3;

/// Records in the entry that a value is to be written, and whether others have set the property of
/// the unit for this boot.
///
/// # Errors
///
/// Returns an error if the latter is unknown.
pub fn record_intent(
    target: &Cgroup,
    entry: &mut JournalEntry,
    file: &'static str,
    found: &str,
    value: &str,
) -> Result<(), LimitError> {
    if entry.change(file).is_none()
        && target.unit().is_some()
        && let Some(unit) = &mut entry.unit
        && DropIn::of(&unit.name, file)
            .exists()
            .map_err(failed(format!("cannot look up the drop-in of {} for {file}", unit.name)))?
    {
        unit.had_drop_ins.insert(file.to_owned());
    }
    entry.record(file, found, value);
    Ok(())
}

/// Writes a value and reads it back.
///
/// # Errors
///
/// Returns an error if the value cannot be written, or differs when read back.
pub fn write_and_verify(
    target: &Cgroup,
    file: &'static str,
    value: String,
) -> Result<(), LimitError> {
    let what = match target.unit() {
        Some(unit) => format!("{file}={value} of {unit}"),
        None => format!("{}/{file}={value}", printable_path(&target.directory)),
    };
    target.write(file, &value).map_err(failed(&what))?;
    let found = target.read(file).map_err(failed(&what))?;
    if found != value {
        return Err(failed(&what)(io::Error::other(format!("reads {found} after the write"))));
    }
    if file == target.limit_file() {
        let effective = target.effective_limit().map_err(failed(&what))?;
        if cgroup::limit_bytes(&effective) != cgroup::limit_bytes(&value) {
            return Err(failed(&what)(io::Error::other(format!(
                "the cgroup has {effective} after the write"
            ))));
        }
    }
    Ok(())
}
