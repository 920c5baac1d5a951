//! Putting a value into a file of a cgroup, or a property of its unit: noted first, and read back
//! after.

use std::io;

use super::{
    LimitError,
    cgroup::{self, Cgroup},
    failed,
    systemd::DropIn,
};
use crate::{act::journal::JournalEntry, sense::printable::printable_path};

/// Times that a limit is computed anew because the cgroup outgrew it before it was set.
pub const TRIES: u32 = 3;

/// Notes in the entry that a value is to be put there, and of a unit's property whether somebody
/// else has set it for this boot.
///
/// # Errors
///
/// Returns an error if that cannot be told.
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
            .map_err(failed("its drop-in cannot be looked for"))?
    {
        unit.had_drop_ins.insert(file.to_owned());
    }
    entry.want(file, found, value);
    Ok(())
}

/// Writes a value and reads it back.
///
/// # Errors
///
/// Returns an error if it is not there then.
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
        return Err(failed(&what)(io::Error::other(format!("it says {found} after the write"))));
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
