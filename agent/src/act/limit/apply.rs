//! Applies a limit: to the journal first, and then to the cgroup.

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

/// Applies `wanted_bytes`, or the lowest possible limit without it, and returns the limit; with it
/// the limit of swap and the hard limit. Reads the usage just before the write, so that the margin
/// is complete when the kernel gets the limit. If systemd does not answer, writes the files.
///
/// # Errors
///
/// Returns an error if the limit is not set, or only in part: the entry lists possible changes.
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
    // An existing hard limit is raised before the limit; a new one is set after it.
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
    let usage_now =
        || target.usage_bytes().map_err(failed("cannot read the memory usage of the cgroup"));
    for _ in 0..TRIES {
        let limit_bytes = match wanted_bytes {
            Some(bytes) => bytes,
            None => min_limit_bytes(usage_now()?, margin_bytes),
        };
        let mut due = Vec::new();
        // Before the limit: memory above the limit would be swapped out.
        if wanted_bytes.is_none()
            && let Ok(Some((found, value))) = swap::planned(target)
        {
            let file = target.name(MEMORY_SWAP_MAX);
            record_intent(target, entry, file, &found, &value)?;
            due.push((file, value));
        }
        for (file, value) in target.values(limit_bytes) {
            let found = target.read(file).map_err(failed(format!("cannot read {file}")))?;
            let is_lower = file == target.limit_file()
                && cgroup::limit_bytes(&found).is_some_and(|bytes| bytes <= limit_bytes);
            // systemd may have carried out a change later than it was waited for.
            let is_ours = entry.is_ours(file, &found)
                || cgroup::property(file).is_some_and(|property| entry.is_ours(property, &found));
            if is_lower && !is_ours {
                return Err(LimitRefusal::Lower { file, found, wanted_bytes: limit_bytes }.into());
            }
            // A file may have been written without systemd.
            if found != value || wanted_bytes.is_some() {
                record_intent(target, entry, file, &found, &value)?;
                due.push((file, value));
            }
        }
        journal.write(entry).map_err(failed("cannot write the journal"))?;
        if usage_now()?.saturating_add(margin_bytes) > limit_bytes {
            if wanted_bytes.is_some() {
                break;
            }
            continue;
        }
        for (file, value) in due {
            match write_and_verify(target, file, value) {
                // Without this the leak may continue in swap, where it is seen; the limit counts.
                Err(error) if file == target.name(MEMORY_SWAP_MAX) => {
                    tracing::warn!("cannot limit the swap of the cgroup: {error}")
                }
                written => written?,
            }
        }
        return Ok(limit_bytes);
    }
    Err(LimitRefusal::TooFast.into())
}
