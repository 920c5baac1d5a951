//! The C library's allocator: what is freed goes back to the kernel, so that a flood of processes
//! or connections does not leave the agent near the limit of its own unit.
//!
//! Failure: an option that the allocator refuses keeps its default. Other C libraries are left
//! alone.

use super::self_protection;

/// Size from which an allocation has pages of its own, which the kernel gets back as soon as it is
/// freed. The allocator raises its own threshold up to 32 MiB as such allocations are freed, and
/// then keeps them.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES: libc::c_int = 256 << 10;

/// Arenas. Each thread would get one of its own, and keep what a flood left there.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Sets the allocator up. To be called before threads start.
pub fn set_up() {
    // SAFETY: each takes two numbers and is called while there is only this thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}

/// Returns free memory to the kernel. It takes some milliseconds after a flood.
pub fn give_back() {
    // The kernel takes nothing back out of memory that is locked, and the allocator does not say
    // that it was refused.
    let _unlocked = self_protection::unlock_data();
    // SAFETY: it takes a number, may be called by any thread, and touches no memory in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
