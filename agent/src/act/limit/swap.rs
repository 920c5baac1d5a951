//! Swap beside the limit: what is held in memory alone goes on into swap, and fills that.
//!
//! A limited cgroup may keep in swap what it has there, and no more. That kills nobody: above
//! `memory.high` the kernel slows down and does not kill, with swap or without. At a hard limit it
//! would, where pages cannot go to swap any more; so a cgroup that has one, or is below one, keeps
//! its swap. It is set once, before the limit: what others make of it is theirs, and where the
//! cgroup thrashes the limit gives it memory. A lower one stays. Cold start, and failure: where the
//! host has no swap, or the kernel does not count it, nothing is written; swap that is turned on
//! later is not held. None in version 1: its limit is on memory and swap together, and at that the
//! kernel kills.

use std::fs;

use super::{
    LimitError,
    cgroup::{self, Cgroup, MEMORY_SWAP_MAX, Version},
    failed,
};

/// What is to be put there when a limit is set, and what is there now; `None` where it stays as it
/// is.
///
/// # Errors
///
/// Returns an error if that cannot be told.
pub fn planned(target: &Cgroup) -> Result<Option<(String, String)>, LimitError> {
    if target.version() == Version::V1 || !target.has(MEMORY_SWAP_MAX) || !host_has_swap() {
        return Ok(None);
    }
    if target.is_bounded().map_err(failed("the hard limits above it cannot be read"))? {
        return Ok(None);
    }
    let file = target.name(MEMORY_SWAP_MAX);
    let read =
        || Ok((target.read(file)?, target.read_file(MEMORY_SWAP_MAX)?, target.swapped_bytes()?));
    let (found, effective, swapped_bytes) =
        read().map_err(failed(format!("{file} cannot be read")))?;
    let both = [cgroup::limit_bytes(&found), cgroup::limit_bytes(&effective)];
    let value = wanted_bytes(both, swapped_bytes).map(|bytes| bytes.to_string());
    Ok(value.map(|value| (found, value)))
}

/// The most that it may have in swap; `None` where one of those that are there lets it have no
/// more.
fn wanted_bytes(found_bytes: [Option<u64>; 2], swapped_bytes: u64) -> Option<u64> {
    const PAGE_BYTES: u64 = 4_096;
    let wanted_bytes = swapped_bytes.checked_next_multiple_of(PAGE_BYTES)?;
    found_bytes.into_iter().flatten().all(|found| found > wanted_bytes).then_some(wanted_bytes)
}

/// Whether the host has any; where that cannot be told there is none to fill.
fn host_has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().nth(1).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_in_swap_may_stay_there_and_a_lower_one_stays() {
        assert_eq!(wanted_bytes([None, None], 0), Some(0));
        assert_eq!(wanted_bytes([None, Some(2 * MIB)], MIB), Some(MIB));
        for lower in [[Some(MIB), None], [None, Some(MIB)], [Some(0), Some(2 * MIB)]] {
            assert_eq!(wanted_bytes(lower, MIB), None, "{lower:?}");
        }
        assert_eq!(wanted_bytes([None, Some(0)], 0), None, "it may have none, and has none");
    }

    proptest! {
        #[test]
        fn swap_limit_is_never_wider_nor_below_what_is_swapped(
            found in prop::array::uniform2(prop::option::of(any::<u64>())),
            swapped_bytes: u64,
        ) {
            if let Some(bytes) = wanted_bytes(found, swapped_bytes) {
                prop_assert!(bytes >= swapped_bytes && bytes - swapped_bytes < 4_096 && bytes % 4_096 == 0);
                prop_assert!(found.into_iter().flatten().all(|found| bytes < found));
            }
        }
    }
}
