//! Whether growth brings the limit nearer, and whether it has gone on for long enough to say so.

use super::{HEADROOM_SHARE, KIB, Look, MINUTES_HORIZON_MIN, Stretch};

/// Share of growth that the limit must hear of where it may be shared memory: another process may have been charged for it before.
const CHARGED_SHARE_MIN: f64 = 0.25;

/// Share of growth that shared memory must be able to account for, to be held to that.
const SHARED_SHARE_MIN: f64 = 0.5;

/// Growth as a share of the headroom that it began with that is not waited on: 15 % is past half of the way to a late warning.
const URGENT_SHARE: f64 = 0.15;

/// Buckets of the next longer horizon over which other growth on the shortest must have lasted, and at which share of its pace. That
/// is 48 seconds: jobs often read something in for half a minute, and a warning is due within a minute.
const LASTED_BUCKETS: usize = 8;
const LASTED_PACE: f64 = 0.8;

impl Look<'_> {
    /// Whether growth over so many seconds, alone and with the workload's other processes, is what brings the limit nearer: worth a
    /// claim beside what else took of the headroom that there was, and no shared memory that is charged already.
    pub(super) fn nears_limit(&self, grown_kib: f64, together_kib: f64, secs: f64) -> bool {
        let Some(rose_kib) = self.around.limit_rose_kib(secs) else { return true };
        let others_took_bytes = (rose_kib - together_kib).max(0.0) * KIB;
        let began_with_bytes = self.headroom_bytes + others_took_bytes;
        let worth_bytes = (HEADROOM_SHARE * began_with_bytes).min(self.config.min_growth_bytes as f64);
        let shared = self.around.shmem_bytes() >= SHARED_SHARE_MIN * grown_kib * KIB
            && rose_kib < CHARGED_SHARE_MIN * together_kib;
        together_kib * KIB >= worth_bytes && !shared
    }

    /// Whether growth that only the shortest horizon shows has gone on for most of a minute, unless the limit is near.
    pub(super) fn has_lasted(&self, stretch: &Stretch<'_>) -> bool {
        let longer = self.horizon + 1;
        if longer >= self.horizons.count().min(MINUTES_HORIZON_MIN) {
            return true;
        }
        let grown_bytes = stretch.grown_kib * KIB;
        let lasted_secs = LASTED_BUCKETS as f64 * self.horizons.bucket_secs(longer);
        let least_bytes = LASTED_PACE * stretch.slope_bytes_per_sec * lasted_secs;
        grown_bytes >= URGENT_SHARE * (self.headroom_bytes + grown_bytes)
            || self.window.rise_kib(longer, LASTED_BUCKETS).is_some_and(|kib| kib * KIB >= least_bytes)
    }
}
