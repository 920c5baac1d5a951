//! History of limits: memory in use of the host, and of cgroups with shared memory, as floors over
//! every horizon.
//!
//! A process's growth says little if it does not bring its limit nearer, as with shared memory that
//! another process was charged for, or if the limit comes nearer for other reasons. Cold start: a
//! horizon is unknown until it is covered. Cgroups without a limit, without a count of what is
//! charged, or without shared memory are not recorded: they are not asked for.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        detector::{Context, is_gone},
        window::{BUCKETS, Horizons, Window},
    },
    headroom::Headroom,
};
use crate::sense::{HostFact, ProcessFact};

/// Shared memory from which a cgroup is recorded: counters are off by some pages a CPU.
const SHARED_BYTES_MIN: u64 = 2 << 20;

/// Memory in use of every limit that is recorded.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitHistory {
    host: Window,
    cgroups: HashMap<Arc<str>, Charged>,
}

/// Memory charged against a cgroup's limit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Charged {
    window: Window,
    #[serde(skip)]
    seen_scan: u32,
}

impl LimitHistory {
    /// Returns whether a history that was read from a file is one that can have been written.
    pub(super) fn is_sound(&self) -> bool {
        self.host.is_sound() && self.cgroups.values().all(|charged| charged.window.is_sound())
    }

    /// Takes a scan of the host, and forgets cgroups that the last scans did not show.
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

    /// Takes the state of a process's cgroup; the first process of a scan speaks for all.
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

    /// Rise of the memory in use of a limit over so many seconds, in KiB; `None` if unknown.
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
