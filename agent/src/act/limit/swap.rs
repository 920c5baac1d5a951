//! Swap limit beside the memory limit: memory that may not grow would go to swap instead, and fill
//! it.
//!
//! A limited cgroup may keep what it has in swap, and no more. That kills nothing: above
//! `memory.high` the kernel throttles, with swap or without. At a hard limit it would kill if pages
//! cannot be swapped out, so a cgroup with a hard limit, its own or an ancestor's, keeps its swap.
//! The swap limit is set once, before the memory limit; later changes by others stay, and for a
//! thrashing cgroup the memory limit is raised. A lower swap limit stays. If the host has no swap,
//! or the kernel does not count it, nothing is written; swap that is turned on later is not
//! limited. Not in cgroup v1, whose limit is on memory and swap together: the kernel would kill.

use std::fs;

use super::{
    LimitError,
    cgroup::{self, Cgroup, MEMORY_SWAP_MAX, Version},
    failed,
};

/// Returns the present value and the one to write; `None` to leave it unchanged.
///
/// # Errors
///
/// Returns an error if they are unknown.
pub fn planned(target: &Cgroup) -> Result<Option<(String, String)>, LimitError> {
    if target.version() == Version::V1 || !target.has(MEMORY_SWAP_MAX) || !host_has_swap() {
        return Ok(None);
    }
    if target
        .is_bounded()
        .map_err(failed("cannot read the hard limits of the cgroup and its ancestors"))?
    {
        return Ok(None);
    }
    let file = target.name(MEMORY_SWAP_MAX);
    let read =
        || Ok((target.read(file)?, target.read_file(MEMORY_SWAP_MAX)?, target.swapped_bytes()?));
    let (found, effective, swapped_bytes) =
        read().map_err(failed(format!("cannot read {file}")))?;
    let both = [cgroup::limit_bytes(&found), cgroup::limit_bytes(&effective)];
    let value = wanted_bytes(both, swapped_bytes).map(|bytes| bytes.to_string());
    Ok(value.map(|value| (found, value)))
}

/// Returns the swap limit to set; `None` if a present one is as low.
fn wanted_bytes(found_bytes: [Option<u64>; 2], swapped_bytes: u64) -> Option<u64> {
    const PAGE_BYTES: u64 = 4_096;
    let wanted_bytes = swapped_bytes.checked_next_multiple_of(PAGE_BYTES)?;
    found_bytes.into_iter().flatten().all(|found| found > wanted_bytes).then_some(wanted_bytes)
}

/// Returns whether the host has swap; if unknown, it counts as none.
fn host_has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().nth(1).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn swapped_memory_may_stay_and_lower_limit_is_kept() {
        assert_eq!(wanted_bytes([None, None], 0), Some(0));
        assert_eq!(wanted_bytes([None, Some(2 * MIB)], MIB), Some(MIB));
        for lower in [[Some(MIB), None], [None, Some(MIB)], [Some(0), Some(2 * MIB)]] {
            assert_eq!(wanted_bytes(lower, MIB), None, "{lower:?}");
        }
        assert_eq!(wanted_bytes([None, Some(0)], 0), None, "no swap is allowed already");
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
