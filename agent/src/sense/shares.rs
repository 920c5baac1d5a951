//! Correction of the counts of map entries by user and namespace, which the BPF side keeps.
//!
//! Those counts drift when two CPUs act at once, and when entries are removed from user space. An
//! entry that is added during the correction is missed until the next one.

use std::io;

use foldhash::{HashMap, HashMapExt as _};
use spillway_ebpf::SHARE_OF_ALL;

use crate::bpf::BatchMap;

/// Number of entries by owner.
pub type Shares = BatchMap<u64, u64>;

/// Writes the true counts. `owners` has the owner of each entry of the map; 0 takes no share.
///
/// # Errors
///
/// Returns an error if the map of counts cannot be read or written.
pub(super) fn settle(shares: &mut Shares, owners: impl IntoIterator<Item = u64>) -> io::Result<()> {
    let mut counts = HashMap::new();
    for owner in owners.into_iter().filter(|owner| *owner != 0) {
        *counts.entry(owner).or_insert(0u64) += 1;
        *counts.entry(SHARE_OF_ALL).or_insert(0u64) += 1;
    }
    let (mut wrong, mut gone) = (Vec::new(), Vec::new());
    shares.read(|&owner, &count| match counts.remove(&owner) {
        Some(truth) if truth == count => {}
        Some(truth) => wrong.push((owner, truth)),
        None => gone.push(owner),
    })?;
    wrong.into_iter().chain(counts).try_for_each(|(owner, truth)| shares.put(&owner, &truth))?;
    gone.iter().try_for_each(|owner| shares.take(owner).map(drop))
}

/// Removes owners without entries.
///
/// # Errors
///
/// Returns an error if the map of counts cannot be read or written.
pub(super) fn remove_empty(shares: &mut Shares) -> io::Result<()> {
    let mut gone = Vec::new();
    shares.read(|&owner, &count| {
        if count == 0 {
            gone.push(owner);
        }
    })?;
    gone.iter().try_for_each(|owner| shares.take(owner).map(drop))
}
