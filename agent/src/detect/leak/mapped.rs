//! Memory that a process has mapped and not yet touched: growth into it is no leak.
//!
//! Huge pages that arrive, a pool or a heap that is touched for the first time: it cannot run out
//! before it maps more. A leak has to map first what it takes, so that the two are told apart by
//! how much of the growth was mapped as it came. A little is mapped all the time, so it counts by
//! steps of the highest use. Shared memory is mapped apart, and does not show in what is read: each
//! process that uses a pool touches it page by page, so that its growth has to come out of the
//! blue, or to go on for longer than pools take to fill. Cold start: nothing is known until a
//! process has grown by a step.

use serde::{Deserialize, Serialize};

use super::super::{
    growth::{Beginning, Growth},
    window::{KIB, to_kib},
};
use crate::sense::ProcessFact;

/// Share of growth without new mappings from which a process only touches what it had.
const TOUCHED_SHARE: f64 = 0.5;

/// Growth that is a step: this, or so much of the memory in use if that is more. Allocators map up
/// to 8 MiB at once.
const STEP_MIN_KIB: u32 = 8_192;
const STEP_SHARE: u32 = 128;

/// Time for which shared memory must have grown after a steady time, and otherwise. Guesses: a
/// large query touches a pool for a minute or two, a pool fills within two hours.
const SHARED_BROKE_OUT_SECS: f64 = 200.0;
const SHARED_UNSEEN_SECS: f64 = 7_000.0;

/// Memory mapped, and in use, in KiB.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mapped {
    /// Both when the last step ended, the highest use so far; 0 if unknown.
    mapped_kib: u32,
    used_kib: u32,
    /// Memory in use when a step that was mapped as it came last ended.
    used_when_mapped_kib: u32,
}

impl Mapped {
    /// Takes a process at one scan.
    pub(super) fn see(&mut self, fact: &ProcessFact) {
        let Some(mapped_bytes) = fact.mapped_bytes else { return };
        let (mapped_kib, used_kib) = (to_kib(mapped_bytes), to_kib(fact.private_bytes()));
        let is_first = self.mapped_kib == 0;
        let grown_kib = used_kib.saturating_sub(self.used_kib);
        if !is_first && grown_kib < STEP_MIN_KIB.max(used_kib / STEP_SHARE) {
            return;
        }
        let mapped_more_kib = f64::from(mapped_kib.saturating_sub(self.mapped_kib));
        if is_first || mapped_more_kib >= TOUCHED_SHARE * f64::from(grown_kib) {
            self.used_when_mapped_kib = used_kib;
        }
        (self.mapped_kib, self.used_kib) = (mapped_kib, used_kib);
    }

    /// Returns whether growth is into memory that was mapped before, of which less is left than to
    /// the limit. `shmem_bytes` of it may be shared.
    pub(super) fn touches_what_it_had(&self, growth: &Growth, shmem_bytes: f64) -> bool {
        let used_kib = f64::from(growth.peak_kib);
        let untouched_kib = f64::from(self.mapped_kib) - used_kib;
        let touches = self.mapped_kib > 0
            && used_kib - f64::from(self.used_when_mapped_kib)
                >= TOUCHED_SHARE * growth.grown_bytes / KIB
            && untouched_kib * KIB < growth.headroom_bytes;
        let least_secs = match growth.beginning {
            Beginning::BrokeOut { .. } => SHARED_BROKE_OUT_SECS,
            Beginning::Unseen => SHARED_UNSEEN_SECS,
        };
        let is_shared = shmem_bytes >= TOUCHED_SHARE * growth.grown_bytes;
        touches && !(is_shared && growth.grown_secs >= least_secs)
    }
}
