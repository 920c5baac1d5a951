//! Impact of growth: decides whether it is worth a claim. It must be enough of the headroom, bring
//! the limit nearer, and last longer than half a minute.

use super::{
    super::window::{BUCKETS, KIB},
    HorizonView, Stretch,
};

/// Growth as a share of the headroom above which it is worth a claim even if it is less than
/// `min_growth`.
pub(super) const HEADROOM_SHARE: f64 = 0.07;

/// Least growth that is ever worth a claim: counters are off by some pages a CPU.
const WORTH_MIN_BYTES: f64 = 2_097_152.0;

/// Processes of one workload that may leak together, each so little that only their sum is worth a
/// claim. A guess.
const POOL_MAX: f64 = 16.0;

/// Share of growth that must be charged against the limit if it may be shared memory: another
/// process may have been charged for it before.
const CHARGED_SHARE_MIN: f64 = 0.25;

/// Share of growth that shared memory must be able to account for, to require that.
const SHARED_SHARE_MIN: f64 = 0.5;

/// Growth as a share of the headroom that it began with above which the claim does not wait: 15 %
/// is past half of the way to a late warning.
const URGENT_SHARE: f64 = 0.15;

/// Time that other growth must have lasted, and the share of its rate: jobs often read something in
/// for half a minute, and a warning is due within a minute.
const LASTED_SECS: f64 = 48.0;
const LASTED_RATE_SHARE: f64 = 0.8;

/// Fewest buckets of the next longer horizon that show it.
const LASTED_BUCKETS_MIN: usize = 2;

impl HorizonView<'_> {
    /// Growth required of one process, alone or with others.
    pub(super) fn own_worth_kib(&self) -> f64 {
        (self.worth_kib() / POOL_MAX).max(WORTH_MIN_BYTES / KIB).min(self.worth_kib())
    }

    pub(super) fn worth_kib(&self) -> f64 {
        self.worth_of_kib(self.headroom_bytes)
    }

    fn worth_of_kib(&self, headroom_bytes: f64) -> f64 {
        let least = (headroom_bytes * HEADROOM_SHARE).max(WORTH_MIN_BYTES);
        least.min(self.config.min_growth_bytes as f64) / KIB
    }

    /// Returns whether growth may be of memory that other processes map, too.
    pub(super) fn is_of_shared_memory(&self, grown_kib: f64) -> bool {
        self.around.shmem_bytes() >= SHARED_SHARE_MIN * grown_kib * KIB
    }

    /// Returns whether growth over so many seconds, alone and with the workload's other processes,
    /// brings the limit nearer: it is worth a claim beside what others took of the headroom that
    /// there was, and it is not shared memory that is charged already.
    pub(super) fn nears_limit(&self, grown_kib: f64, together_kib: f64, secs: f64) -> bool {
        let Some(rose_kib) = self.around.limit_rose_kib(secs) else { return true };
        let others_took_bytes = (rose_kib - together_kib).max(0.0) * KIB;
        let shared =
            self.is_of_shared_memory(grown_kib) && rose_kib < CHARGED_SHARE_MIN * together_kib;
        together_kib >= self.worth_of_kib(self.headroom_bytes + others_took_bytes) && !shared
    }

    /// Returns whether growth over so few seconds has gone on for most of a minute, as far as the
    /// next longer horizon shows, or is urgent in a process that is known.
    pub(super) fn has_lasted(&self, stretch: &Stretch<'_>, grown_secs: f64) -> bool {
        let longer = self.horizon + 1;
        if grown_secs >= LASTED_SECS || longer >= self.horizons.count() {
            return true;
        }
        let bucket_secs = self.horizons.bucket_secs(longer);
        let back = ((LASTED_SECS / bucket_secs).round() as usize).min(BUCKETS - 1);
        let grown_bytes = stretch.grown_kib * KIB;
        let is_known = self.young || self.watched_secs >= self.config.warm_up.as_secs_f64();
        let least_bytes =
            LASTED_RATE_SHARE * stretch.slope_bytes_per_sec * back as f64 * bucket_secs;
        back < LASTED_BUCKETS_MIN
            || is_known && grown_bytes >= URGENT_SHARE * (self.headroom_bytes + grown_bytes)
            || self.window.rise_kib(longer, back).is_some_and(|kib| kib * KIB >= least_bytes)
    }
}
