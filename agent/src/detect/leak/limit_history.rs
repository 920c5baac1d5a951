//! How limits come nearer: what the host, and cgroups with shared memory, have in use, as floors
//! over every horizon.
//!
//! A process's growth says little where its limit hears nothing of it, as of shared memory that
//! another was charged for before, or where the limit comes nearer for other reasons. Cold start:
//! until a horizon is covered nothing is known on it. It refuses cgroups without a limit, without a
//! count of what is charged, and those none of whose processes hold shared memory: nobody asks.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        Context, is_gone,
        window::{BUCKETS, Horizons, Window},
    },
    claim::Headroom,
};
use crate::sense::{HostFact, ProcessFact};

/// Shared memory from which a cgroup is followed: counters are off by some pages a CPU.
const SHARED_BYTES_MIN: u64 = 2 << 20;

/// What is in use of every limit that is followed.
#[derive(Default)]
pub(super) struct LimitHistory {
    host: Window,
    cgroups: HashMap<Arc<str>, Charged>,
}

/// What is charged against a cgroup's limit.
struct Charged {
    window: Window,
    seen_scan: u32,
}

impl LimitHistory {
    /// Takes a scan of the host; cgroups that the last scans do not show are forgotten.
    pub(super) fn see_host(
        &mut self,
        context: &Context<'_>,
        now: f64,
        host: &HostFact,
        horizons: &Horizons,
    ) {
        let used_bytes = context.info.mem_total_bytes.saturating_sub(host.mem_available_bytes);
        self.host.observe(horizons, now, used_bytes);
        self.cgroups.retain(|_, charged| !is_gone(context, charged.seen_scan));
    }

    /// Takes what a process says of its cgroup; the first of a scan speaks for all.
    pub(super) fn see_cgroup(
        &mut self,
        context: &Context<'_>,
        now: f64,
        fact: &ProcessFact,
        horizons: &Horizons,
    ) {
        let Some(charged_bytes) =
            fact.memory_charged_bytes.filter(|_| fact.memory_max_bytes.is_some())
        else {
            return;
        };
        if fact.shmem_bytes < SHARED_BYTES_MIN {
            return;
        }
        let new = || Charged { window: Window::default(), seen_scan: context.scan.wrapping_sub(1) };
        let charged = self.cgroups.entry(fact.cgroup.clone()).or_insert_with(new);
        if charged.seen_scan != context.scan {
            charged.seen_scan = context.scan;
            charged.window.observe(horizons, now, charged_bytes);
        }
    }

    /// How much more of a limit is in use than so many seconds ago, in KiB; `None` where that is
    /// not known.
    pub(super) fn rose_kib(
        &self,
        headroom: &Headroom,
        cgroup: &str,
        secs: f64,
        horizons: &Horizons,
    ) -> Option<f64> {
        let window =
            if headroom.is_host() { &self.host } else { &self.cgroups.get(cgroup)?.window };
        let horizon = horizons.covering(secs);
        let back = (secs / horizons.bucket_secs(horizon)).round() as usize;
        window.rise_kib(horizon, back.min(BUCKETS - 1))
    }
}
