//! Setting a limit: on disk first, and then in place.

use std::io;

use super::{
    Failure, Refusal, failed,
    hold::least_bytes,
    target::{self, Target},
};
use crate::act::journal::{Entry, Journal};

/// Times that a limit is computed anew because the cgroup outgrew it before it was set.
const TRIES: u32 = 3;

/// Sets `wanted_bytes`, or the least that there may be, and gives it. Looks at what is used just before, so that the margin is whole when
/// the kernel gets it.
///
/// # Errors
///
/// Why it is not set, or not all of it: what the entry says may have been done.
pub fn set(
    journal: &Journal,
    target: &Target,
    entry: &mut Entry,
    margin_bytes: u64,
    wanted_bytes: Option<u64>,
) -> Result<u64, Failure> {
    let usage = || target.usage_bytes().map_err(failed("what it uses cannot be read"));
    for _ in 0..TRIES {
        let limit_bytes = match wanted_bytes {
            Some(bytes) => bytes,
            None => least_bytes(usage()?, margin_bytes),
        };
        let mut due = Vec::new();
        for (file, value) in target.values(limit_bytes) {
            let found = target.read(file).map_err(failed(format!("{file} cannot be read")))?;
            let is_lower =
                file == target.limit_file() && target::limit_bytes(&found).is_some_and(|bytes| bytes <= limit_bytes);
            if is_lower && !entry.is_ours(file, &found) {
                return Err(Refusal::Lower { file, found, wanted_bytes: limit_bytes }.into());
            }
            // What stands in the cgroup may have been changed behind systemd's back.
            if found != value || wanted_bytes.is_some() {
                entry.want(file, &found, &value);
                due.push((file, value));
            }
        }
        journal.put(entry).map_err(failed("the journal cannot be written"))?;
        if usage()?.saturating_add(margin_bytes) > limit_bytes {
            if wanted_bytes.is_some() {
                break;
            }
            continue;
        }
        for (file, value) in due {
            write(target, file, value)?;
        }
        return Ok(limit_bytes);
    }
    Err(Refusal::TooFast.into())
}

/// Writes a value and reads it back.
fn write(target: &Target, file: &'static str, value: String) -> Result<(), Failure> {
    let what = match target.unit() {
        Some(unit) => format!("{file}={value} of {unit}"),
        None => format!("{}/{file}={value}", target.directory.display()),
    };
    target.write(file, &value).map_err(failed(&what))?;
    let found = target.read(file).map_err(failed(&what))?;
    if found != value {
        return Err(failed(&what)(io::Error::other(format!("it says {found} after the write"))));
    }
    if file == target.limit_file() {
        let stands = target.limit_now().map_err(failed(&what))?;
        if target::limit_bytes(&stands) != target::limit_bytes(&value) {
            return Err(failed(&what)(io::Error::other(format!("{stands} stands in the cgroup after the write"))));
        }
    }
    Ok(())
}
