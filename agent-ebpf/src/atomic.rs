//! Counting that several CPUs do at once.

use core::arch::asm;

/// Adds atomically. The target has the instruction and `core` no function for it, because it lacks
/// compare-and-swap; kernels before 5.12 know no more either.
///
/// # Safety
///
/// `to` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_u64(to: *mut u64, value: u64) {
    // SAFETY: the instruction adds to what the caller says is valid.
    unsafe {
        asm!("lock *(u64 *)({to} + 0) += {value}", to = in(reg) to, value = in(reg) value, options(nostack))
    };
}

/// As [`add_u64`].
///
/// # Safety
///
/// `to` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_u32(to: *mut u32, value: u32) {
    // SAFETY: the instruction adds to what the caller says is valid.
    unsafe {
        asm!("lock *(u32 *)({to} + 0) += {value}", to = in(reg) to, value = in(reg) u64::from(value), options(nostack))
    };
}
