//! Headroom: memory left to the nearest limit.

use std::fmt;

use crate::{
    detect::{Context, leak_claim::Bound, window::KIB},
    sense::ProcessFact,
    units::Size,
};

/// Share of the memory left that a process's own peaks cannot take, since it may have changed its
/// behaviour. A guess.
const BESIDE_PEAKS_MIN: f64 = 0.1;

/// Owner of the nearest limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemoryLimit {
    Cgroup,
    Host,
}

/// Memory left to the nearest limit.
pub(super) struct Headroom {
    pub(super) bytes: f64,
    limit: MemoryLimit,
    /// Whether the process's own peaks, should they recur, take a good part of what is left now.
    beside_peaks: bool,
}

impl Headroom {
    /// Owner of the nearest limit, as a claim reports it.
    pub(super) fn bound(&self) -> Bound {
        match self.limit {
            MemoryLimit::Cgroup => Bound::Own,
            MemoryLimit::Host => Bound::Host,
        }
    }

    /// Computes the bytes to the nearest limit, which all of a cgroup's processes share. Swapped
    /// memory is not charged to memory.max; file pages are, but are reclaimed first. Before the
    /// first scan of the host all of its memory counts as available except what the process holds.
    /// Memory runs out at a peak, so the excess of the process's recent peak over its present size
    /// is not left.
    pub(super) fn of(context: &Context<'_>, fact: &ProcessFact, peak_kib: f64) -> Self {
        let available = context.host.map_or_else(
            || context.info.mem_total_bytes.saturating_sub(fact.private_bytes()),
            |host| host.mem_available_bytes,
        );
        let charged = fact
            .memory_charged_bytes
            .unwrap_or_else(|| fact.anon_bytes.saturating_add(fact.shmem_bytes));
        let (left, limit) = match fact.memory_max_bytes.map(|max| max.saturating_sub(charged)) {
            Some(left) if left < available => (left as f64, MemoryLimit::Cgroup),
            _ => (available as f64, MemoryLimit::Host),
        };
        let recurring = (peak_kib * KIB - fact.private_bytes() as f64).max(0.0);
        let bytes = (left - recurring).max(BESIDE_PEAKS_MIN * left);
        Self { bytes, limit, beside_peaks: bytes < (1.0 - BESIDE_PEAKS_MIN) * left }
    }

    /// Computes the bytes to the nearest limit of a cgroup, with `left_bytes` to the nearest one
    /// above it, if there is one.
    pub(super) fn of_cgroup(context: &Context<'_>, left_bytes: Option<f64>) -> Self {
        let available =
            context.host.map_or(context.info.mem_total_bytes, |host| host.mem_available_bytes)
                as f64;
        let (bytes, limit) = match left_bytes {
            Some(left) if left < available => (left, MemoryLimit::Cgroup),
            _ => (available, MemoryLimit::Host),
        };
        Self { bytes, limit, beside_peaks: false }
    }

    /// Whether the host's memory runs out first.
    pub(super) fn is_host(&self) -> bool {
        self.limit == MemoryLimit::Host
    }
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = if self.beside_peaks { " beside its own peaks" } else { "" };
        let limit = match self.limit {
            MemoryLimit::Cgroup => "left below its cgroup's memory.max",
            MemoryLimit::Host => "available on the host",
        };
        write!(f, "{} {limit}{beside}", Size(self.bytes))
    }
}
