//! Leak detector: finds workloads that grow steadily, without slowing down, towards a limit that is
//! near enough to be reported.
//!
//! The host's total says nothing: it moves for good reasons all day. One process's floor does not.
//! A claim takes growth that passes every test of [`super::growth`] on some horizon, and a forecast
//! that does not reach further than the observed growth supports. It is raised once for a workload,
//! whichever of its processes leak, and stays open until they stop, give memory back, or are gone
//! and not replaced: a leak survives a restart, and a restart must not page twice. Cold start: the
//! first `warm_up` of a process that starts under watch is not judged; then one horizon must pass.
//! Page cache and file mappings do not count (they are reclaimed), and nothing is claimed without a
//! headroom to forecast against.

mod cgroups;
mod headroom;
mod limit_history;
mod lives;
mod mapped;
mod open_leaks;
mod peers;
mod process;
mod process_scan;
mod saved;
mod tracking;
mod verdict;
mod workload;

use std::collections::{HashMap, hash_map::Entry};

pub use self::process::PROCESS_STATE_BYTES;
use self::{
    cgroups::{CgroupLeaks, CgroupScan},
    headroom::Headroom,
    limit_history::LimitHistory,
    lives::Lives,
    open_leaks::OpenLeaks,
    peers::Peers,
    process::{Leak, Process, loading_secs},
    process_scan::ProcessScan,
    tracking::Tracking,
    workload::Members,
};
use super::{
    confidence::Rule,
    detector::{Context, Detector, DetectorSize, Findings, SavedError, is_gone},
    growth::{Growth, due},
    window::{BUCKETS, Horizons, Newest, to_kib},
};
use crate::{
    config::{DetectConfig, LeakConfig},
    sense::{Fact, ProcessFact, ProcessId, ProcessResourcesFact},
    spare_room,
};

/// Maximum number of processes watched. At 512 bytes each that is 32 MiB; twice the kernel's
/// default pid_max.
const PROCESSES_MAX: usize = 65_536;

/// Gap between two scans above which the host is taken to have slept, and its processes with it:
/// several times the longest interval that can be configured.
const ASLEEP_SECS_MIN: f64 = 300.0;

/// Finds workloads that grow without end.
pub(super) struct LeakDetector {
    config: LeakConfig,
    horizons: Horizons,
    /// By pid, so that a reused pid meets the process that it replaces.
    processes: HashMap<u32, Process>,
    open: OpenLeaks,
    members: Members,
    limits: LimitHistory,
    lives: Lives,
    cgroups: CgroupLeaks,
    clock: WatchedTime,
    /// First scan seen: a process that only a later one shows has just started.
    first_scan: Option<u32>,
    untracked_total: u64,
}

/// Time in which processes were watched.
#[derive(Debug, Clone, Copy, Default)]
struct WatchedTime {
    last_scan_t: Option<f64>,
    asleep_secs: f64,
}

impl WatchedTime {
    /// Takes the beginning of a scan. The time since the last was slept through if it is too long
    /// for a stall.
    fn scan(&mut self, t: f64) {
        let passed_secs = self.last_scan_t.replace(t).map_or(0.0, |last_t| t - last_t);
        if passed_secs > ASLEEP_SECS_MIN {
            self.asleep_secs += passed_secs;
        }
    }

    fn now(&self, t: f64) -> f64 {
        t - self.asleep_secs
    }
}

impl LeakDetector {
    /// Creates a detector that watches no process yet.
    pub(super) fn new(config: &LeakConfig) -> Self {
        Self {
            config: config.clone(),
            horizons: Horizons::new(&config.horizons),
            processes: HashMap::new(),
            open: OpenLeaks::default(),
            members: Members::default(),
            limits: LimitHistory::default(),
            lives: Lives::default(),
            cgroups: CgroupLeaks::default(),
            clock: WatchedTime::default(),
            first_scan: None,
            untracked_total: 0,
        }
    }

    /// Leaks of cgroups, and the scan by which they are judged.
    fn cgroups<'a>(
        &'a mut self,
        context: &'a Context<'a>,
    ) -> (&'a mut CgroupLeaks, CgroupScan<'a>) {
        let scan = CgroupScan {
            context,
            now: self.clock.now(context.t),
            is_first: self.first_scan.is_none_or(|first| context.scan <= first),
            config: &self.config,
            horizons: &self.horizons,
        };
        (&mut self.cgroups, scan)
    }

    fn process(&mut self, context: &Context<'_>, fact: &ProcessFact, findings: &mut Findings) {
        let (cgroups, scan) = self.cgroups(context);
        cgroups.see_process(&scan, fact);
        let first = self.first_scan.unwrap_or(context.scan);
        let loading_secs = (context.scan > first).then(|| loading_secs(&self.config));
        let now = self.clock.now(context.t);
        let is_full = self.processes.len() >= PROCESSES_MAX;
        self.limits.see_cgroup(context, now, fact, &self.horizons);
        let members = &mut self.members;
        let process = match self.processes.entry(fact.id.pid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return;
            }
            Entry::Vacant(entry) => {
                entry.insert(Process::new(fact, now, context.scan, loading_secs, members))
            }
        };
        if process.start_ticks != fact.id.start_ticks {
            self.open.leave(context, process, "its pid now belongs to another process");
            self.lives.end(process, fact.id.pid, now, &self.horizons);
            members.leave(&process.workload, fact.id.pid);
            *process = Process::new(fact, now, context.scan, loading_secs, members);
        }
        if process.is_loading(now)
            && let Some(secs) = self.lives.short_loading_secs(process)
        {
            process.shorten_loading(now, self::loading_secs(&self.config), secs);
        }
        let workload = process.leak.is_some().then(|| process.workload.clone());
        let closed = process.see(fact, now, context.scan, &self.horizons, members);
        // What processes share each of them shows.
        let loaded_kib = process.private_from_kib.min(to_kib(fact.anon_bytes));
        self.cgroups.see_loaded(&fact.cgroup, loaded_kib);
        if let Some(workload) = workload {
            self.open.follow(context, fact.id, &workload, process);
        }
        self.open.inherit(process);
        if self.open.is_held_over(process) {
            let headroom = Headroom::of(context, fact, process.window.peak_kib());
            let scan = ProcessScan { context, fact, now, headroom };
            self.open.hold_over(&scan, process, findings);
        }
        self.lives.see(fact, now);
        if closed.horizons == 0 && !closed.trough {
            return;
        }
        let headroom = Headroom::of(context, fact, process.window.peak_kib());
        let scan = ProcessScan { context, fact, now, headroom };
        for view in due(closed.horizons, self.horizons.count()) {
            self.on_bucket(&scan, view, findings);
        }
        if closed.trough {
            self.on_trough(&scan, findings);
        }
        self.on_life(&scan, findings);
    }

    /// Judges a process by the lives of its workload that ended at the limit.
    fn on_life(&mut self, scan: &ProcessScan<'_>, findings: &mut Findings) -> Option<()> {
        let ProcessScan { context, fact, now, headroom } = scan;
        let process = self.processes.get(&fact.id.pid).filter(|one| one.leak.is_none())?;
        let again = self.lives.again(process, fact, *now, headroom.bytes, &self.horizons)?;
        let (growth, mut why) = (again.growth, again.why);
        let confidence = growth.confidence();
        let confidence = context.sensor_health.weigh(Rule::Leak, context.t, confidence, &mut why);
        self.open.raise(scan, process, &growth, confidence, why, findings);
        self.open.expect_restart(&process.workload);
        let horizon = self.horizons.covering(again.lived_secs);
        let process = self.processes.get_mut(&fact.id.pid)?;
        process.leak = Some(Box::new(Leak::new(&growth, horizon, confidence)));
        Some(())
    }

    /// Judges a process by a horizon of which a bucket has closed, or is judged while it fills.
    fn on_bucket(
        &mut self,
        scan: &ProcessScan<'_>,
        (horizon, newest): (usize, Newest),
        findings: &mut Findings,
    ) -> Option<()> {
        let process = self.processes.get(&scan.fact.id.pid)?;
        match process.leak.as_deref().copied() {
            None => {
                let peers = self.peers(scan);
                let view = (horizon, newest);
                let growth = process.judge(scan.now, view, &self.config, &self.horizons, &peers)?;
                // A pause between two steps must not clear the claim.
                let longest = self.horizons.count() - 1;
                let follows = (horizon + usize::from(growth.in_steps)).min(longest);
                self.raise(scan, follows, &growth, findings);
            }
            Some(_) if newest == Newest::Open => {}
            Some(leak) if usize::from(leak.horizon) == horizon => {
                let process = self.processes.get_mut(&scan.fact.id.pid)?;
                let tracking = process.follow(leak, scan.now, &self.horizons);
                self.on_tracking(scan, &leak, tracking, findings);
            }
            Some(leak) if usize::from(leak.horizon) > horizon => {
                let slope =
                    process.quickened(&leak, scan.now, horizon, &self.config, &self.horizons)?;
                self.open.forecast(scan, process, &leak, slope, findings);
            }
            Some(_) => {}
        }
        Some(())
    }

    /// Judges a process by the low points of its sawtooth, of which one was completed.
    fn on_trough(&mut self, scan: &ProcessScan<'_>, findings: &mut Findings) -> Option<()> {
        let process = self.processes.get(&scan.fact.id.pid)?;
        match process.leak.as_deref().copied() {
            None => {
                let peers = self.peers(scan);
                let growth =
                    process.judge_troughs(scan.now, &self.config, &self.horizons, &peers)?;
                // Once the sawtooth ends, the leak is followed on the horizon with buckets as long
                // as a tooth was.
                let tooth_secs = growth.grown_secs / (growth.points - 1) as f64;
                let horizon = self.horizons.covering(tooth_secs * BUCKETS as f64);
                self.raise(scan, horizon, &growth, findings);
            }
            Some(leak) => {
                let process = self.processes.get_mut(&scan.fact.id.pid)?;
                let tracking = process.follow_troughs(leak, scan.now, &self.horizons);
                self.on_tracking(scan, &leak, tracking, findings);
            }
        }
        Some(())
    }

    fn peers<'a>(&'a self, scan: &'a ProcessScan<'a>) -> Peers<'a> {
        let Self { processes, members, limits, horizons, .. } = self;
        Peers { scan, processes, members, limits, horizons }
    }

    /// Raises a claim for a process that was found to leak.
    fn raise(
        &mut self,
        scan: &ProcessScan<'_>,
        horizon: usize,
        growth: &Growth,
        findings: &mut Findings,
    ) {
        let ProcessScan { context, fact, now, headroom } = scan;
        let Some(process) = self.processes.get_mut(&fact.id.pid) else { return };
        let mut why = verdict::evidence(process, *now, fact, growth, headroom);
        let confidence = growth.confidence();
        let confidence = context.sensor_health.weigh(Rule::Leak, context.t, confidence, &mut why);
        self.open.raise(scan, process, growth, confidence, why, findings);
        process.leak = Some(Box::new(Leak::new(growth, horizon, confidence)));
    }

    /// Reports the state of an open leak.
    fn on_tracking(
        &mut self,
        scan: &ProcessScan<'_>,
        leak: &Leak,
        tracking: Tracking,
        findings: &mut Findings,
    ) {
        let Some(process) = self.processes.get_mut(&scan.fact.id.pid) else { return };
        match tracking {
            Tracking::Over(because) => {
                process.end_leak();
                self.open.clear(scan.context, process, leak, &because, findings);
            }
            Tracking::Grows(slope) => self.open.forecast(scan, process, leak, slope, findings),
            Tracking::Pauses => {}
        }
    }

    fn count(&mut self, context: &Context<'_>, fact: &ProcessResourcesFact) {
        if let Some(process) =
            self.processes.get_mut(&fact.id.pid).filter(|p| p.start_ticks == fact.id.start_ticks)
        {
            process.count(fact, self.clock.now(context.t), &self.horizons);
            self.cgroups.count(&process.workload.cgroup, fact);
        }
    }

    fn restart(&mut self, context: &Context<'_>, id: ProcessId) {
        let Some(process) =
            self.processes.get_mut(&id.pid).filter(|p| p.start_ticks == id.start_ticks)
        else {
            return;
        };
        self.open.leave(context, process, "it executed another program");
        self.lives.forget(id.pid);
        process.begin_anew(self.clock.now(context.t), loading_secs(&self.config));
    }

    fn forget(&mut self, context: &Context<'_>, id: ProcessId) {
        let Entry::Occupied(mut entry) = self.processes.entry(id.pid) else { return };
        if entry.get().start_ticks == id.start_ticks {
            self.open.leave(context, entry.get_mut(), "it exited");
            let process = entry.remove();
            if !self.lives.is_near(id.pid) {
                self.members.end(&process.workload, process.window.peak_kib() as u32);
            }
            self.lives.end(&process, id.pid, self.clock.now(context.t), &self.horizons);
            self.members.leave(&process.workload, id.pid);
        }
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let (open, members) = (&mut self.open, &mut self.members);
        let (lives, horizons, now) = (&mut self.lives, &self.horizons, self.clock.now(context.t));
        self.processes.retain(|pid, process| {
            let is_gone = is_gone(context, process.seen_scan);
            if is_gone {
                open.leave(context, process, "it disappeared from the last scans");
                lives.end(process, *pid, now, horizons);
                members.leave(&process.workload, *pid);
            }
            !is_gone
        });
        spare_room::of_map(&mut self.processes);
        open.expire(context, findings);
    }
}

impl Detector for LeakDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(host) => {
                if let Some(last_t) = self.clock.last_scan_t {
                    // The scan that ends here, not the one that begins.
                    let now = self.clock.now(last_t);
                    let (cgroups, scan) = self.cgroups(context);
                    cgroups.end_scan(&CgroupScan { now, ..scan }, findings);
                }
                self.clock.scan(context.t);
                self.limits.see_host(context, self.clock.now(context.t), host, &self.horizons);
                self.first_scan.get_or_insert(context.scan);
                self.prune(context, findings);
            }
            Fact::Process(fact) => self.process(context, fact, findings),
            Fact::Cgroup(fact) => {
                let (cgroups, scan) = self.cgroups(context);
                cgroups.see_charge(&scan, fact);
            }
            Fact::Handles(fact) => self.count(context, fact),
            Fact::Exec(id) => self.restart(context, *id),
            Fact::Exit(id) => self.forget(context, *id),
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        DetectorSize {
            processes: self.processes.len(),
            leaks_raised: self.open.len() + self.cgroups.len(),
            untracked_total: self.untracked_total.saturating_add(self.cgroups.untracked_total()),
            ..DetectorSize::default()
        }
    }

    fn save(&self, t: f64, into: &mut Vec<u8>) -> Result<(), SavedError> {
        self.save_windows(t, into)
    }

    fn restore(&mut self, t: f64, gap_secs: f64, from: &mut &[u8]) -> Result<(), SavedError> {
        self.restore_windows(t, gap_secs, from)
    }

    /// Takes other thresholds. The windows keep the horizons that they began with.
    fn reload(&mut self, config: &DetectConfig) {
        self.config.clone_from(&config.leak);
    }
}

#[cfg(test)]
mod births_tests;
#[cfg(test)]
mod cgroup_tests;
#[cfg(test)]
mod interval_tests;
#[cfg(test)]
mod lives_tests;
#[cfg(test)]
mod saved_tests;
#[cfg(test)]
mod sawtooth_tests;
#[cfg(test)]
mod tests;
