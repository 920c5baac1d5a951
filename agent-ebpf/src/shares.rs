//! Shares of a map's capacity, so that no user and no network namespace can take all of it.
//!
//! Each user from uid 1000 on gets at most a quarter, and so does each network namespace other than
//! the initial one for sockets of other users, such as root in a container. Together they get at
//! most three quarters: the last one is reserved for the system. An entry beyond its owner's share
//! is counted as a loss, and read in another way if there is one.
//!
//! - Cost: none for the system's entries; two lookups for others, on insertion and on removal.
//! - Two CPUs may both take the last place: a share is exceeded by at most as many entries as there
//!   are CPUs. The reader corrects the counts at its next pass, and removes those that are zero.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_NOEXIST, maps::HashMap};
use spillway_ebpf::{ABSENT, SHARE_OF_ALL, share_of};

use crate::{
    atomic::add_u64,
    kernel_read::{Helper, Reading, offset},
};

/// Number of entries by owner.
pub(crate) type Shares = HashMap<u64, u64>;

/// Returns the owner of a socket; 0 is the system.
#[inline(always)]
pub(crate) fn owner_of(sock: *const c_void) -> u64 {
    let net = Helper::pointer(sock, offset!(sock_net));
    let netns = net.and_then(|net| Helper::read(net, offset!(net_inum))).unwrap_or(0);
    owner_in::<Helper>(sock, netns)
}

/// Returns the owner of a socket in this network namespace.
#[inline(always)]
pub(crate) fn owner_in<R: Reading>(sock: *const c_void, netns: u32) -> u64 {
    let uid = if offset!(sock_uid) == ABSENT as usize {
        0
    } else {
        R::read(sock, offset!(sock_uid)).unwrap_or(0)
    };
    share_of(uid, netns, offset!(init_netns) as u32)
}

/// Takes a place in a map with this capacity; `false` if the share of the owner, or of all owners
/// together, is used up.
#[inline(always)]
pub(crate) fn take(shares: &Shares, room: u32, owner: u64) -> bool {
    let quarter = i64::from(room / 4);
    owner == 0 || {
        let (own, all) = (taken(shares, owner), taken(shares, SHARE_OF_ALL));
        // If there is no room for the owner's count, only the total is bounded.
        let is_over = |count: Option<*mut u64>, most: i64| {
            // SAFETY: the entry lives while the program runs; an aligned u64 is read whole.
            count.is_some_and(|count| unsafe { *count } as i64 >= most)
        };
        if is_over(own, quarter) || is_over(all, 3 * quarter) {
            return false;
        }
        change(own, 1);
        change(all, 1);
        true
    }
}

/// Returns a place.
#[inline(always)]
pub(crate) fn give_back(shares: &Shares, owner: u64) {
    if owner != 0 {
        change(shares.get_ptr_mut(owner), u64::MAX);
        change(shares.get_ptr_mut(SHARE_OF_ALL), u64::MAX);
    }
}

#[inline(always)]
fn taken(shares: &Shares, owner: u64) -> Option<*mut u64> {
    if let Some(count) = shares.get_ptr_mut(owner) {
        return Some(count);
    }
    // If another CPU has inserted it in between, the insert fails and the entry exists anyway.
    let _ = shares.insert(owner, 0u64, u64::from(BPF_NOEXIST));
    shares.get_ptr_mut(owner)
}

/// Adds to a count; adding the largest number subtracts one.
#[inline(always)]
fn change(count: Option<*mut u64>, by: u64) {
    if let Some(count) = count {
        // SAFETY: the entry lives while the program runs, and is aligned.
        unsafe { add_u64(count, by) };
    }
}
