//! Rounds of a loop that calls a global function, counted in memory.
//!
//! Older kernels, 5.10 among them, accept a loop only if a jump closes it. With the counter in a
//! register the compiler may place the end of the body before its start, to which it then falls
//! through.

use core::ptr;

/// Rounds that have begun.
pub(crate) struct Rounds(u64);

impl Rounds {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(0)
    }

    /// Begins a round; returns its number, `None` after the last of `count`.
    #[inline(always)]
    pub(crate) fn next(&mut self, count: u64) -> Option<u64> {
        // SAFETY: the reference is valid.
        let round = unsafe { ptr::read_volatile(&raw const self.0) };
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut self.0, round + 1) };
        (round < count).then_some(round)
    }
}
