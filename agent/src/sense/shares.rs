//! Sets right how much of a map each user and namespace takes, as the BPF side counts it.
//!
//! The kernel's count is ahead or behind by what two CPUs did at once, or what was removed from
//! here. What comes while it is set right is missed until the next time.

use std::io;

use foldhash::{HashMap, HashMapExt as _};
use spillway_ebpf::SHARE_OF_ALL;

use crate::bpf::BatchMap;

/// Entries taken, by whose they are.
pub type Shares = BatchMap<u64, u64>;

/// Writes the true counts, of which `owners` has one for each entry of the map; 0 takes no share.
///
/// # Errors
///
/// The map cannot be read or written.
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

/// Removes those that have nothing any more.
///
/// # Errors
///
/// The map cannot be read or written.
pub(super) fn tidy(shares: &mut Shares) -> io::Result<()> {
    let mut gone = Vec::new();
    shares.read(|&owner, &count| {
        if count == 0 {
            gone.push(owner);
        }
    })?;
    gone.iter().try_for_each(|owner| shares.take(owner).map(drop))
}
