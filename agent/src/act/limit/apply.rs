//! Setting a limit: on disk first, and then in place.

use super::{
    LimitError, LimitRefusal,
    cgroup::{self, Cgroup, MEMORY_SWAP_MAX},
    controller::min_limit_bytes,
    failed,
    memory_max::{has_backstop, raise_backstop},
    swap,
    verified_write::{TRIES, record_intent, write_and_verify},
};
use crate::{
    act::journal::{Journal, JournalEntry},
    config::LimitConfig,
};

/// Sets `wanted_bytes`, or the least that there may be, and gives it; and what is beside it: what
/// may be in swap, and the backstop. Looks at what is used just before, so that the margin is whole
/// when the kernel gets it. Where systemd gives no answer the files are written.
///
/// # Errors
///
/// Returns an error if it is not set, or only in part: the entry lists what may have been done.
pub fn apply(
    journal: &Journal,
    target: &mut Cgroup,
    entry: &mut JournalEntry,
    config: &LimitConfig,
    wanted_bytes: Option<u64>,
) -> Result<u64, LimitError> {
    match apply_all(journal, target, entry, config, wanted_bytes) {
        Err(failure) if failure.is_unresponsive() => {
            target.bypass_systemd();
            apply_all(journal, target, entry, config, wanted_bytes)
        }
        done => done,
    }
}

fn apply_all(
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
    config: &LimitConfig,
    wanted_bytes: Option<u64>,
) -> Result<u64, LimitError> {
    // A backstop that stands gets out of the way first; a new one comes once the limit holds.
    if let Some(wanted_bytes) = wanted_bytes
        && has_backstop(entry, target)
    {
        raise_backstop(journal, target, entry, config, wanted_bytes)?;
    }
    let limit_bytes = apply_limit(journal, target, entry, config.margin_bytes, wanted_bytes)?;
    if wanted_bytes.is_none() {
        raise_backstop(journal, target, entry, config, limit_bytes)?;
    }
    Ok(limit_bytes)
}

fn apply_limit(
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
    margin_bytes: u64,
    wanted_bytes: Option<u64>,
) -> Result<u64, LimitError> {
    let usage_now = || target.usage_bytes().map_err(failed("what it uses cannot be read"));
    for _ in 0..TRIES {
        let limit_bytes = match wanted_bytes {
            Some(bytes) => bytes,
            None => min_limit_bytes(usage_now()?, margin_bytes),
        };
        let mut due = Vec::new();
        // Before the limit: what is over that would go there.
        if wanted_bytes.is_none()
            && let Ok(Some((found, value))) = swap::planned(target)
        {
            let file = target.name(MEMORY_SWAP_MAX);
            record_intent(target, entry, file, &found, &value)?;
            due.push((file, value));
        }
        for (file, value) in target.values(limit_bytes) {
            let found = target.read(file).map_err(failed(format!("{file} cannot be read")))?;
            let is_lower = file == target.limit_file()
                && cgroup::limit_bytes(&found).is_some_and(|bytes| bytes <= limit_bytes);
            // What systemd was told and gave no answer to, it may have done since.
            let is_ours = entry.is_ours(file, &found)
                || cgroup::property(file).is_some_and(|property| entry.is_ours(property, &found));
            if is_lower && !is_ours {
                return Err(LimitRefusal::Lower { file, found, wanted_bytes: limit_bytes }.into());
            }
            // What stands in the cgroup may have been changed behind systemd's back.
            if found != value || wanted_bytes.is_some() {
                record_intent(target, entry, file, &found, &value)?;
                due.push((file, value));
            }
        }
        journal.put(entry).map_err(failed("the journal cannot be written"))?;
        if usage_now()?.saturating_add(margin_bytes) > limit_bytes {
            if wanted_bytes.is_some() {
                break;
            }
            continue;
        }
        for (file, value) in due {
            match write_and_verify(target, file, value) {
                // The limit counts; without this the leak may go on in swap, and shows there.
                Err(error) if file == target.name(MEMORY_SWAP_MAX) => {
                    tracing::warn!("swap is not held: {error}")
                }
                written => written?,
            }
        }
        return Ok(limit_bytes);
    }
    Err(LimitRefusal::TooFast.into())
}
