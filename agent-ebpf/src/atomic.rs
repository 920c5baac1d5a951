//! Atomic additions, for counters that several CPUs update.

use core::arch::asm;

/// Adds atomically. The target has the instruction, but `core` has no function for it because the
/// target lacks compare-and-swap, as kernels before 5.12 do.
///
/// # Safety
///
/// `to` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_u64(to: *mut u64, value: u64) {
    // SAFETY: the caller guarantees that the pointer is valid and aligned.
    unsafe {
        asm!(
            "lock *(u64 *)({to} + 0) += {value}",
            to = in(reg) to,
            value = in(reg) value,
            options(nostack)
        )
    };
}

/// Adds atomically, as [`add_u64`] does.
///
/// # Safety
///
/// `to` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn add_u32(to: *mut u32, value: u32) {
    // SAFETY: the caller guarantees that the pointer is valid and aligned.
    unsafe {
        asm!(
            "lock *(u32 *)({to} + 0) += {value}",
            to = in(reg) to,
            value = in(reg) u64::from(value),
            options(nostack)
        )
    };
}
