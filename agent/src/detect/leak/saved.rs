//! Windows of an earlier run: what the detector writes down, and takes over after a restart.
//!
//! The form is CBOR of the structs themselves, with the names of their fields. A field that was
//! added, removed or renamed since makes reading fail, and so do other horizons: then the detector
//! begins anew. Watched time goes on where it stood, and the gap with it; buckets of the gap are
//! missing. Processes that ended meanwhile are gone after the first scans, as any that are not
//! seen.

use std::collections::{BTreeMap, HashMap};

use ciborium::{de::from_reader, ser::into_writer};
use serde::{Deserialize, Serialize};

use super::{
    super::window::Horizons,
    LeakDetector, PROCESSES_MAX, WatchedTime,
    cgroups::{CgroupLeaks, SavedCgroups, SavedCgroupsRef},
    limit_history::LimitHistory,
    lives::Lives,
    open_leaks::{OpenLeaks, SavedLeak},
    process::Process,
    workload::{Members, Workload},
};
use crate::detect::detector::SavedError;

/// Maximum number of processes that are saved. At some 1,200 bytes each they take 10 MB. Of more,
/// those that leak and then the largest are saved.
pub(super) const SAVED_MAX: usize = 8_192;

/// Largest time that makes sense, in seconds: three hundred years.
const SECS_MAX: f64 = 1e10;

/// Windows as they are written.
#[derive(Serialize)]
struct SavedRef<'a> {
    horizons: &'a Horizons,
    now: f64,
    processes: Vec<(u32, &'a Process)>,
    is_complete: bool,
    open: Vec<SavedLeak>,
    ended: Vec<(&'a Workload, [u32; 2])>,
    limits: &'a LimitHistory,
    lives: &'a Lives,
    cgroups: SavedCgroupsRef<'a>,
}

/// Windows as they are read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    horizons: Horizons,
    /// Watched time at which they were saved.
    now: f64,
    processes: Vec<(u32, Process)>,
    /// Set if these are all processes that were watched.
    is_complete: bool,
    open: Vec<SavedLeak>,
    /// Pools, and the sizes at which their last processes ended by themselves.
    ended: Vec<(Workload, [u32; 2])>,
    limits: LimitHistory,
    lives: Lives,
    cgroups: SavedCgroups,
}

impl LeakDetector {
    pub(super) fn save_windows(&self, t: f64, into: &mut Vec<u8>) -> Result<(), SavedError> {
        let mut processes: Vec<_> =
            self.processes.iter().map(|(pid, process)| (*pid, process)).collect();
        let is_complete = processes.len() <= SAVED_MAX && self.untracked_total == 0;
        if processes.len() > SAVED_MAX {
            let order = |process: &Process| {
                (process.leak.is_none(), std::cmp::Reverse(process.window.peak_kib() as u64))
            };
            processes.select_nth_unstable_by_key(SAVED_MAX, |(_, process)| order(process));
            processes.truncate(SAVED_MAX);
        }
        let saved = SavedRef {
            horizons: &self.horizons,
            now: self.clock.now(t),
            processes,
            is_complete,
            open: self.open.saved(),
            ended: self.members.ended(),
            limits: &self.limits,
            lives: &self.lives,
            cgroups: self.cgroups.saved(),
        };
        into_writer(&saved, into).map_err(SavedError::new)
    }

    pub(super) fn restore_windows(
        &mut self,
        t: f64,
        gap_secs: f64,
        from: &mut &[u8],
    ) -> Result<(), SavedError> {
        let saved: Saved = from_reader(from).map_err(SavedError::new)?;
        if saved.horizons != self.horizons {
            return Err(SavedError::new("detect.leak.horizons were others"));
        }
        let is_sound = |process: &Process| {
            process.origin_t.abs() <= SECS_MAX && process.is_sound(&self.horizons)
        };
        if saved.now.is_nan()
            || saved.now.abs() > SECS_MAX
            || saved.processes.len() > PROCESSES_MAX
            || !saved.limits.is_sound()
            || !saved.cgroups.is_sound(&self.horizons)
            || !saved.processes.iter().all(|(_, process)| is_sound(process))
        {
            return Err(SavedError::new("a value makes no sense"));
        }
        self.clock = WatchedTime { last_scan_t: None, asleep_secs: t - (saved.now + gap_secs) };
        self.members = Members::default();
        self.processes = HashMap::with_capacity(saved.processes.len());
        let mut leaking = BTreeMap::new();
        for (pid, mut process) in saved.processes {
            process.forget_faults();
            self.members.join_again(pid, &mut process.workload);
            if process.leak.is_some() {
                *leaking.entry(process.workload.clone()).or_insert(0) += 1;
            }
            self.processes.insert(pid, process);
        }
        self.members.end_again(saved.ended);
        self.open = OpenLeaks::restore(saved.open, &leaking, t);
        (self.limits, self.lives) = (saved.limits, saved.lives);
        self.cgroups = CgroupLeaks::restore(saved.cgroups);
        // A process that is not among them has started since, unless some were left out.
        self.first_scan = saved.is_complete.then_some(0);
        Ok(())
    }
}
