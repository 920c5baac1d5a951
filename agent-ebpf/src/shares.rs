//! Shares of a map's room, so that no user and no network namespace can take all of it.
//!
//! A quarter is for each user from uid 1000 on, and for each network namespace but the initial one
//! in what belongs to other users there, such as root in a container. Together they get three
//! quarters: the last one is for the system's own. What has no share left is counted, and read in
//! another way where there is one.
//!
//! - Cost: nothing for the system's own; two lookups for others, at what comes and at what goes.
//! - Two CPUs may both take the last place: a share is exceeded by as many entries as there are
//!   CPUs at most. The reader sets the counts right at its next pass, and removes those that are
//!   zero.

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_NOEXIST, maps::HashMap};
use spillway_ebpf::{ABSENT, SHARE_OF_ALL, share_of};

use crate::{
    atomic::add_u64,
    kernel_read::{Helper, Reading, offset},
};

/// Entries taken, by whose they are.
pub(crate) type Shares = HashMap<u64, u64>;

/// Whose a socket is; 0 is the system.
#[inline(always)]
pub(crate) fn owner_of(sock: *const c_void) -> u64 {
    let net = Helper::pointer(sock, offset!(sock_net));
    let netns = net.and_then(|net| Helper::read(net, offset!(net_inum))).unwrap_or(0);
    owner_in::<Helper>(sock, netns)
}

/// As [`owner_of`], of a socket in this network namespace.
#[inline(always)]
pub(crate) fn owner_in<R: Reading>(sock: *const c_void, netns: u32) -> u64 {
    let uid = if offset!(sock_uid) == ABSENT as usize {
        0
    } else {
        R::read(sock, offset!(sock_uid)).unwrap_or(0)
    };
    share_of(uid, netns, offset!(init_netns) as u32)
}

/// Takes a place in a map with so much room; `false` if the owner's share, or that of all of them,
/// is used up.
#[inline(always)]
pub(crate) fn take(shares: &Shares, room: u32, owner: u64) -> bool {
    let quarter = i64::from(room / 4);
    owner == 0 || {
        let (own, all) = (taken(shares, owner), taken(shares, SHARE_OF_ALL));
        // Without a count there is no room for one: then all of them together are bounded.
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

/// Gives a place back.
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
    // Another CPU may have inserted it in between: then the insert fails and the entry is there all
    // the same.
    let _ = shares.insert(owner, 0u64, u64::from(BPF_NOEXIST));
    shares.get_ptr_mut(owner)
}

/// Adds; the largest number takes one away.
#[inline(always)]
fn change(count: Option<*mut u64>, by: u64) {
    if let Some(count) = count {
        // SAFETY: the entry lives while the program runs, and is aligned.
        unsafe { add_u64(count, by) };
    }
}
