//! The hard limit `memory.max`, an option: for a leak that outruns the limit that throttles.
//!
//! The kernel kills in a cgroup that reaches it. So it is set only if the operator configures it,
//! and never closer to the usage than the margin and the configured distance. It is raised with
//! the limit and never lowered, and never exceeds the original value. A value changed by others is
//! left to them. Not in cgroup v1, whose limit is a hard one already.

use super::{
    LimitError, LimitRefusal,
    cgroup::{self, Cgroup, MEMORY_MAX, Version},
    controller::min_limit_bytes,
    failed,
    verified_write::{TRIES, record_intent, write_and_verify},
};
use crate::{
    act::journal::{Journal, JournalEntry},
    config::LimitConfig,
};

/// Content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemoryMaxState {
    /// No value of ours yet; the original one, if there is a limit.
    Before(Option<u64>),
    /// Value that we wrote over the original one.
    Ours { bytes: u64, prior_bytes: Option<u64> },
    /// Value that others wrote over ours.
    Theirs,
}

/// Returns the value to write for a limit; `None` to leave it unchanged.
fn next_bytes(state: MemoryMaxState, limit_bytes: u64, distance_bytes: u64) -> Option<u64> {
    const PAGE_BYTES: u64 = 4_096;
    let wanted_bytes = limit_bytes.saturating_add(distance_bytes).min(u64::MAX - PAGE_BYTES);
    let wanted_bytes = wanted_bytes.next_multiple_of(PAGE_BYTES);
    match state {
        MemoryMaxState::Before(found) => {
            found.is_none_or(|found| found > wanted_bytes).then_some(wanted_bytes)
        }
        MemoryMaxState::Ours { bytes, prior_bytes } => {
            let wanted_bytes = prior_bytes.map_or(wanted_bytes, |prior| prior.min(wanted_bytes));
            (wanted_bytes > bytes).then_some(wanted_bytes)
        }
        MemoryMaxState::Theirs => None,
    }
}

/// Returns whether a hard limit was set for this entry.
pub fn has_backstop(entry: &JournalEntry, target: &Cgroup) -> bool {
    entry.change(target.name(MEMORY_MAX)).is_some()
}

/// Sets the hard limit above `limit_bytes`, or above the usage if that is higher, unless the
/// present value has to stay.
///
/// # Errors
///
/// Returns an error if it is not set: the entry lists possible changes.
pub fn raise_backstop(
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
    config: &LimitConfig,
    limit_bytes: u64,
) -> Result<(), LimitError> {
    let Some(distance_bytes) = config.backstop_bytes.filter(|_| target.version() == Version::V2)
    else {
        return Ok(());
    };
    let file = target.name(MEMORY_MAX);
    let usage =
        || target.usage_bytes().map_err(failed("cannot read the memory usage of the cgroup"));
    let before = entry.change(file).cloned();
    for _ in 0..TRIES {
        let found = target.read(file).map_err(failed(format!("cannot read {file}")))?;
        let found_bytes = cgroup::limit_bytes(&found);
        let state = match (&before, found_bytes) {
            // The value in the cgroup may be lower than systemd's.
            (None, _) => {
                let effective = target
                    .read_file(MEMORY_MAX)
                    .map_err(failed(format!("cannot read {MEMORY_MAX}")))?;
                let both = found_bytes.into_iter().chain(cgroup::limit_bytes(&effective));
                MemoryMaxState::Before(both.min())
            }
            (Some(change), Some(bytes)) if change.wanted.contains(&found) => {
                MemoryMaxState::Ours { bytes, prior_bytes: cgroup::limit_bytes(&change.prior) }
            }
            (Some(_), _) => MemoryMaxState::Theirs,
        };
        let usage_bytes = usage()?;
        let outgrown = usage_bytes.saturating_add(config.margin_bytes) > limit_bytes;
        let above =
            if outgrown { min_limit_bytes(usage_bytes, config.margin_bytes) } else { limit_bytes };
        let Some(bytes) = next_bytes(state, above, distance_bytes) else { return Ok(()) };
        let value = bytes.to_string();
        record_intent(target, entry, file, &found, &value)?;
        journal.write(entry).map_err(failed("cannot write the journal"))?;
        // The original value needs no margin: it was in effect before the limit.
        let is_prior = before.as_ref().is_some_and(|change| change.prior == value);
        let least = usage()?.saturating_add(config.margin_bytes).saturating_add(distance_bytes);
        if least <= bytes || is_prior {
            return write_and_verify(target, file, value);
        }
    }
    Err(LimitRefusal::TooFast.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const MARGIN: u64 = 64 * MIB;
    const DISTANCE: u64 = 256 * MIB;

    #[test]
    fn lower_existing_hard_limit_stays() {
        for found in [1, 100 * MIB, 356 * MIB] {
            assert_eq!(
                next_bytes(MemoryMaxState::Before(Some(found)), 100 * MIB, DISTANCE),
                None,
                "{found}"
            );
        }
        for found in [None, Some(356 * MIB + 1)] {
            assert_eq!(
                next_bytes(MemoryMaxState::Before(found), 100 * MIB, DISTANCE),
                Some(356 * MIB),
                "{found:?}"
            );
        }
    }

    #[test]
    fn backstop_widens_with_the_limit_and_never_narrows() {
        let ours = |bytes, prior_bytes| MemoryMaxState::Ours { bytes, prior_bytes };
        assert_eq!(next_bytes(ours(356 * MIB, None), 200 * MIB, DISTANCE), Some(456 * MIB));
        assert_eq!(
            next_bytes(ours(356 * MIB, Some(400 * MIB)), 200 * MIB, DISTANCE),
            Some(400 * MIB)
        );
        assert_eq!(next_bytes(ours(400 * MIB, Some(400 * MIB)), 300 * MIB, DISTANCE), None);
        assert_eq!(next_bytes(ours(356 * MIB, None), 50 * MIB, DISTANCE), None);
    }

    #[test]
    fn hard_limit_changed_by_others_stays() {
        assert_eq!(next_bytes(MemoryMaxState::Theirs, 100 * MIB, DISTANCE), None);
    }

    proptest! {
        #[test]
        fn backstop_keeps_its_distance_and_is_never_wider(
            prior_mib in prop::option::of(0..4_000_u64),
            steps in prop::collection::vec((0..2_000_u64, 0..200_u64), 1..50),
            distance_bytes in 4 * MARGIN..1 << 34,
        ) {
            let prior_bytes = prior_mib.map(|mib| mib * MIB);
            let mut state = MemoryMaxState::Before(prior_bytes);
            for (usage_mib, wider_mib) in steps {
                let usage_bytes = usage_mib * MIB;
                let limit_bytes = min_limit_bytes(usage_bytes, MARGIN) + wider_mib * MIB;
                let Some(bytes) = next_bytes(state, limit_bytes, distance_bytes) else { continue };
                prop_assert!(bytes >= usage_bytes + MARGIN + distance_bytes || Some(bytes) == prior_bytes);
                prop_assert!(prior_bytes.is_none_or(|prior| bytes <= prior));
                if let MemoryMaxState::Ours { bytes: before, .. } = state {
                    prop_assert!(bytes > before);
                }
                prop_assert_eq!(bytes % 4_096, 0);
                state = MemoryMaxState::Ours { bytes, prior_bytes };
            }
        }
    }
}
